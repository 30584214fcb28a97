"""Vectors on disk, and what each of them belongs to: a memory-mapped matrix with a Parquet row per line."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shards.manifest import one_line
from shards.vector_rows import RowNumbers, VectorIndexError, VectorRows

FACTS = "index.json"
FORMAT = 1
BLOCK = 1 << 15  # rows scored at once: 128 MiB of 1,024 numbers
DENSE = 0.5  # a block of which more is wanted is scored whole; of others, the wanted rows are gathered

Matrix = NDArray[np.float32]


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
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        there = facts.get("format") if isinstance(facts, dict) else None
        raise VectorIndexError(f"{folder}: index format {there!r}; expected {FORMAT}: index again")
    try:
        return IndexFacts(**facts)
    except TypeError as error:
        raise VectorIndexError(f"{folder / FACTS} is no index's ({one_line(error)}); index again") from None


class VectorIndex:
    """An index that is searched. Vectors stay on disk and are mapped; rows are read when they are wanted.

    Threads may search side by side.
    """

    def __init__(self, folder: Path, facts: IndexFacts, matrix: Matrix) -> None:
        self.folder = folder
        self.facts = facts
        self.matrix = matrix  # (N, D), rows of unit length
        self.rows = VectorRows(folder / facts.rows_name)

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

    def search(self, question: Matrix, top: int, *, where: str | Sequence[str] = ()) -> list[Hit]:
        """The `top` rows nearest to `question` (D,), best first; equal scores in the order of rows.

        `where` is SQL over the columns of `rows`, or several expressions that must all hold. Exact: every row
        that they leave is scored. Raises VectorIndexError.
        """
        if not self.facts.rows:
            return []
        filters = [sql for sql in ([where] if isinstance(where, str) else where) if sql.strip()]
        wanted = self.rows.where(*filters) if filters else None
        rows, scores = nearest(self.matrix, _unit(question), top, rows=wanted)
        return [
            Hit(row=int(row), score=float(score), facts=facts)
            for row, score, facts in zip(rows, scores, self.rows.facts(rows), strict=True)
        ]


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
