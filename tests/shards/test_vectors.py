"""Vectors on disk: exact answers, filters, and parts that outlive a kill."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shards.vector_rows import VectorIndexError
from shards.vector_writer import VectorWriter
from shards.vectors import BLOCK, IndexFacts, VectorIndex, nearest

SIZE = 8


def _facts(**changes: object) -> IndexFacts:
    return IndexFacts(**{"model": "m", "fingerprint": "f0", "size": SIZE, "source": "here", **changes})


def _vectors(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _rows(count: int) -> list[dict[str, object]]:
    return [
        {"path": f"{line}.wav", "labels": [f"class {line % 3}"], "loud": line / 10} for line in range(count)
    ]


def _index(folder: Path, count: int = 50) -> VectorIndex:
    writer = VectorWriter(folder, _facts())
    writer.add(_vectors(count), _rows(count))
    writer.publish(np.arange(count))
    return VectorIndex.open(folder)


@pytest.mark.parametrize("top", [1, 7, 1000])
def test_nearest_is_what_sorting_every_score_gives(top: int) -> None:
    matrix, question = _vectors(BLOCK + 100), _vectors(1, seed=1)[0]

    rows, scores = nearest(matrix, question, top)

    every = matrix @ question
    expected = np.argsort(-every, kind="stable")[:top]
    np.testing.assert_allclose(scores, every[expected], atol=1e-6)
    assert len(set(rows) & set(expected)) >= top - 1  # two rows a rounding apart may change places


def test_equal_scores_come_in_the_order_of_rows_across_blocks() -> None:
    matrix = np.tile(_vectors(1), (BLOCK + 10, 1))

    rows, _ = nearest(matrix, matrix[0], 5)

    assert rows.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_a_filter_leaves_the_best_of_what_passes(share: float) -> None:
    matrix, question = _vectors(BLOCK + 5000), _vectors(1, seed=2)[0]
    passing = np.flatnonzero(np.random.default_rng(0).random(len(matrix)) < share)

    rows, scores = nearest(matrix, question, 10, rows=passing)

    assert set(rows) <= set(passing)
    np.testing.assert_allclose(scores, np.sort((matrix @ question)[passing])[::-1][:10], atol=1e-6)


def test_a_search_answers_with_its_rows(tmp_path: Path) -> None:
    index = _index(tmp_path)

    [best, *_] = index.search(_vectors(50)[17] * 3, 5)

    assert (best.row, best.facts["path"]) == (17, "17.wav")
    assert best.score == pytest.approx(1.0, abs=1e-6)


def test_a_filter_is_sql_over_the_columns(tmp_path: Path) -> None:
    index = _index(tmp_path)

    hits = index.search(_vectors(50)[17], 50, where="list_contains(labels, 'class 1') AND loud > 2")

    assert sorted(hit.row for hit in hits) == [row for row in range(50) if row % 3 == 1 and row / 10 > 2]


@pytest.mark.parametrize(
    "where", ["lound > 2", "loud >", "path IN (SELECT content FROM read_text('/etc/passwd'))"]
)
def test_a_filter_that_cannot_be_is_one_line_that_names_the_columns(tmp_path: Path, where: str) -> None:
    with pytest.raises(VectorIndexError, match="columns: path, labels, loud") as caught:
        _index(tmp_path).search(_vectors(1)[0], 3, where=where)

    assert "\n" not in str(caught.value)


def test_several_filters_must_all_hold(tmp_path: Path) -> None:
    index = _index(tmp_path)

    hits = index.search(_vectors(1)[0], 50, where=("loud < 1 OR loud > 4", "loud > 0.5", ""))

    assert sorted(hit.row for hit in hits) == [6, 7, 8, 9, 41, 42, 43, 44, 45, 46, 47, 48, 49]


def test_a_filter_is_one_expression_and_the_wrong_one_is_named(tmp_path: Path) -> None:
    index = _index(tmp_path)

    for wrong in ("loud > 9) OR (1 = 1", "1; DROP TABLE rows", "loud > 1 ORDER BY loud", "lound > 2"):
        with pytest.raises(VectorIndexError, match=f"^filter '{re.escape(wrong)}': "):
            index.search(_vectors(1)[0], 3, where=("loud > 1", wrong))


def test_threads_filter_side_by_side(tmp_path: Path) -> None:
    index = _index(tmp_path)

    def rows(line: int) -> list[int]:
        return [hit.row for hit in index.search(_vectors(50)[line], 9, where=f"path = '{line}.wav'")]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(rows, range(50))) == [[line] for line in range(50)]


@pytest.mark.parametrize("where", ["", "loud > 2"])
def test_an_open_index_says_that_a_newer_one_took_its_place(tmp_path: Path, where: str) -> None:
    index = _index(tmp_path)
    VectorWriter(tmp_path, _facts()).publish(np.arange(3))

    with pytest.raises(VectorIndexError, match="brought up to date meanwhile, open it again"):
        index.search(_vectors(1)[0], 3, where=where)
    assert len(VectorIndex.open(tmp_path).search(_vectors(1)[0], 9)) == 3


@pytest.mark.parametrize("where", ["", "loud > 2"])
def test_rows_that_are_broken_are_one_line(tmp_path: Path, where: str) -> None:
    index = _index(tmp_path)
    (tmp_path / index.facts.rows_name).write_bytes(b"broken")

    with pytest.raises(VectorIndexError, match=r"rows-000001\.parquet cannot be read .*; index again$"):
        index.search(_vectors(1)[0], 3, where=where)
    with pytest.raises(VectorIndexError, match="delete the index and make it again"):
        VectorWriter(tmp_path, _facts()).rows(["path"])


@pytest.mark.parametrize("content", ["[1]", '{"format": 9}', '{"format": 1, "shape": 3}', "{"])
def test_an_index_json_of_something_else_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)

    with pytest.raises(VectorIndexError, match=r"index again$"):
        VectorIndex.open(tmp_path)


def test_a_file_cannot_hold_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")

    with pytest.raises(VectorIndexError, match="file cannot hold an index"):
        VectorWriter(tmp_path / "file", _facts())


def test_an_index_of_nothing_has_no_answer(tmp_path: Path) -> None:
    VectorWriter(tmp_path, _facts()).publish(np.arange(0))

    assert VectorIndex.open(tmp_path).search(_vectors(1)[0], 3, where="loud > 2") == []
    assert VectorWriter(tmp_path, _facts()).rows(["unit", "sha256"]) == []


def test_parts_of_a_killed_run_are_taken_up(tmp_path: Path) -> None:
    VectorWriter(tmp_path, _facts()).add(_vectors(3), _rows(3))  # and no publish

    writer = VectorWriter(tmp_path, _facts())

    assert [row["path"] for row in writer.rows(["path"])] == ["0.wav", "1.wav", "2.wav"]
    with pytest.raises(VectorIndexError, match="holds no index"):
        VectorIndex.open(tmp_path)


def test_a_generation_keeps_chosen_lines_of_index_and_parts_in_the_order_asked_for(tmp_path: Path) -> None:
    _index(tmp_path, 5)
    writer = VectorWriter(tmp_path, _facts())
    writer.add(_vectors(2, seed=9), [{"path": "new"}, {"path": "newer"}])

    writer.publish(np.array([6, 1, 3]))

    index = VectorIndex.open(tmp_path)
    np.testing.assert_array_equal(index.matrix, [_vectors(2, seed=9)[1], *_vectors(5)[[1, 3]]])
    assert [hit.facts["path"] for hit in index.search(_vectors(5)[1], 1)] == ["1.wav"]
    assert len(list(tmp_path.glob("vectors-*.npy"))) == 1


@pytest.mark.parametrize("change", [{"fingerprint": "f1"}, {"source": "there"}, {"options": {"window_s": 5}}])
def test_vectors_of_two_kinds_do_not_mix(tmp_path: Path, change: dict[str, object]) -> None:
    _index(tmp_path)

    with pytest.raises(VectorIndexError, match="do not mix"):
        VectorWriter(tmp_path, _facts(**change))
