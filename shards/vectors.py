"""Vectors on disk, and what each of them belongs to: a memory-mapped matrix with a Parquet row per line."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.manifest import connect, one_line, quoted
from shards.parquet import opened

FACTS = "index.json"
FORMAT = 1
ROW_GROUP = 1 << 13  # rows of Parquet that are read to tell of one
BLOCK = 1 << 15  # rows scored at once: 128 MiB of 1,024 numbers
DENSE = 0.5  # a block of which more is wanted is scored whole; of others, the wanted rows are gathered

Matrix = NDArray[np.float32]
RowNumbers = NDArray[np.int64]


class VectorIndexError(Exception):
    """No index, an index of another model, or a filter that cannot be answered; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFacts:
    """`index.json`: what made the vectors, and which files are current."""

    model: str  # as it was given: a published name, a file or a run folder
    fingerprint: str  # of its weights and settings; vectors of two models never share an index
    size: int  # numbers in a vector
    source: str  # the folder or dataset whose contents these are
    generation: int = 0
    rows: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # that change a vector
    format: int = FORMAT

    @property
    def vectors_name(self) -> str:
        return f"vectors-{self.generation:06d}.npy"

    @property
    def rows_name(self) -> str:
        return f"rows-{self.generation:06d}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One answer: a row, its cosine with the question, and what the row says."""

    row: int
    score: float
    facts: Mapping[str, Any]


