"""Metrics against scikit-learn and against definitions written out, with ties, empty classes and one item."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score

from trainer.metrics import (
    accuracy,
    average_precision,
    class_average_precisions,
    mean_average_precision,
)
from trainer.ranking import rank

CASES = range(40)


def scores_and_targets(case: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Some with many ties, some with one item or one class."""
    random = np.random.default_rng(case)
    items, classes = int(random.integers(1, 40)), int(random.integers(1, 8))
    scores = random.standard_normal((items, classes))
    if case % 2:
        scores = scores.round()
    return scores, random.random((items, classes)) < random.random()


@pytest.mark.parametrize("case", CASES)
def test_average_precision_is_that_of_scikit_learn_ties_and_all(case: int) -> None:
    scores, targets = scores_and_targets(case)
    for column, truth in zip(scores.T, targets.T, strict=True):
        ours = average_precision(column, truth)
        if truth.any():
            assert ours == pytest.approx(average_precision_score(truth, column), abs=1e-12)
        else:
            assert math.isnan(ours)


@pytest.mark.parametrize("case", CASES)
def test_macro_map_is_that_of_scikit_learn_over_the_classes_that_have_positives(case: int) -> None:
    scores, targets = scores_and_targets(case)
    present = targets.any(axis=0)
    ours = mean_average_precision(scores, targets)
    if not present.any():
        assert math.isnan(ours)
        return
    theirs = average_precision_score(targets[:, present], scores[:, present], average="macro")
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_average_precision_does_not_depend_on_the_order_of_items() -> None:
    scores, targets = scores_and_targets(7)
    order = np.random.default_rng(0).permutation(len(scores))
    np.testing.assert_array_equal(
        class_average_precisions(scores, targets), class_average_precisions(scores[order], targets[order])
    )


@pytest.mark.parametrize("case", CASES)
def test_accuracy_is_that_of_the_first_best_class(case: int) -> None:
    scores, _ = scores_and_targets(case)
    classes = np.random.default_rng(case).integers(0, scores.shape[1], len(scores))
    first_best = [max(range(len(row)), key=lambda k, row=row: (row[k], -k)) for row in scores.tolist()]
    assert accuracy(scores, classes) == pytest.approx(accuracy_score(classes, first_best))


def test_nothing_scored_has_no_accuracy() -> None:
    assert math.isnan(accuracy(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)))


def test_scores_that_are_no_numbers_are_refused_by_row() -> None:
    scores = np.zeros((4, 2))
    scores[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2 of the scores"):
        accuracy(scores, np.zeros(4, dtype=np.int64))


# -- retrieval


def retrieval_case(case: int) -> tuple[NDArray[np.float32], ...]:
    """Small whole numbers as vectors: dot products are exact and often equal."""
    random = np.random.default_rng(case)
    queries, items = int(random.integers(1, 12)), int(random.integers(1, 30))
    ids = int(random.integers(1, 9))
    return (
        random.integers(-2, 3, (queries, 3)).astype(np.float32),
        random.integers(-2, 3, (items, 3)).astype(np.float32),
        random.integers(0, ids, queries),
        random.integers(0, ids, items),
    )


def by_hand(scores: list[float], relevant: list[bool]) -> list[int]:
    """Ranks of the relevant items, equal scores in the order of the items."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return [place for place, item in enumerate(order, start=1) if relevant[item]]


@pytest.mark.parametrize("chunk_scores", [1, 50, 10**6])
@pytest.mark.parametrize("case", CASES)
def test_retrieval_is_what_the_definitions_say(case: int, chunk_scores: int) -> None:
    queries, items, query_ids, item_ids = retrieval_case(case)
    ranking = rank(queries, items, query_ids, item_ids, ks=(1, 5), chunk_scores=chunk_scores)
    for row in range(len(queries)):
        ranks = by_hand((queries[row] @ items.T).tolist(), (item_ids == query_ids[row]).tolist())
        assert ranking.relevant[row] == len(ranks)
        assert ranking.first[row] == (ranks[0] if ranks else 0)
        assert ranking.found[5][row] == sum(place <= 5 for place in ranks)
        if ranks:
            expected = sum(n / place for n, place in enumerate(ranks, start=1)) / len(ranks)
            assert ranking.average_precision[row] == pytest.approx(expected)
        else:
            assert math.isnan(ranking.average_precision[row])


@pytest.mark.parametrize("case", CASES)
def test_without_ties_a_querys_average_precision_is_that_of_scikit_learn(case: int) -> None:
    random = np.random.default_rng(case)
    items = random.standard_normal((30, 8)).astype(np.float32)
    query = random.standard_normal((1, 8)).astype(np.float32)
    ids = random.integers(0, 4, 30)
    ids[0] = 0
    ranking = rank(query, items, np.zeros(1, dtype=np.int64), ids)
    assert ranking.average_precision[0] == pytest.approx(
        average_precision_score(ids == 0, (query @ items.T)[0])
    )


def test_precision_recall_and_hits_have_their_own_denominators() -> None:
    items = np.array([[4.0], [3.0], [2.0], [1.0]], dtype=np.float32)
    ranking = rank(
        np.ones((1, 1), dtype=np.float32), items, np.array([7]), np.array([0, 7, 7, 7]), ks=(1, 2, 10)
    )
    assert (ranking.precision(1)[0], ranking.recall(1)[0], ranking.hit(1)[0]) == (0, 0, 0)
    assert (ranking.precision(2)[0], ranking.recall(2)[0], ranking.hit(2)[0]) == (1 / 2, 1 / 3, 1)
    assert (ranking.precision(10)[0], ranking.recall(10)[0]) == (3 / 10, 1)
    assert ranking.reciprocal_rank()[0] == 1 / 2


def test_queries_that_nothing_is_relevant_to_are_told_apart() -> None:
    items = np.eye(3, dtype=np.float32)
    ranking = rank(items, items, np.array([0, 1, 9]), np.array([0, 1, 2]))
    assert len(ranking) == 3
    assert len(ranking.answerable()) == 2
    assert ranking.answerable().first.tolist() == [1, 1]


def test_a_model_that_gives_one_vector_to_everything_ranks_in_the_order_of_items() -> None:
    same = np.ones((5, 4), dtype=np.float32)
    ranking = rank(same, same, np.arange(5), np.arange(5))
    assert ranking.first.tolist() == [1, 2, 3, 4, 5]
