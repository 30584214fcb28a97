"""Which samples are selected, in what order, by manifest and by ledgers alike; mistakes and their answers."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledgered_dataset import BARK, DOG, MUSIC, SPEECH, LedgeredDataset, attempt, segment
from shard_folders import shard_folder

from shards.layout import ledger_name, tar_name
from shards.outcome import Outcome
from shards.publication import publish_manifest
from shards.query import open_manifest, run_query
from shards.selection import (
    NothingSelected,
    Selection,
    SelectionError,
    overlap,
    select_samples,
)
from shards.store import Store, open_store
from shards.tar import read_samples


@pytest.fixture
def dataset(tmp_path: Path) -> LedgeredDataset:
    return small_dataset(tmp_path)


def small_dataset(folder: Path) -> LedgeredDataset:
    """Two shards of training, one of evaluation; keys are not in the order of their names."""
    made = LedgeredDataset.begin(folder / "it's audioset", folder)
    made.finish(
        [
            attempt(segment(9, DOG, BARK, split="balanced_train"), rms_dbfs=-70.0),
            attempt(segment(2, split="balanced_train"), Outcome.PRIVATE),
            attempt(segment(3, MUSIC, split="balanced_train")),
        ]
    )
    made.finish([attempt(segment(1, SPEECH, split="balanced_train"), still=True)])
    made.finish([attempt(segment(5, DOG)), attempt(segment(4, DOG, MUSIC))])
    return made


@pytest.fixture(scope="module", params=["manifest", "ledgers"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Answers from the snapshot, or from the ledgers as the snapshot is too old. Not to be written to."""
    dataset = small_dataset(tmp_path_factory.mktemp("selected"))
    publish_manifest(dataset.store, force=True)
    if request.param == "ledgers":
        dataset.finish([attempt(segment(8, split="dev"))])
    return dataset.store


def numbers(selection: Selection) -> list[int]:
    return [int(key[5:10]) for key in selection.keys]


@pytest.fixture
def own(dataset: LedgeredDataset) -> Store:
    """A dataset to write to, without a manifest."""
    return dataset.store


