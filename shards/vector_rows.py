"""What each vector of an index belongs to: rows of Parquet, filtered by SQL."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.manifest import Connection, connect, one_line, quoted
from shards.parquet import opened

ROW_GROUP = 1 << 13  # rows of Parquet that are read to tell of one

RowNumbers = NDArray[np.int64]


class VectorIndexError(Exception):
    """No index, an index of another model, or a filter that cannot be answered; the message is one line."""


class VectorRows:
    """A Parquet file with a row for each vector. What is asked of it in SQL goes over one connection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> list[str]:
        """What a filter may speak of."""
        with self._there():
            names: list[str] = opened(self.path).schema_arrow.names
        return names

    def values(self, column: str) -> list[str]:
        """What stands in a column, or in its lists, each once and in order."""
        with self._there():
            each = "unnest" if pa.types.is_list(opened(self.path).schema_arrow.field(column).type) else ""
        found = self._asked(f"SELECT DISTINCT {each}({column}) AS value FROM {self._rows} ORDER BY 1")
        return [value for (value,) in found.fetchall() if value is not None]

    def where(self, *filters: str) -> RowNumbers:
        """Row numbers, ascending, for which every SQL expression holds. Raises VectorIndexError."""
        together = " AND ".join(f"({sql}\n)" for sql in filters)
        try:
            self._check_expressions(filters)
            found = self._numbers(together)
        except duckdb.Error as error:
            raise VectorIndexError(self._wrong(filters, error)) from None
        return found

    def facts(self, rows: RowNumbers) -> list[dict[str, Any]]:
        """Of a few rows: only the row groups that hold them are read."""
        groups = sorted({int(row) // ROW_GROUP for row in rows})
        with self._there(), opened(self.path) as file:
            table = file.read_row_groups(groups)
        place = {group: order * ROW_GROUP for order, group in enumerate(groups)}
        lines = [place[int(row) // ROW_GROUP] + int(row) % ROW_GROUP for row in rows]
        facts: list[dict[str, Any]] = table.take(pa.array(lines, pa.int64())).to_pylist()
        return facts

    @cached_property
    def _rows(self) -> str:
        return f"read_parquet({quoted(self.path)}, file_row_number = TRUE)"

    @cached_property
    def _connection(self) -> Connection:
        """Made when it is first needed; it reads this one file, and changes nothing."""
        con = connect()
        con.execute(f"SET allowed_paths = [{quoted(self.path)}]; SET enable_external_access = false")
        con.execute("SET parquet_metadata_cache = true; SET lock_configuration = true")
        return con

    def _asked(self, sql: str) -> Connection:
        return self._connection.cursor().execute(sql)  # of its own: threads may ask side by side

    def _numbers(self, condition: str) -> RowNumbers:
        found = self._asked(f"SELECT file_row_number FROM {self._rows} WHERE {condition} ORDER BY 1")
        return np.asarray(found.fetchnumpy()["file_row_number"], dtype=np.int64)

    def _check_expressions(self, filters: Sequence[str]) -> None:
        """Each is whole by itself: no bracket of one closes what another, or we, opened."""
        for sql in filters:
            if len(self._connection.cursor().extract_statements(f"SELECT 1 WHERE {sql}\n")) != 1:
                raise duckdb.ParserException("more than one statement; expected an expression")

    def _wrong(self, filters: Sequence[str], error: duckdb.Error) -> str:
        """Which of the filters, and why, without DuckDB's drawing of the place."""
        reason = one_line(Exception(re.split(r"\s*\n\s*LINE \d+:", str(error))[0]))
        sql = next((sql for sql in filters if self._fails(sql)), " AND ".join(filters))
        return f"filter {sql!r}: {reason}; columns: {', '.join(self.columns())}"

    def _fails(self, sql: str) -> bool:
        try:
            self._check_expressions([sql])
            self._numbers(f"({sql}\n)")
        except duckdb.Error:
            return True
        return False

    @contextmanager
    def _there(self) -> Iterator[None]:
        """The file of a generation goes when the next one is complete."""
        try:
            yield
        except FileNotFoundError:
            raise VectorIndexError(
                f"{self.path} is gone; if the index was brought up to date meanwhile, open it again"
            ) from None
        except (OSError, pa.ArrowInvalid) as error:
            raise VectorIndexError(f"{self.path} cannot be read ({one_line(error)}); index again") from None
