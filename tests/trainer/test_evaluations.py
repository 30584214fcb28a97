"""Evaluations of made-up embeddings: every number against one worked out another way."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from trainer.class_scores import FUSIONS
from trainer.classify import prompted
from trainer.embedded import Embedded, Items, Sentences
from trainer.evaluations import (
    EVALUATIONS,
    Classification,
    EvaluationError,
    LinearProbe,
    Retrieval,
    ZeroShot,
    evaluate_embeddings,
    modalities_of,
    named_evaluations,
    sentences_of,
)
from trainer.imagenet_names import imagenet_names, imagenet_prompts
from trainer.linear_probe import fit
from trainer.measure import Draws, Measure, definition

SIZE = 24
FEW = Draws(resamples=50)
ALL = tuple(each for group in EVALUATIONS.values() for each in group)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def items_of(targets: np.ndarray, folds: Iterable[str] = ()) -> Items:
    names = tuple(f"class {place}" for place in range(targets.shape[1]))
    texts = [", ".join(np.array(names)[row]) for row in targets]
    unique = tuple(dict.fromkeys(texts))
    return Items(
        keys=tuple(f"item {row}" for row in range(len(targets))),
        targets=targets,
        class_names=names,
        label_sets=np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64),
        texts=unique,
        text_of=np.array([unique.index(text) for text in texts]),
        folds=tuple(folds) or ("eval",) * len(targets),
        missing=3,
    )


def embedded_of(items: Items, *, seed: int = 0, noise: float = 1.0) -> Embedded:
    """Sounds and pictures near the texts of their classes, and every text that an evaluation asks for."""
    random = np.random.default_rng(seed)
    strings = sentences_of(ALL, items)
    directions = random.standard_normal((len(items.class_names), SIZE))
    known = dict(zip(items.class_names, directions, strict=True))
    named = [[name for name in items.class_names if name in string.split(", ")] for string in strings]
    rows = [
        sum((known[name] for name in names), random.standard_normal(SIZE) * (0.1 if names else 1))
        for names in named
    ]
    near = items.targets.astype(float) @ directions
    return Embedded(
        items=items,
        audio=unit(near + noise * random.standard_normal(near.shape) * 3),
        image=unit(near + noise * random.standard_normal(near.shape) * 4),
        sentences=Sentences(strings=strings, rows=unit(np.array(rows))),
        scales={"audio_text": 100.0, "image_text": 50.0, "audio_image": 100.0},
    )


def single(items: int = 60, classes: int = 5, folds: int = 3) -> Embedded:
    targets = np.eye(classes, dtype=bool)[np.arange(items) % classes]
    return embedded_of(items_of(targets, [f"fold{row % folds + 1}" for row in range(items)]))


def multi(items: int = 80, classes: int = 7) -> Embedded:
    targets = np.random.default_rng(1).random((items, classes)) < 0.3
    targets[:, -1] = False  # a class that nothing has
    targets[:, 0] |= ~targets.any(axis=1)
    return embedded_of(items_of(targets))


def by_name(measures: Iterable[Measure]) -> dict[str, float]:
    return {"@".join(filter(None, (each.name, each.fold, each.class_name))): each.value for each in measures}


# -- classes


def test_zero_shot_accuracy_is_pooled_by_fold_and_the_mean_over_folds() -> None:
    embedded = single()
    found = by_name(evaluate_embeddings(embedded, [ZeroShot()], FEW))
    names = embedded.items.class_names
    best = (embedded.rows("audio") @ embedded.sentences.of(names).T).argmax(axis=1)
    hits, folds = best == embedded.items.classes, np.array(embedded.items.folds)
    by_fold = [hits[folds == name].mean() for name in embedded.items.fold_names]
    assert found["zero_shot/audio/accuracy"] == hits.mean()
    assert [found[f"zero_shot/audio/accuracy@fold{fold}"] for fold in (1, 2, 3)] == by_fold
    assert found["zero_shot/audio/accuracy_fold_mean"] == pytest.approx(np.mean(by_fold))
    assert 0.3 < hits.mean() < 1


def test_macro_map_of_labels_that_overlap_leaves_out_and_counts_the_empty_class() -> None:
    embedded = multi()
    [measure] = evaluate_embeddings(embedded, [Classification(subjects=("audio",))], FEW)
    scores = embedded.rows("audio") @ embedded.sentences.of(embedded.items.class_names).T
    theirs = average_precision_score(embedded.items.targets[:, :-1], scores[:, :-1], average="macro")
    assert measure.name == "classification/audio/mAP"
    assert measure.value == pytest.approx(theirs)
    assert (measure.n, measure.missing, measure.left_out) == (80, 3, 1)
    assert measure.interval.low < measure.value < measure.interval.high


@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_modalities_are_fused_by_the_rule_that_the_setting_names(fusion: str) -> None:
    embedded = multi()
    measures = evaluate_embeddings(embedded, [Classification(fusion=fusion)], FEW)
    values = {each.name.split("/")[1]: each for each in measures}
    assert values["both"].setting == f"fusion={fusion}"
    assert values["both"].value > max(values["audio"].value, values["image"].value)
    assert values["audio"].setting == ""


def test_each_class_has_its_own_row_with_its_own_denominator() -> None:
    embedded = single(items=61)
    measures = evaluate_embeddings(embedded, [ZeroShot(per_class=True, per_fold=False)], FEW)
    rows = {each.class_name: each for each in measures if each.name.endswith("accuracy") and each.class_name}
    assert {name: each.n for name, each in rows.items()} == {
        "class 0": 13, "class 1": 12, "class 2": 12, "class 3": 12, "class 4": 12,
    }  # fmt: skip
    whole = by_name(measures)["zero_shot/audio/accuracy"]
    assert sum(each.value * each.n for each in rows.values()) / 61 == pytest.approx(whole)


def test_a_prompt_goes_into_the_name_and_several_are_averaged() -> None:
    embedded = single()
    prompts = ("the sound of {}", "{}")
    strings = tuple(text for prompt in prompts for text in prompted(embedded.items.class_names, prompt))
    rows = unit(np.random.default_rng(3).standard_normal((len(strings), SIZE)))
    embedded = replace(embedded, sentences=Sentences(strings=strings, rows=rows))
    [measure, *_] = evaluate_embeddings(embedded, [ZeroShot(prompts=prompts)], FEW)
    classes = rows[:5] + rows[5:]
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    best = (embedded.rows("audio") @ classes.T).argmax(axis=1)
    assert measure.name == "zero_shot/audio_prompted/accuracy"
    assert measure.setting == "prompt=mean of 2"
    assert measure.value == (best == embedded.items.classes).mean()


def test_imagenets_classes_go_by_open_clips_names() -> None:
    items = items_of(np.eye(1000, dtype=bool))
    evaluation = ZeroShot(subjects=("image",), names="imagenet", prompts=imagenet_prompts())
    strings = tuple(evaluation.sentences(items))
    assert len(strings) == 80_000
    assert strings[:2] == ("a bad photo of a tench.", "a bad photo of a goldfish.")
    assert len(set(imagenet_names())) > 990


def test_other_data_cannot_go_by_imagenets_names() -> None:
    with pytest.raises(EvaluationError, match="names for 5 classes"):
        list(ZeroShot(names="imagenet").sentences(single().items))


def test_a_classifiers_logits_are_its_scores() -> None:
    items = multi().items
    logits = np.random.default_rng(0).standard_normal(items.targets.shape).astype(np.float32)
    [measure] = evaluate_embeddings(Embedded(items=items, class_logits=logits), [Classification()], FEW)
    theirs = average_precision_score(items.targets[:, :-1], logits[:, :-1], average="macro")
    assert (measure.name, measure.value) == ("classification/audio/mAP", pytest.approx(theirs))


def test_a_classifier_of_other_classes_is_refused() -> None:
    items = multi().items
    with pytest.raises(EvaluationError, match="tells 3 classes apart, the data set has 7"):
        evaluate_embeddings(
            Embedded(items=items, class_logits=np.zeros((80, 3), np.float32)), [Classification()]
        )


# -- retrieval


def relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    return (np.flatnonzero(relevant[order]) + 1).tolist()


def test_text_finds_sound_by_the_set_of_labels_one_query_for_each_distinct_text() -> None:
    embedded = multi()
    found = by_name(evaluate_embeddings(embedded, [Retrieval(directions=(("text", "audio"),))], FEW))
    items = embedded.items
    sets = [items.label_sets[list(items.text_of).index(place)] for place in range(len(items.texts))]
    scores = embedded.sentences.of(items.texts) @ embedded.rows("audio").T
    ranks = [relevant_ranks(row, items.label_sets == one) for row, one in zip(scores, sets, strict=True)]
    expected = {
        "hit@5": np.mean([any(r <= 5 for r in each) for each in ranks]),
        "R@1": np.mean([(each[0] == 1) / len(each) for each in ranks]),
        "P@5": np.mean([sum(r <= 5 for r in each) / 5 for each in ranks]),
        "mAP": np.mean([np.mean([n / r for n, r in enumerate(each, 1)]) for each in ranks]),
        "MRR": np.mean([1 / each[0] for each in ranks]),
        "median_rank": np.median([each[0] for each in ranks]),
    }
    for measure, value in expected.items():
        assert found[f"retrieval/text_to_audio/{measure}"] == pytest.approx(value), measure


def test_sound_finds_text_one_query_for_each_sample_the_other_family_of_table_4() -> None:
    embedded = single(folds=1)
    found = by_name(evaluate_embeddings(embedded, [Retrieval(directions=(("audio", "text"),))], FEW))
    items = embedded.items
    scores = embedded.rows("audio") @ embedded.sentences.of(items.texts).T
    ranks = [
        relevant_ranks(row, np.arange(5) == one)[0] for row, one in zip(scores, items.text_of, strict=True)
    ]
    assert found["retrieval/audio_to_text/MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    # with one relevant text, precision, recall and hit at 1 are the accuracy
    for measure in ("P@1", "R@1", "hit@1"):
        assert found[f"retrieval/audio_to_text/{measure}"] == np.mean([rank == 1 for rank in ranks])


def test_every_direction_between_the_modalities_there_are_is_measured() -> None:
    names = {each.name.split("/")[1] for each in evaluate_embeddings(multi(), [Retrieval()], FEW)}
    assert names == {
        "text_to_audio", "audio_to_text", "text_to_image",
        "image_to_text", "audio_to_image", "image_to_audio",
    }  # fmt: skip
    silent = replace(multi(), audio=None)
    names = {each.name.split("/")[1] for each in evaluate_embeddings(silent, [Retrieval()], FEW)}
    assert names == {"text_to_image", "image_to_text"}


def test_a_folds_queries_search_that_fold_alone() -> None:
    embedded = single()
    retrieval = Retrieval(directions=(("text", "audio"), ("audio", "image")))
    whole = by_name(evaluate_embeddings(embedded, [retrieval], FEW))
    alone = by_name(evaluate_embeddings(embedded.only(embedded.items.rows_of("fold2")), [retrieval], FEW))
    for name in ("retrieval/text_to_audio/mAP", "retrieval/audio_to_image/R@5"):
        assert whole[f"{name}@fold2"] == alone[name]
        mean = np.mean([whole[f"{name}@fold{fold}"] for fold in (1, 2, 3)])
        assert whole[f"{name}_fold_mean"] == pytest.approx(mean)


def test_captions_are_relevant_to_the_samples_that_have_them() -> None:
    embedded = single(items=10, classes=2, folds=1)
    captions = tuple(f"caption {row}" for row in range(10))
    items = replace(embedded.items, texts=captions, text_of=np.arange(10))
    embedded = replace(
        embedded, items=items, sentences=Sentences(strings=captions, rows=embedded.rows("audio"))
    )
    found = by_name(evaluate_embeddings(embedded, [Retrieval(relevance="text")], FEW))
    assert found["retrieval/text_to_audio/R@1"] == 1
    assert found["retrieval/text_to_audio/mAP"] == 1


# -- linear probe


@pytest.mark.parametrize("single_label", [True, False])
def test_the_probe_is_scikit_learns_logistic_regression(single_label: bool) -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((90, 6))
    classes = (rows[:, :3] + random.standard_normal((90, 3))).argmax(axis=1)
    l2 = 0.01
    weights, bias = fit(
        torch.from_numpy(rows), np.eye(3, dtype=bool)[classes], single_label=single_label, l2=l2
    )
    theirs = LogisticRegression(C=1 / (l2 * 90), tol=1e-10, max_iter=10_000)
    if single_label:
        theirs.fit(rows, classes)
        ours = (torch.from_numpy(rows) @ weights + bias).softmax(dim=1).numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(rows), atol=1e-4)
    else:
        theirs.fit(rows, classes == 1)
        np.testing.assert_allclose(weights[:, 1].numpy(), theirs.coef_[0], atol=1e-4)


def test_the_probe_scores_each_fold_without_having_seen_it() -> None:
    embedded = embedded_of(single(items=90).items, noise=0.3)
    found = by_name(evaluate_embeddings(embedded, [LinearProbe(subjects=("audio",))], FEW))
    random = np.random.default_rng(0)
    guessed = replace(embedded, audio=unit(random.standard_normal((90, SIZE))))
    chance = by_name(evaluate_embeddings(guessed, [LinearProbe(subjects=("audio",))], FEW))
    assert found["linear_probe/audio/accuracy"] > 0.6
    assert chance["linear_probe/audio/accuracy"] < 0.45  # a probe that had seen its fold would know all 90
    assert "linear_probe/audio/accuracy@fold1" in found


def test_a_probe_needs_a_fold_to_learn_from() -> None:
    with pytest.raises(EvaluationError, match="expected two or more"):
        evaluate_embeddings(single(folds=1), [LinearProbe()], FEW)


# -- all of them


def test_evaluating_twice_gives_the_same_bits() -> None:
    first, second = (evaluate_embeddings(single(), ALL, FEW) for _ in range(2))
    assert by_name(first) == by_name(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.replicates, other.replicates)


def test_every_metric_has_a_name_of_three_parts_a_definition_and_an_interval_around_it() -> None:
    for measure in evaluate_embeddings(single(), ALL, Draws(resamples=200)):
        assert measure.name.count("/") == 2
        assert measure.definition.endswith(".")
        rounding = 1e-12
        assert measure.interval.low - rounding <= measure.value <= measure.interval.high + rounding, measure


def test_names_say_what_was_chosen_on_the_test_data() -> None:
    measure = Measure(name="classification/audio/accuracy", value=1.0, n=1).selected_on_test()
    assert measure.name == "classification/audio/accuracy_selected_on_test"
    assert measure.definition.startswith("Chosen on the test data")


def test_a_number_without_a_definition_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        definition("retrieval/text_to_audio/cleverness")


def test_a_misspelt_evaluation_is_answered_with_the_one_that_is_near() -> None:
    with pytest.raises(EvaluationError, match="did you mean retrieval"):
        named_evaluations(["retreival"])


def test_what_must_be_decoded_follows_from_the_evaluations() -> None:
    assert modalities_of([ZeroShot()]) == {"audio"}
    assert modalities_of([ZeroShot(subjects=("both",))]) == {"audio", "image"}
    assert modalities_of([Retrieval(directions=(("text", "image"),))]) == {"image"}


def test_one_item_can_be_evaluated() -> None:
    embedded = single(items=1, classes=1, folds=1)
    found = by_name(evaluate_embeddings(embedded, [ZeroShot(), Retrieval()], FEW))
    assert found["zero_shot/audio/accuracy"] == 1
    assert found["retrieval/audio_to_image/median_rank"] == 1


def test_without_items_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        evaluate_embeddings(single().only([]), [ZeroShot()])