def beside(store: Store, name: str, **columns: Any) -> None:
    """An annotation beside the shards."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    store.publish_bytes(file.getvalue(), f"annotations/{name}.parquet", replace=True)


def key(number: int) -> str:
    return f"video{number:05d}A_30000"


# ------------------------------------------------------------------------------------------- what, in order


@pytest.mark.parametrize(
    ("splits", "where", "expected"),
    [
        (("balanced_train",), "", [9, 3, 1]),
        (("eval",), "", [5, 4]),
        (("eval", "balanced_train"), "", [9, 3, 1, 5, 4]),
        (("balanced_train",), "rms_dbfs > -60 AND NOT still", [3]),
        (("eval", "balanced_train"), "list_contains(classes, 'Dog')", [9, 5, 4]),
        (("eval",), f"len(mids) = 2 OR ytid = 'x' -- and a comment with {DOG}", [4]),
        (("eval",), "position = 1", [4]),
    ],
)
def test_ok_samples_come_by_split_and_condition_in_the_order_they_lie_in(
    store: Store, splits: tuple[str, ...], where: str, expected: list[int]
) -> None:
    assert numbers(select_samples(store, splits=splits, where=where)) == expected


def test_a_selection_says_where_each_sample_lies(store: Store) -> None:
    found = select_samples(store, splits=("balanced_train", "eval"), columns=("ytid", "rms_dbfs"))
    names = ("audioset-balanced_train-000000", "audioset-balanced_train-000001", "audioset-eval-000000")
    assert found.shards == names
    assert found.shard_of.tolist() == [0, 0, 1, 2, 2]
    assert found.shard_of.dtype == np.int32
    assert found.splits == {"balanced_train": 3, "eval": 2}
    assert found.table.column_names == ["key", "shard", "split", "mids", "ytid", "rms_dbfs"]
    assert found.table.column("mids").to_pylist()[0] == [DOG, BARK]
    assert (found.keys[0], found.keys[-1], list(found.keys[1:3])) == (key(9), key(4), [key(3), key(1)])


def test_the_key_list_hash_is_that_of_the_keys_in_lines(store: Store) -> None:
    found = select_samples(store, splits=("eval",))
    assert found.key_list_sha256 == hashlib.sha256(f"{key(5)}\n{key(4)}\n".encode()).hexdigest()


def test_the_manifest_answers_the_selections_sql_with_its_keys(store: Store) -> None:
    found = select_samples(store, splits=("balanced_train",), where="rms_dbfs > -60 -- loud ones")
    answer = run_query(open_manifest(store), found.sql)
    assert [row[0] for row in answer.rows()] == list(found.keys)


def test_the_order_is_that_of_the_tars(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "made", (4, 3), seconds=0.01, frames=0)
    publish_manifest(store, force=True)
    for _ in range(2):
        found = select_samples(store)
        in_tars = [
            name for shard in found.shards for name, _ in read_samples(tmp_path / "made" / tar_name(shard))
        ]
        assert list(found.keys) == in_tars
        store.delete("manifest.duckdb")


def test_only_keeps_some_rows_under_a_hash_of_their_own(store: Store) -> None:
    whole = select_samples(store, splits=("balanced_train", "eval"))
    some = whole.only(np.array([False, False, True, True, False]), "by hand")
    assert numbers(some) == [1, 5]
    assert some.shards == ("audioset-balanced_train-000001", "audioset-eval-000000")
    assert some.shard_of.tolist() == [0, 1]
    assert some.sql == "by hand"
    assert some.key_list_sha256 != whole.key_list_sha256


def test_a_sample_that_two_ledgers_have_is_selected_once_from_the_later(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(5, DOG)), attempt(segment(4), Outcome.NETWORK)])
    by_ledgers = select_samples(dataset.store, splits=("eval",))
    assert numbers(by_ledgers) == [4, 5]
    publish_manifest(dataset.store, force=True)
    assert select_samples(dataset.store, splits=("eval",)).key_list_sha256 == by_ledgers.key_list_sha256


@pytest.mark.parametrize("published", [True, False])
def test_an_object_store_is_selected_from_as_a_folder_is(
    s3_url: str, tmp_path: Path, published: bool
) -> None:
    dataset = LedgeredDataset.begin(f"{s3_url}/audioset", tmp_path)
    dataset.finish([attempt(segment(1, DOG)), attempt(segment(2))])
    beside(dataset.store, "ratings", key=[key(2)], rating=[5])
    if published:
        publish_manifest(dataset.store, force=True)
    assert numbers(select_samples(dataset.store, where="rating = 5", annotations=("ratings",))) == [2]


# ----------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"where": "rms_dbf > -60"}, "no column rms_dbf; did you mean rms_dbfs?"),
        ({"where": "split = eval"}, "no column eval; .*text stands in single quotes"),
        ({"where": "rating > 3"}, "no column rating; .* no annotation was named"),
        ({"where": "end > 3"}, 'write "end" in double quotes'),
        ({"where": "rms_dbfs >"}, "syntax error"),
        ({"where": "still); DROP TABLE labels; SELECT (1"}, "more than a condition"),
        ({"where": "key"}, "Could not convert string"),
        ({"where": "exists (from read_text('/etc/hostname'))"}, "disabled by configuration"),
        ({"where": "exists (from '/etc/hostname')"}, "does not exist"),
        ({"columns": ("pcm_sha",)}, "no column pcm_sha; did you mean pcm_sha256?"),
        ({"splits": ("evl",)}, "no samples in evl; .* has balanced_train 3,"),
        (
            {"where": "rms_dbfs > 3", "splits": ("eval",)},
            "none of 2 samples meets 'rms_dbfs > 3'; without it",
        ),
        (
            {"annotations": ("captions",)},
            "no annotation captions; expected a name in .*annotations, or the path",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(store: Store, asked: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer) as wrong:
        select_samples(store, **asked)
    assert "\n" not in str(wrong.value)


def test_a_condition_cannot_write(dataset: LedgeredDataset) -> None:
    publish_manifest(dataset.store, force=True)
    before = (dataset.store.read_bytes("manifest.duckdb"), dataset.store.names())
    for where in (
        "true) UNION ALL (INSERT INTO labels VALUES (1)",
        "(COPY labels TO '/tmp/x')",
        "nextval('x') > 0",
    ):
        with pytest.raises(SelectionError):
            select_samples(dataset.store, where=where)
    assert (dataset.store.read_bytes("manifest.duckdb"), dataset.store.names()) == before


def test_a_folder_without_ledgers_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="holds no ledgers; expected a dataset"):
        select_samples(open_store(tmp_path / "nowhere"))


def test_a_dataset_without_any_sample_says_so(tmp_path: Path) -> None:
    dataset = LedgeredDataset.begin(tmp_path / "empty", tmp_path)
    dataset.finish([attempt(segment(1), Outcome.PRIVATE)])
    with pytest.raises(NothingSelected, match="holds no samples"):
        select_samples(dataset.store)


def test_a_damaged_ledger_is_named_instead_of_missed(own: Store) -> None:
    broken = ledger_name("audioset-balanced_train-000001")
    own.publish_bytes(own.read_bytes(broken)[:-100], broken, replace=True)
    with pytest.raises(SelectionError, match=f"ledger {broken} cannot be read") as wrong:
        select_samples(own, splits=("eval",))
    publish_manifest(own, force=True)
    with pytest.raises(SelectionError, match=f"ledger {broken} cannot be read"):
        select_samples(own, splits=("eval",))
    assert "\n" not in str(wrong.value)


# -------------------------------------------------------------------------------------------- annotations


def test_an_annotation_is_selected_by_and_given_as_columns(own: Store) -> None:
    beside(
        own, "captions", key=[key(4), key(9), "elsewhere_0"], caption=[["a dog", "it barks"], ["x"], ["y"]]
    )
    found = select_samples(own, where="caption IS NOT NULL", annotations=("captions",), columns=("caption",))
    assert numbers(found) == [9, 4]
    assert found.table.column("caption").to_pylist() == [["x"], ["a dog", "it barks"]]


def test_an_annotation_may_lie_anywhere(own: Store, tmp_path: Path) -> None:
    path = tmp_path / "ratings by me.parquet"
    pq.write_table(pa.table({"rating": [1, 5], "key": pa.array([key(5), key(4)]).dictionary_encode()}), path)
    for reference in (str(path), path.as_posix()):
        assert numbers(select_samples(own, where="rating > 3", annotations=(reference,))) == [4]


def test_labels_of_an_annotation_take_the_place_of_the_ledgers(own: Store) -> None:
    beside(own, "fixes", key=[key(5)], mids=[[MUSIC, BARK]])
    found = select_samples(
        own, splits=("eval",), where="list_contains(classes, 'Music')", annotations=("fixes",)
    )
    assert found.table.column("mids").to_pylist() == [[MUSIC, BARK], [DOG, MUSIC]]


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        (
            {"key": [key(5), key(5)], "caption": ["a", "b"]},
            "video00005A_30000' is there twice, .*put several capt",
        ),
        ({"id": [key(5)], "caption": ["a"]}, "no column key; it has id, caption"),
        ({"key": [5], "caption": ["a"]}, "key holds int64; expected strings"),
        ({"key": [key(5), None], "caption": ["a", "b"]}, "1 of 2 rows have no key"),
        (
            {"key": ["x.wav"], "caption": ["a"]},
            "none of its 1 keys, such as 'x.wav', is a sample .* such as 'video",
        ),
        ({"key": [key(5)], "split": ["a"]}, "has a column split, and so have the ledgers; .*rename"),
    ],
)
def test_a_bad_annotation_is_answered_in_one_line(own: Store, columns: dict[str, Any], answer: str) -> None:
    beside(own, "captions", **columns)
    with pytest.raises(ValueError, match=answer) as wrong:
        select_samples(own, annotations=("captions",))
    assert "\n" not in str(wrong.value)


def test_an_annotation_that_is_no_parquet_is_refused(own: Store, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("key,caption\n")
    with pytest.raises(ValueError, match=r"captions\.csv cannot be read as an annotation"):
        select_samples(own, annotations=(str(tmp_path / "captions.csv"),))


def test_two_annotations_with_one_column_are_refused(own: Store) -> None:
    for name in ("mine", "yours"):
        beside(own, name, key=[key(5)], caption=["a"])
    with pytest.raises(
        SelectionError, match="yours has a column caption, and so have the rows of annotation mine"
    ):
        select_samples(own, annotations=("mine", "yours"))


def test_a_manifest_has_a_table_for_each_annotation(dataset: LedgeredDataset) -> None:
    beside(dataset.store, "captions", key=[key(4)], caption=["a dog"])
    beside(dataset.store, "broken", caption=["a dog"])
    publish_manifest(dataset.store, force=True)
    assert list(
        _rows(dataset, "SELECT split, caption FROM segments JOIN annotation_captions USING (key)")
    ) == [("eval", "a dog")]
    [(name, problem)] = _rows(dataset, "SELECT name, problem FROM sources WHERE problem IS NOT NULL")
    assert (name, problem[:13]) == ("annotations/broken.parquet", "no column key")
    beside(dataset.store, "captions", key=[key(4)], caption=["another"])
    dataset.store.delete("annotations/broken.parquet")
    publish_manifest(dataset.store, force=True)  # carried on from the one before
    assert list(_rows(dataset, "SELECT caption FROM annotation_captions")) == [("another",)]
    silent = "SELECT column_name FROM duckdb_columns() WHERE NOT internal AND coalesce(comment, '') = ''"
    assert list(_rows(dataset, silent)) == []


def _rows(dataset: LedgeredDataset, sql: str) -> Iterator[tuple[Any, ...]]:
    return run_query(open_manifest(dataset.store), sql).rows()


# ------------------------------------------------------------------------------------------------ overlap


def test_overlap_counts_videos_and_sounds_that_two_selections_share(dataset: LedgeredDataset) -> None:
    dataset.finish(
        [
            attempt(segment(5, split="unbalanced_train", start=60.0), pcm_sha256="another window of 5"),
            attempt(segment(20, split="unbalanced_train"), pcm_sha256=f"{4:064x}"),
            attempt(segment(21, split="unbalanced_train"), pcm_sha256=f"{5:064x}", silent_share=1.0),
            attempt(segment(22, split="unbalanced_train"), pcm_sha256=None),
        ]
    )
    train, test = (select_samples(dataset.store, splits=(split,)) for split in ("unbalanced_train", "eval"))
    found = overlap(dataset.store, train, test)
    assert (found.same_video, found.same_sound) == (1, 1)  # silence is shared by many
    assert found.examples == ("video00005A_60000", "video00020A_30000")
    assert not overlap(dataset.store, select_samples(dataset.store, splits=("balanced_train",)), test)
