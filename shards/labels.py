"""The class table: which mid is which class, by index and by name."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from shards.parquet import read_table
from shards.whole_file import appearing

CLASS_LABELS = "class_labels_indices.csv"
COLUMNS = ("index", "mid", "display_name")  # as AudioSet's class_labels_indices.csv heads them

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int32()),
        pa.field("mid", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("parents", pa.list_(pa.string()), nullable=False),
    ]
)


class LabelsError(ValueError):
    """A file that is no class table, or a class that a table lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassLabel:
    """One class. Classes of the ontology that no segment is labelled with have no index."""

    index: int | None
    mid: str
    name: str
    parents: tuple[str, ...] = ()  # mids; several for some classes, none known without the ontology


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """All classes of a dataset, in the order of their table."""

    by_mid: Mapping[str, ClassLabel]

    @classmethod
    def of(cls, classes: Iterable[ClassLabel]) -> Self:
        """The table of these classes; LabelsError when two share a mid or an index."""
        by_mid: dict[str, ClassLabel] = {}
        by_index: dict[int, str] = {}
        for label in classes:
            if label.mid in by_mid:
                raise LabelsError(f"mid {label.mid} is listed twice; a class table lists each class once")
            if label.index is not None and by_index.setdefault(label.index, label.mid) != label.mid:
                raise LabelsError(
                    f"index {label.index} belongs to {by_index[label.index]} and to {label.mid}; "
                    "each class needs an index of its own"
                )
            by_mid[label.mid] = label
        return cls(by_mid=by_mid)

    def __len__(self) -> int:
        return len(self.by_mid)

    def __iter__(self) -> Iterator[ClassLabel]:
        return iter(self.by_mid.values())

    def names(self, mids: Iterable[str]) -> tuple[str, ...]:
        """Class names in the order of `mids`; a mid that is not in the table stands for itself."""
        by_mid = self.by_mid
        return tuple(by_mid[mid].name if mid in by_mid else mid for mid in mids)

    def unknown(self, mids: Iterable[str]) -> Counter[str]:
        """How often each mid that the table lacks occurs in `mids`."""
        return Counter(mid for mid in mids if mid not in self.by_mid)

    def index(self, mid: str) -> int:
        """The class's place in a vector of class scores; LabelsError when it has none."""
        label = self.by_mid.get(mid)
        if label is None:
            raise LabelsError(f"{mid} is none of the {len(self)} classes of this table")
        if label.index is None:
            raise LabelsError(
                f"{mid} ({label.name}) has no class index; {CLASS_LABELS} lists those that have"
            )
        return label.index

    @property
    def indexed(self) -> tuple[ClassLabel, ...]:
        """The classes that have an index, by index: the order of a vector of class scores."""
        return tuple(label for _, label in sorted((c.index, c) for c in self if c.index is not None))


def read_class_labels(path: Path | str) -> Labels:
    """AudioSet's `class_labels_indices.csv`: 527 rows of index, mid and display name.

    LabelsError, with the line number, when the file is something else.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            classes = list(_class_labels(file, path))
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read as a class table: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path}: not UTF-8 text, expected {CLASS_LABELS}") from error
    try:
        return Labels.of(classes)
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error


def _class_labels(file: IO[str], path: Path | str) -> Iterator[ClassLabel]:
    rows = csv.DictReader(file, skipinitialspace=True)
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise LabelsError(f"{path}: no column {', '.join(missing)}; expected the heading {','.join(COLUMNS)}")
    for row in rows:
        yield _class_label(row, f"{path}, line {rows.line_num}")


def _class_label(row: Mapping[str, str | None], where: str) -> ClassLabel:
    index, mid, name = (row[column] for column in COLUMNS)
    if not (index and mid and name):
        raise LabelsError(f"{where}: expected {','.join(COLUMNS)}, found {index},{mid},{name}")
    if not (index.isascii() and index.isdigit()):
        raise LabelsError(f"{where}: index {index!r} is no whole number")
    return ClassLabel(index=int(index), mid=mid, name=name)


def write_labels(target: Path | IO[bytes], labels: Labels) -> None:
    """Write the table as Parquet; a path is renamed into place, an open file is the caller's to publish."""
    if not isinstance(target, Path):
        pq.write_table(_table(labels), target, compression="zstd")
        return
    with appearing(target) as partial:
        pq.write_table(_table(labels), partial, compression="zstd")


def _table(labels: Labels) -> pa.Table:
    rows = [{"index": c.index, "mid": c.mid, "name": c.name, "parents": c.parents} for c in labels]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_labels(source: Path | IO[bytes]) -> Labels:
    """The table that `write_labels` wrote; LabelsError when the file is something else."""
    try:
        rows: list[dict[str, Any]] = read_table(source, SCHEMA.names).to_pylist()
        classes = [ClassLabel(**{**row, "parents": tuple(row["parents"])}) for row in rows]
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise LabelsError(f"{source}: cannot be read as a class table: {error}") from error
    return Labels.of(classes)
