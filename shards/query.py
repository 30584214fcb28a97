"""Questions to a manifest in SQL: they only read, and nothing but the manifest."""

import contextlib
import difflib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from shards.layout import MANIFEST
from shards.manifest import Connection, build_manifest, connect, list_sources, one_line, quoted
from shards.publication import is_published
from shards.store import Store

READING = ("SELECT", "FROM", "WITH", "DESCRIBE", "SHOW", "EXPLAIN", "SUMMARIZE", "PIVOT", "UNPIVOT", "VALUES")
BATCH_ROWS = 8192


class QueryError(Exception):
    """A query that cannot be answered; the message is one line and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    name: str
    type: str  # in DuckDB's words
    comment: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A table or view of the manifest."""

    name: str
    comment: str
    rows: int
    columns: tuple[Column, ...]


class Answer:
    """The rows of a query, as they come."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Raises QueryError when a row cannot be computed."""
        try:
            yield from self._reader
        except (pa.ArrowException, duckdb.Error, OSError) as error:
            raise QueryError(one_line(error)) from error

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Each row as Python values; times carry their zone, UTC."""
        for batch in self.batches():
            yield from zip(*map(_values, batch.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:  # a sum of integers, in 128 bits
        return [None if value is None else int(value) for value in values]
    return values


# ---------------------------------------------------------------------------------------------- open


def open_manifest(store: Store, *, fresh: bool = False) -> Connection:
    """A connection that can read the dataset's manifest, and nothing else.

    The published snapshot answers while it knows every file of the dataset. Otherwise, and always with
    `fresh`, a temporary one is built from the ledgers; `fresh` takes nothing over from the published one.
    Raises ManifestError when the store holds no dataset.
    """
    path = store.local_path(MANIFEST)
    if path is not None and not fresh and path.exists():
        with contextlib.suppress(duckdb.Error):
            con = attach_manifest(path)
            if _knows_all(con, store):
                return _locked(con)
            con.close()
    with tempfile.TemporaryDirectory(prefix="trichord-manifest-") as folder:
        built = Path(folder, MANIFEST)
        build_manifest(store, built, previous=not fresh and is_published(store))
        return _locked(attach_manifest(built))  # an open file outlives its name


def attach_manifest(path: Path) -> Connection:
    """Open a manifest's file read-only; duckdb.Error when it is none.

    It is attached, not connected to: DuckDB would give the file it has open already for a replaced one of the
    same name.
    """
    con = connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"SET temp_directory = {quoted(Path(tempfile.gettempdir(), 'trichord-spill'))}")
    con.execute(f"ATTACH {quoted(path)} AS manifest (READ_ONLY); USE manifest")
    return con


def _knows_all(con: Connection, store: Store) -> bool:
    known = set(con.execute("SELECT name, bytes, mtime FROM sources").fetchall())
    return known == {(entry.name, entry.size, entry.mtime) for entry in list_sources(store)}


def _locked(con: Connection) -> Connection:
    con.execute("SET enable_external_access = false; SET lock_configuration = true")
    return con


# ------------------------------------------------------------------------------------------ describe


def describe_views(con: Connection) -> list[View]:
    """What there is to ask: views first, then tables."""
    found = con.execute(
        "SELECT view_name, comment, 0 FROM duckdb_views() WHERE database_name = 'manifest' AND NOT internal "
        "UNION ALL SELECT table_name, comment, 1 FROM duckdb_tables() WHERE database_name = 'manifest' "
        "ORDER BY 3, 1"
    ).fetchall()
    return [_view(con, name, comment or "") for name, comment, _ in found]


def _view(con: Connection, name: str, comment: str) -> View:
    columns = con.execute(
        "SELECT column_name, data_type, coalesce(comment, '') FROM duckdb_columns() "
        "WHERE database_name = 'manifest' AND table_name = $1 ORDER BY column_index",
        [name],
    ).fetchall()
    [(rows,)] = con.execute(f'SELECT count(*) FROM manifest."{name}"').fetchall()
    return View(
        name=name,
        comment=comment,
        rows=rows,
        columns=tuple(Column(name=column, type=kind, comment=text) for column, kind, text in columns),
    )


# --------------------------------------------------------------------------------------------- query


def run_query(con: Connection, sql: str) -> Answer:
    """Answer one reading statement, in full SQL or as short as `from coverage`.

    Raises QueryError for anything else, and for names that the manifest lacks.
    """
    own = con.cursor()  # an answer that is not read to its end would block its connection
    own.execute("USE manifest")
    _check_reading(own, sql)
    try:
        return Answer(own.sql(sql).to_arrow_reader(BATCH_ROWS))
    except duckdb.Error as error:
        raise QueryError(_explained(own, error)) from error


def _check_reading(con: Connection, sql: str) -> None:
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(_explained(con, error)) from error
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements; expected one, such as: from coverage")
    if _first_word(sql) not in READING:
        raise QueryError(
            f"{_shortened(sql)!r} does not read; a manifest is a snapshot that is only read: "
            f"begin with {', '.join(READING[:-1])} or {READING[-1]}"
        )


def _first_word(sql: str) -> str:
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)
    found = re.search(r"[A-Za-z]+", bare)
    return found.group().upper() if found else ""


def _shortened(sql: str, width: int = 60) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= width else f"{text[:width]}…"


def _explained(con: Connection, error: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the place, and what would have been right."""
    text = one_line(Exception(re.split(r"\n\s*\n?LINE ", str(error))[0]))
    if 'at or near "end"' in text:
        return f'{text}; end is a word of SQL: write "end" in double quotes'
    if isinstance(error, duckdb.CatalogException):
        return _misspelt(con, text)
    if "read-only mode" in text:
        return "the statement writes; a manifest is a snapshot that is only read"
    return text


def _misspelt(con: Connection, text: str) -> str:
    names = _names(con)
    wrong = re.search(r"with name (\S+) does not exist", text)
    if wrong is None or "Table" not in text:
        return text
    close = difflib.get_close_matches(wrong.group(1).lower(), names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"no table or view {wrong.group(1)}. {hint}There are {', '.join(names)}"


def _names(con: Connection) -> list[str]:
    rows = con.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'manifest' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]
