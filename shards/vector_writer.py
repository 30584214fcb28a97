"""How an index of vectors is made and kept up to date: in parts that a kill cannot lose, then joined."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.manifest import one_line
from shards.parquet import opened, read_table
from shards.vector_rows import ROW_GROUP, RowNumbers, VectorIndexError
from shards.vectors import FACTS, IndexFacts, Matrix, read_index_facts
from shards.whole_file import appearing

PENDING = "pending"
NO_ROWS = pa.schema(  # of an index that has never had any
    {name: pa.string() for name in ("path", "modality", "unit", "sha256")}
    | {"bytes": pa.int64(), "mtime": pa.float64()}
)
COPY = 1 << 14  # rows copied at once


class VectorWriter:
    """Vectors on their way into an index.

    `add` keeps each part on disk at once; `publish` joins what is kept of the index with the parts into a new
    generation, whose name in `index.json` is written last. Until then a search sees the old one.
    """

    def __init__(self, folder: Path, facts: IndexFacts) -> None:
        """Raises VectorIndexError for vectors of another model, source or options, and where none can be."""
        self.folder = folder
        self.current = _current(folder, facts)
        self.facts = self.current or facts
        try:
            (folder / PENDING).mkdir(parents=True, exist_ok=True)
            self._check_pending(facts)
        except OSError as error:
            raise VectorIndexError(f"{folder} cannot hold an index: {error}") from None

    def _check_pending(self, facts: IndexFacts) -> None:
        """Parts that a killed run left are of use to the same model only."""
        note = self.folder / PENDING / FACTS
        mine = json.dumps(_made_by(facts), sort_keys=True)
        if not note.exists() or note.read_text() != mine:
            for file in (self.folder / PENDING).iterdir():
                file.unlink()
            _write(note, mine.encode())

    @property
    def lines(self) -> int:
        """How many vectors there are: those of the index, then those of the parts."""
        return sum(opened(path).metadata.num_rows for path in self._row_files())

    def rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """These columns of every line, in order."""
        return [row for path in self._row_files() for row in _read(path, columns).to_pylist()]

    def add(self, vectors: Matrix, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep vectors (n, D) with their rows; they survive a kill from here on."""
        if vectors.shape != (len(rows), self.facts.size):
            raise ValueError(f"vectors {vectors.shape}; expected ({len(rows)}, {self.facts.size})")
        number = len(self._parts()) + 1
        stem = self.folder / PENDING / f"{number:06d}"
        _save(stem.with_suffix(".npy"), np.ascontiguousarray(vectors, dtype=np.float32))
        _save_rows(stem.with_suffix(".parquet"), pa.Table.from_pylist(list(rows)))  # last: a part is whole

    def publish(self, keep: RowNumbers) -> IndexFacts:
        """A new generation of the lines `keep`, counted as in `rows`, in that order; the index's facts."""
        generation = self.current.generation + 1 if self.current else 1
        facts = dataclasses.replace(self.facts, generation=generation, rows=len(keep))
        table = self._table().take(pa.array(keep))
        _save_matrix(self.folder / facts.vectors_name, self._matrices(), keep, facts.size)
        _save_rows(self.folder / facts.rows_name, table)
        _write(self.folder / FACTS, json.dumps(dataclasses.asdict(facts), indent=2).encode())
        self._clear(facts)
        self.current = self.facts = facts
        return facts

    def _table(self) -> pa.Table:
        tables = [read_table(path) for path in self._row_files()]
        return pa.concat_tables(tables, promote_options="permissive") if tables else NO_ROWS.empty_table()

    def _row_files(self) -> list[Path]:
        index = [self.folder / self.current.rows_name] if self.current else []
        return index + self._parts()

    def _parts(self) -> list[Path]:
        return sorted((self.folder / PENDING).glob("[0-9]*.parquet"))

    def _matrices(self) -> list[Matrix]:
        files = [path.with_suffix(".npy") for path in self._parts()]
        if self.current:
            files.insert(0, self.folder / self.current.vectors_name)
        return [np.load(file, mmap_mode="r") for file in files]

    def _clear(self, facts: IndexFacts) -> None:
        """What the new generation replaced. Who has it open keeps it."""
        stale = [*(self.folder / PENDING).glob("[0-9]*")]
        stale += [path for path in self.folder.glob("vectors-*.npy") if path.name != facts.vectors_name]
        stale += [path for path in self.folder.glob("rows-*.parquet") if path.name != facts.rows_name]
        for path in stale:
            path.unlink(missing_ok=True)


def _current(folder: Path, facts: IndexFacts) -> IndexFacts | None:
    if not (folder / FACTS).exists():
        return None
    current = read_index_facts(folder)
    for name, there in _made_by(current).items():
        if there != (here := _made_by(facts)[name]):
            raise VectorIndexError(
                f"{folder} was made with {name} {_shown(there)}, not {_shown(here)}; vectors of two kinds do "
                "not mix. Give another --index, or delete this one"
            )
    return current


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return read_table(path, columns)
    except (OSError, pa.ArrowInvalid) as error:
        reason = one_line(error)
        raise VectorIndexError(
            f"{path} cannot be read ({reason}); delete the index and make it again"
        ) from None


def _shown(made_by: object) -> str:
    if isinstance(made_by, Mapping):
        return ", ".join(f"{name}={value}" for name, value in made_by.items())
    return str(made_by)


def _made_by(facts: IndexFacts) -> dict[str, Any]:
    """What must agree for two vectors to be comparable, and for rows to belong together."""
    return {
        "source": facts.source,
        "model": facts.fingerprint,
        "size": facts.size,
        "options": dict(facts.options),
    }


def _save_matrix(target: Path, parts: Sequence[Matrix], keep: RowNumbers, size: int) -> None:
    """The lines `keep` of the parts, one after another; at most COPY of them are in memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(keep), size)}
    with appearing(target) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for rows in _gathered(parts, keep, size):
            file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _gathered(parts: Sequence[Matrix], keep: RowNumbers, size: int) -> Iterator[Matrix]:
    starts = np.cumsum([0, *(len(part) for part in parts)])
    for first in range(0, len(keep), COPY):
        lines = keep[first : first + COPY]
        rows = np.empty((len(lines), size), np.float32)
        of = np.searchsorted(starts, lines, side="right") - 1
        for number in np.unique(of):
            mine = of == number
            rows[mine] = parts[number][lines[mine] - starts[number]]
        yield rows


def _save(target: Path, array: Matrix) -> None:
    with appearing(target) as partial, partial.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _save_rows(target: Path, table: pa.Table) -> None:
    with appearing(target) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP)


def _write(target: Path, content: bytes) -> None:
    with appearing(target) as partial:
        partial.write_bytes(content)