def read_index_facts(folder: Path) -> IndexFacts:
    """Raises VectorIndexError where there is no index, or one of a later format."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
    except FileNotFoundError:
        raise VectorIndexError(
            f"{folder} holds no {FACTS}; expected an index: make one with `trichord index FOLDER --model …`"
        ) from None
    except (OSError, ValueError) as error:
        raise VectorIndexError(f"{folder / FACTS} cannot be read ({one_line(error)}); index again") from None
    if facts.get("format") != FORMAT:
        raise VectorIndexError(f"{folder}: index format {facts.get('format')!r}; expected {FORMAT}")
    return IndexFacts(**facts)


class VectorIndex:
    """An index that is searched. Vectors stay on disk and are mapped; rows are read when they are wanted."""

    def __init__(self, folder: Path, facts: IndexFacts, matrix: Matrix) -> None:
        self.folder = folder
        self.facts = facts
        self.matrix = matrix  # (N, D), rows of unit length

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises VectorIndexError where there is no whole index."""
        facts = read_index_facts(folder)
        try:
            matrix = np.load(folder / facts.vectors_name, mmap_mode="r")
        except (OSError, ValueError) as error:
            reason = one_line(error)
            raise VectorIndexError(f"{folder / facts.vectors_name}: {reason}; index again") from None
        if matrix.shape != (facts.rows, facts.size):
            expected = f"{facts.rows} x {facts.size}"
            raise VectorIndexError(f"{folder}: a matrix of {matrix.shape}, expected {expected}; index again")
        return cls(folder, facts, matrix)

    @property
    def rows_path(self) -> Path:
        return self.folder / self.facts.rows_name

    def search(self, question: Matrix, top: int, *, where: str = "") -> list[Hit]:
        """The `top` rows nearest to `question` (D,), best first; equal scores in the order of rows.

        `where` is SQL over the columns of `columns()`. Exact: every row that it leaves is scored.
        """
        wanted = self.rows_where(where) if where else None
        rows, scores = nearest(self.matrix, _unit(question), top, rows=wanted)
        facts = self._facts(rows)
        return [
            Hit(row=int(row), score=float(score), facts=fact)
            for row, score, fact in zip(rows, scores, facts, strict=True)
        ]

    def columns(self) -> list[str]:
        """What `where` may speak of."""
        names: list[str] = opened(self.rows_path).schema_arrow.names
        return names

    def values(self, column: str) -> list[str]:
        """What stands in a column, or in its lists, each once and in order."""
        each = "unnest" if pa.types.is_list(opened(self.rows_path).schema_arrow.field(column).type) else ""
        with contextlib.closing(_asking(self.rows_path)) as con:
            rows = f"read_parquet({quoted(self.rows_path)})"
            found = con.execute(f"SELECT DISTINCT {each}({column}) AS value FROM {rows} ORDER BY 1")
            return [value for (value,) in found.fetchall() if value is not None]

    def rows_where(self, sql: str) -> RowNumbers:
        """Row numbers, ascending, for which the SQL expression holds. Raises VectorIndexError."""
        with contextlib.closing(_asking(self.rows_path)) as con:
            try:
                found = con.execute(
                    f"SELECT file_row_number FROM read_parquet({quoted(self.rows_path)}, "
                    f"file_row_number = TRUE) WHERE ({sql}\n) ORDER BY 1"
                ).fetchnumpy()
            except duckdb.Error as error:
                columns = ", ".join(self.columns())
                raise VectorIndexError(f"--where {sql!r}: {one_line(error)}; columns: {columns}") from None
        numbers: RowNumbers = np.asarray(found["file_row_number"], dtype=np.int64)
        return numbers

    def _facts(self, rows: RowNumbers) -> list[dict[str, Any]]:
        """Of a few rows: only the row groups that hold them are read."""
        with opened(self.rows_path) as file:
            groups = sorted({int(row) // ROW_GROUP for row in rows})
            table = file.read_row_groups(groups)
        place = {group: order * ROW_GROUP for order, group in enumerate(groups)}
        lines = [place[int(row) // ROW_GROUP] + int(row) % ROW_GROUP for row in rows]
        facts: list[dict[str, Any]] = table.take(pa.array(lines, pa.int64())).to_pylist()
        return facts


def _asking(rows: Path) -> duckdb.DuckDBPyConnection:
    """A connection that reads this one file, and changes nothing."""
    con = connect()
    con.execute(f"SET allowed_paths = [{quoted(rows)}]; SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


def _unit(vector: Matrix) -> Matrix:
    vector = np.asarray(vector, dtype=np.float32).reshape(-1)
    unit: Matrix = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


# ------------------------------------------------------------------------------------------- nearest


def nearest(
    matrix: Matrix, question: Matrix, top: int, *, rows: RowNumbers | None = None
) -> tuple[RowNumbers, Matrix]:
    """(row numbers, scores) of the `top` largest products of `matrix` (N, D) with `question` (D,).

    `rows`, ascending, are those that may answer; None means all. Equal scores come in the order of rows.
    Memory is a block of the matrix, whatever N is.
    """
    best_rows, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for numbers, scores in _scored(matrix, question, rows):
        kept = _largest(scores, top)
        best_rows = np.concatenate([best_rows, numbers[kept]])
        best_scores = np.concatenate([best_scores, scores[kept]])
        order = np.lexsort((best_rows, -best_scores))[:top]
        best_rows, best_scores = best_rows[order], best_scores[order]
    return best_rows, best_scores


def _largest(scores: Matrix, top: int) -> NDArray[np.intp]:
    """Places of the `top` largest, and of all that equal the least of them."""
    if len(scores) <= top:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - top)[len(scores) - top]
    return np.flatnonzero(scores >= least)


def _scored(matrix: Matrix, question: Matrix, rows: RowNumbers | None) -> Iterator[tuple[RowNumbers, Matrix]]:
    """Blocks of (row numbers, scores), in order."""
    for first in range(0, len(matrix), BLOCK):
        block = matrix[first : first + BLOCK]
        if rows is None:
            yield np.arange(first, first + len(block)), block @ question
            continue
        low, high = np.searchsorted(rows, (first, first + len(block)))
        if low < high:
            numbers = rows[low:high]
            yield numbers, _products(block, numbers - first, question)


def _products(block: Matrix, places: RowNumbers, question: Matrix) -> Matrix:
    if len(places) > DENSE * len(block):
        every: Matrix = (block @ question)[places]
        return every
    some: Matrix = block[places] @ question
    return some
