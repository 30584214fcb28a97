"""Retrieval by several captions a sample: every number against one worked out by sorting everything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluating import evaluated, toy_model
from shard_folders import shard_folder

from shards.selection import select_samples
from trainer.bootstrap import Resampling
from trainer.caption_retrieval import CaptionRetrieval, _Drawn
from trainer.embedded import Embedded, Items, Sentences
from trainer.evaluations import EvaluationError, Retrieval, evaluate_embeddings
from trainer.measure import Draws

FEW = Draws(resamples=30)
SIZE = 6


def captioned(counts: list[int], *, seed: int, strings: int = 1000, levels: int = 2) -> Embedded:
    """Samples with so many captions each; few `levels` of numbers and few strings make many ties."""
    random = np.random.default_rng(seed)
    names = tuple(f"caption {place}" for place in range(strings))
    total = sum(counts)
    items = Items(
        keys=tuple(f"item {row}" for row in range(len(counts))),
        targets=np.ones((len(counts), 1), dtype=bool),
        class_names=("class",),
        label_sets=np.zeros(len(counts), np.int64),
        texts=("first",),
        text_of=np.zeros(len(counts), np.int64),
        captions=tuple(names[place] for place in random.integers(0, strings, total)),
        caption_of=np.repeat(np.arange(len(counts)), counts),
        folds=("eval",) * len(counts),
        missing=2,
    )
    rows = [
        random.integers(-levels, levels + 1, (n, SIZE)).astype(np.float32) for n in (len(counts), strings)
    ]
    return Embedded(items=items, audio=rows[0], sentences=Sentences(strings=names, rows=rows[1]))


def found(embedded: Embedded) -> dict[str, float]:
    return {each.name: each.value for each in evaluate_embeddings(embedded, [CaptionRetrieval()], FEW)}


def by_sorting(scores: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Of (Q, M) scores and which of them are own: each query's whole ranking, looked at."""
    hits: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    precisions, first = [], []
    for row, mine in zip(scores, own, strict=True):
        ranked = mine[sorted(range(len(row)), key=lambda place: (-row[place], place))]
        for k, seen in hits.items():
            seen.append(bool(ranked[:k].any()))
        head = ranked[:10]
        each = [head[: at + 1].sum() / (at + 1) for at in np.flatnonzero(head)]
        precisions.append(sum(each) / min(10, mine.sum()))
        first.append(int(np.argmax(ranked)) + 1)
    shares = {f"R@{k}": float(np.mean(seen)) for k, seen in hits.items()}
    return {**shares, "mAP@10": float(np.mean(precisions)), "median_rank": float(np.median(first))}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strings", [9, 1000])
def test_every_number_is_what_sorting_everything_gives_with_ties(seed: int, strings: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 7, 23).tolist()
    embedded = captioned(counts, seed=seed, strings=strings, levels=1)
    items = embedded.items
    scores = embedded.sentences.of(items.captions) @ embedded.rows("audio").T
    own = items.caption_of[:, None] == np.arange(len(items))

    numbers = found(embedded)

    assert len(np.unique(scores)) < 40  # tied
    for direction, expected in (
        ("text_to_audio", by_sorting(scores, own)),
        ("audio_to_text", by_sorting(scores.T, own.T)),
    ):
        for measure, value in expected.items():
            assert numbers[f"captions/{direction}/{measure}"] == pytest.approx(value), (direction, measure)


def test_of_five_captions_one_that_is_found_is_enough_for_the_sample() -> None:
    strings = tuple(f"caption {place}" for place in range(10))
    embedded = captioned([5, 5], seed=0)
    rows = np.zeros((10, SIZE), np.float32)
    rows[:, 5] = -1  # nothing is like them, but the second caption of the first sample, which is like both
    rows[1, :2] = 1
    items = replace(embedded.items, captions=strings)
    audio = np.eye(2, SIZE, dtype=np.float32)
    numbers = found(Embedded(items=items, audio=audio, sentences=Sentences(strings=strings, rows=rows)))

    assert numbers["captions/audio_to_text/R@1"] == 0.5
    assert numbers["captions/text_to_audio/R@1"] == 0.5  # all ties fall to the first sample
    assert numbers["captions/audio_to_text/R@10"] == 1


def test_one_caption_each_is_retrieval_of_pairs() -> None:
    strings, own = tuple(f"caption {place}" for place in range(30)), np.arange(30)
    embedded = captioned([1] * 30, seed=3, strings=30)
    items = replace(embedded.items, captions=strings, texts=strings, text_of=own, label_sets=own)
    embedded = replace(embedded, items=items)

    pairs = {each.name: each.value for each in evaluate_embeddings(embedded, [Retrieval()], FEW)}

    for name, value in found(embedded).items():
        other = name.replace("captions/", "retrieval/").replace("R@", "hit@")
        if "mAP" not in name:
            assert value == pairs[other], name


def test_items_chosen_among_others_keep_their_captions_and_no_more() -> None:
    items = captioned([2, 3, 1], seed=0).items
    chosen = items.only(np.array([2, 0]))
    assert chosen.captions == (items.captions[5], *items.captions[:2])
    assert chosen.caption_of.tolist() == [0, 1, 1]


def test_the_bootstrap_draws_samples_with_all_their_captions() -> None:
    counts = [1, 4, 2, 2, 3]
    owners, values = np.repeat(np.arange(5), counts), np.random.default_rng(0).integers(0, 9, 12) * 1.0
    drawn = _Drawn(of=Resampling(items=5, resamples=40), owners=owners)
    for resample, times in enumerate(drawn.of.counts.T):
        sample = np.repeat(values, times[owners])
        assert drawn.means(values)[resample] == pytest.approx(sample.mean())
        assert drawn.medians(values)[resample] == np.median(sample)


def test_without_texts_there_are_no_captions_to_find() -> None:
    embedded = captioned([1, 2], seed=0)
    with pytest.raises(EvaluationError, match="no captions to compare with"):
        found(Embedded(items=embedded.items, audio=embedded.audio))


def test_an_annotation_of_lists_is_evaluated_by_every_caption(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (2, 1), seconds=0.2)
    keys = select_samples(store).keys
    lists = [[f"{key} is heard", "a sound"][: 1 + place % 2] for place, key in enumerate(keys)]
    pq.write_table(pa.table({"key": list(keys), "heard": lists}), tmp_path / "captions.parquet")

    asked = {"text": "heard", "annotations": (str(tmp_path / "captions.parquet"),)}
    result = evaluated(toy_model(tmp_path / "model"), tmp_path / "data", ["query"], tmp_path / "out", **asked)

    n = {measure.name: measure.n for measure in result.measures}
    assert n["captions/text_to_audio/R@1"] == n["captions/text_to_image/mAP@10"] == sum(map(len, lists))
    assert n["captions/audio_to_text/median_rank"] == len(keys)
    assert n["retrieval/audio_to_image/R@1"] == len(keys)
