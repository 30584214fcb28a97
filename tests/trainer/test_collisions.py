"""Floors against what an optimiser finds that may choose any logits, with equal columns for equal texts."""

import math

import pytest
import torch
from tiny_learner import PAIRS
from torch import Tensor

from trainer.batch import Batch
from trainer.collisions import loss_floor
from trainer.objectives import Classification, Pairwise, Sigmoid
from trainer.objectives.pairwise import symmetric_cross_entropy
from trainer.objectives.targets import left_out, matches
from trainer.stage import Objective

LABELS = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0]])
SETS = torch.tensor([4, 1, 4, 0, 1, 4])
TEXTS = torch.unique(SETS, return_inverse=True)[1]
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 1.5])
N = len(SETS)


def batch(weights: Tensor | None = None) -> Batch:
    return Batch(keys=tuple("abcdef"), targets=LABELS.float(), label_sets=SETS, weights=weights)


def least(loss: object, columns: int) -> float:
    """What a quasi-Newton search over (N, columns) logits finds; at infinity it comes close."""
    assert callable(loss)
    free = torch.zeros(N, columns, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([free], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def again() -> float:
        search.zero_grad()
        value: Tensor = loss(free)
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    search.step(again)
    return again()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    "objective",
    [
        Pairwise(pairs=("audio_text",)),
        Pairwise(pairs=("audio_text",), targets="identical"),
        Pairwise(pairs=("audio_text",), targets="jaccard"),
        Pairwise(pairs=("audio_text",), masked="identical"),
        Pairwise(pairs=("audio_text",), masked="overlapping"),
    ],
    ids=["instance", "identical", "jaccard", "masked", "overlapping"],
)
def test_no_logits_with_equal_columns_for_equal_texts_get_below_the_floor(
    objective: Pairwise, weights: Tensor | None
) -> None:
    facts = batch(weights)

    def loss(free: Tensor) -> Tensor:
        return symmetric_cross_entropy(
            free[:, TEXTS],
            matches=matches(objective.targets, facts),
            left_out=left_out(objective.masked, facts),
            weights=weights,
        )

    floor = loss_floor(objective, facts)["audio_text"].item()
    found = least(loss, len(TEXTS.unique()))
    assert found == pytest.approx(floor, abs=2e-3)
    assert found > floor - 1e-6


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_no_decisions_that_are_equal_for_equal_texts_get_below_the_floor(weights: Tensor | None) -> None:
    halves = torch.ones(N) if weights is None else weights
    counted = (halves[:, None] + halves[None]) / 2 / halves.sum()
    signs = 2 * torch.eye(N) - 1

    def loss(free: Tensor) -> Tensor:
        return -(torch.nn.functional.logsigmoid(signs * free[:, TEXTS]) * counted).sum()

    floor = loss_floor(Sigmoid(pairs=("audio_text",)), batch(weights))["audio_text"].item()
    found = least(loss, len(TEXTS.unique()))
    assert found == pytest.approx(floor, abs=2e-3)
    assert found > floor - 1e-6


def test_the_floor_is_the_mean_of_the_logs_of_how_many_share_a_text() -> None:
    per_direction = (3 * math.log(3) + 2 * math.log(2)) / 6
    one = loss_floor(Pairwise(pairs=("image_text",)), batch())
    assert one == {"image_text": pytest.approx(2 * per_direction)}
    three = loss_floor(Pairwise(), batch())
    assert three == {
        "audio_image": 0.0,
        "audio_text": pytest.approx(per_direction / 3),
        "image_text": pytest.approx(per_direction / 3),
    }


def test_every_floor_is_zero_without_collisions() -> None:
    apart = Batch(keys=tuple("abc"), targets=torch.eye(3), label_sets=torch.arange(3))
    for objective in (Pairwise(), Pairwise(targets="identical"), Sigmoid(), Classification()):
        assert all(floor == 0 for floor in loss_floor(objective, apart).values())


def test_the_floor_has_the_loss_s_names_and_leaves_padding_out() -> None:
    valid = torch.tensor([True, True, False, True, False, False])
    padded = Batch(keys=tuple("abcdef"), targets=LABELS.float(), label_sets=SETS, valid=valid)
    for objective in (Pairwise(), Pairwise(targets="jaccard", by_label=PAIRS[:2]), Sigmoid()):
        floors = loss_floor(objective, padded)
        assert tuple(floors) == PAIRS
    assert all(floor == 0 for floor in loss_floor(Pairwise(), padded).values())


@pytest.mark.parametrize("labels", ["several", "one"])
def test_a_perfect_classifier_is_left_with_the_entropy_of_mixed_targets(labels: str) -> None:
    objective = Classification(labels=labels)  # type: ignore[arg-type]
    assert loss_floor(objective, batch())["classes"] == 0
    mixed = Batch(keys=("a",), targets=torch.tensor([[0.25, 0.75, 0.0]]))
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    expected = entropy if labels == "one" else 2 * entropy
    assert loss_floor(objective, mixed)["classes"].item() == pytest.approx(expected)


def test_an_objective_that_knows_no_floor_has_none() -> None:
    plain: Objective = lambda *_: {}  # noqa: E731
    assert loss_floor(plain, batch()) == {}


def test_captions_that_differ_between_equal_label_sets_lower_the_floor() -> None:
    sets, texts = torch.tensor([1, 1, 1, 2]), torch.tensor([5, 5, 6, 7])
    captioned = Batch(keys=tuple("abcd"), label_sets=sets, text_ids=texts)
    (floor,) = loss_floor(Pairwise(pairs=("audio_text",)), captioned).values()
    assert floor.item() == pytest.approx(2 * 2 * math.log(2) / 4)


def test_without_label_sets_it_is_said_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"neither Batch\.text_ids nor Batch\.label_sets"):
        loss_floor(Pairwise(), Batch(keys=("a", "b")))
