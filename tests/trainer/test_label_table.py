"""Targets, label sets and texts of selected samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shards.labels import ClassLabel, Labels, LabelsError
from shards.selection import Selection
from trainer.label_table import LabelTable, LabelTableError, label_table

LABELS = Labels.of(
    [
        ClassLabel(index=2, mid="/m/s", name="Speech"),
        ClassLabel(index=0, mid="/m/d", name="Dog"),
        ClassLabel(index=1, mid="/m/r", name="Rain, light"),
        ClassLabel(index=None, mid="/m/broad", name="Sound"),
    ]
)
ROWS = [["/m/d"], ["/m/s", "/m/d"], ["/m/d", "/m/s"], ["/m/d", "/m/d"], ["/m/r"], []]


def selection(mids: list[list[str]] = ROWS, **columns: Any) -> Selection:
    """As `select_samples` gives one."""
    facts = {
        "key": pa.array([f"sample{row}" for row in range(len(mids))], pa.string()),
        "shard": pa.array(["a"] * len(mids)).dictionary_encode(),
        "split": pa.array(["eval"] * len(mids)).dictionary_encode(),
        "mids": pa.array(mids, pa.list_(pa.string())),
        **columns,
    }
    whole = pa.table(facts)
    cut = len(mids) // 2  # in two chunks, as what DuckDB gives comes in many
    return Selection(table=pa.concat_tables([whole[:cut], whole[cut:]]), sql="", key_list_sha256="")


def texts_of(table: LabelTable, seeds: Any = None) -> list[str]:
    return [table.texts[text] for text in table.text_rows(range(len(table)), seeds)]


def test_targets_have_a_one_for_each_class_in_the_order_of_class_scores() -> None:
    table = label_table(selection(), LABELS)
    assert table.class_names == ("Dog", "Rain, light", "Speech")
    assert table.targets([1, 4, 5, 1]).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert table.targets([]).shape == (0, 3)


def test_label_sets_are_equal_where_the_sets_are_whatever_the_order() -> None:
    sets = label_table(selection(), LABELS).label_sets
    assert sets.dtype == np.int64
    same = sets[:, None] == sets[None, :]
    expected = [[set(one) == set(other) for other in ROWS] for one in ROWS]
    assert same.tolist() == expected


def test_texts_are_class_names_joined_in_the_order_of_the_segments_file() -> None:
    table = label_table(selection(), LABELS)
    assert texts_of(table) == ["Dog", "Speech, Dog", "Dog, Speech", "Dog, Dog", "Rain, light", ""]
    assert len(table.texts) == 6


def test_equal_texts_are_one() -> None:
    table = label_table(selection([["/m/d"], ["/m/s"], ["/m/d"], ["/m/s"]]), LABELS)
    assert sorted(table.texts) == ["Dog", "Speech"]
    assert table.text_rows([0, 2, 1]).tolist() == [table.text_rows([0])[0]] * 2 + [table.text_rows([1])[0]]


def test_many_samples_are_labelled_as_one_by_one() -> None:
    dice = np.random.default_rng(0)
    mids = [f"/m/{number}" for number in range(12)]
    labels = Labels.of(
        [ClassLabel(index=number, mid=mid, name=f"N{number}") for number, mid in enumerate(mids)]
    )
    rows = [list(dice.choice(mids, dice.integers(0, 5))) for _ in range(3_000)]
    table = label_table(selection(rows), labels)
    assert texts_of(table) == [", ".join(labels.names(row)) for row in rows]
    targets = table.targets(range(3_000)).numpy()
    assert [set(np.flatnonzero(row)) for row in targets] == [{mids.index(mid) for mid in row} for row in rows]
    first = {}
    for row, number in zip(rows, table.label_sets, strict=True):
        assert first.setdefault(frozenset(row), number) == number
    assert len(set(first.values())) == len(first)
    assert [[table.mids[place] for place in row] for row in table.label_lists()] == rows


def test_a_label_without_a_class_index_is_no_target_but_a_text() -> None:
    table = label_table(selection([["/m/broad"], ["/m/unknown"], ["/m/d"]]), LABELS)
    assert texts_of(table) == ["Sound", "/m/unknown", "Dog"]
    assert table.targets([2]).tolist() == [[1, 0, 0]]
    with pytest.raises(LabelsError, match="2 of 3 labels, such as /m/broad, have no class index"):
        table.targets([0])


def test_a_column_of_strings_gives_the_texts() -> None:
    captions = pa.array(["a dog", "a dog", "rain"]).dictionary_encode()
    table = label_table(selection(ROWS[:3], caption=captions), LABELS, text="caption")
    assert texts_of(table) == ["a dog", "a dog", "rain"]
    assert table.texts == ("a dog", "rain")
    assert table.key_of_text(1) == "sample2"


def test_of_several_captions_one_is_drawn_by_the_seed_and_evaluation_takes_the_first() -> None:
    captions = [["a", "b", "c"], ["d"], ["b", "a"]]
    table = label_table(selection(ROWS[:3], caption=pa.array(captions)), LABELS, text="caption")
    assert texts_of(table) == ["a", "d", "b"]
    seeds = np.arange(3_000, dtype=np.int64)
    drawn = [table.texts[text] for text in table.text_rows(np.zeros(3_000, np.int64), seeds)]
    assert {text: round(drawn.count(text) / 3_000, 1) for text in "abc"} == {"a": 0.3, "b": 0.3, "c": 0.3}
    assert [table.texts[text] for text in table.text_rows([0] * 5, seeds[7:12])] == drawn[7:12]
    assert {table.texts[text] for text in table.text_rows([1] * 20, seeds[:20])} == {"d"}


@pytest.mark.parametrize(
    ("captions", "answer"),
    [
        (
            pa.array(["a", None, None]),
            r"2 of 3 samples, such as sample1, have no caption; .*caption IS NOT NULL",
        ),
        (pa.array([["a"], [], ["b"]]), "1 of 3 samples, such as sample1, have no caption"),
        (pa.array([["a"], ["b", None], ["b"]]), "lists with NULL"),
        (pa.array([1, 2, 3]), "column caption holds int64; expected strings, or lists of strings"),
    ],
)
def test_texts_that_are_not_there_are_an_error(captions: pa.Array, answer: str) -> None:
    with pytest.raises(LabelTableError, match=answer):
        label_table(selection(ROWS[:3], caption=captions), LABELS, text="caption")


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelTableError, match="no column caption to take texts from"):
        label_table(selection(), LABELS, text="caption")
