"""Annotations: facts about samples that others add, such as captions, as Parquet files keyed by sample.

An annotation lies beside the shards as `annotations/NAME.parquet`, or anywhere. It has one row a sample;
several captions of one sample are one list.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from shards.layout import ANNOTATION_FOLDER
from shards.parquet import opened, read_table
from shards.store import Store, open_store

KEY = "key"

_NAME = re.compile(r"[A-Za-z0-9_-]+")


class AnnotationError(ValueError):
    """A file that is no annotation; the message is one line and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """A file's rows, each with a key of its own."""

    name: str
    table: pa.Table  # key: string, then the columns that it adds

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it adds."""
        return tuple(name for name in self.table.column_names if name != KEY)


def is_annotation(name: str) -> bool:
    """Whether a file of a store is an annotation beside its shards."""
    return name.startswith(f"{ANNOTATION_FOLDER}/") and name.endswith(".parquet")


def table_name(file: str) -> str:
    """`annotation_captions` for `annotations/captions.parquet`: its table in a manifest."""
    return f"annotation_{PurePosixPath(file).stem}"


def read_annotation(store: Store, reference: str) -> Annotation:
    """The annotation beside the store's shards with this name, or the Parquet file at this path or URL.

    Raises AnnotationError for a file that is not there, is no Parquet, lacks `key` or has a key twice.
    """
    try:
        with _opened(store, reference) as file:
            table = read_table(file)
    except FileNotFoundError:
        raise AnnotationError(f"no annotation {reference}; {_expected(store)}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise AnnotationError(
            f"{reference} cannot be read as an annotation: {why}; {_expected(store)}"
        ) from None
    if fault := _fault(table):
        raise AnnotationError(f"{reference}: {fault}")
    keys = table.column(KEY).cast(pa.string())
    table = table.set_column(table.column_names.index(KEY), KEY, keys)
    return Annotation(name=PurePosixPath(reference).stem, table=table)


def key_fault(file: Path) -> str | None:
    """Why a file is no annotation, by its keys alone; None for one that is."""
    try:
        names = opened(file).schema_arrow.names
        table = read_table(file, [KEY] if KEY in names else [])
    except (OSError, ValueError, pa.ArrowException) as error:
        return " ".join(str(error).split())
    return _fault(table, names)


def _opened(store: Store, reference: str) -> BinaryIO:
    if _NAME.fullmatch(reference):
        return store.open(f"{ANNOTATION_FOLDER}/{reference}.parquet")
    if "://" in reference:
        folder, _, name = reference.rpartition("/")
        return open_store(folder).open(name)
    return Path(reference).expanduser().open("rb")


def _expected(store: Store) -> str:
    there = [PurePosixPath(name).stem for name in store.names(f"{ANNOTATION_FOLDER}/") if is_annotation(name)]
    beside = f"one of {', '.join(there)}" if there else f"a name in {store.url}/{ANNOTATION_FOLDER}"
    return f"expected {beside}, or the path of a Parquet file with a column {KEY}"


def _fault(table: pa.Table, names: Sequence[str] | None = None) -> str | None:
    names = table.column_names if names is None else names
    if KEY not in names:
        return f"no column {KEY}; it has {', '.join(names)}: name the column of sample keys so"
    keys = table.column(KEY)
    if not _holds_strings(keys.type):
        return f"{KEY} holds {keys.type}; expected strings such as -0RWZT-miFs_420000"
    if keys.null_count:
        return f"{keys.null_count} of {len(keys)} rows have no {KEY}; expected one in each"
    keys = keys.cast(pa.string())
    if (twice := len(keys) - pc.count_distinct(keys).as_py()) > 0:
        return (
            f"{KEY} {_repeated(keys)!r} is there twice, and {twice} rows repeat a {KEY}; expected one row "
            "a sample: put several captions into a list (SELECT key, list(caption) AS caption … GROUP BY key)"
        )
    return None


def _holds_strings(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _repeated(keys: pa.ChunkedArray) -> str:
    counts = pc.value_counts(keys)
    first = pc.index(pc.greater(counts.field("counts"), 1), True).as_py()
    return str(counts.field("values")[first].as_py())
