"""Parquet read from open files: by nobody but the caller, and what it says of columns that are not there."""

import io
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.parquet import opened, read_group, read_table

ROWS = pa.table({"key": [f"k{n}" for n in range(5000)], "ok": [n % 2 == 0 for n in range(5000)]})


class Watched(io.FileIO):
    """A file that remembers which threads came to it."""

    def __init__(self, path: Path) -> None:
        self.threads: set[int] = set()
        super().__init__(path, "rb")

    def read(self, size: int | None = -1, /) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(size) or b""


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    pq.write_table(ROWS, tmp_path / "rows.parquet", row_group_size=1000)
    return Watched(tmp_path / "rows.parquet")


def test_a_table_is_read_from_an_open_file_by_the_calling_thread_alone(watched: Watched) -> None:
    assert read_table(watched) == ROWS
    assert watched.threads == {threading.get_ident()}


def test_a_row_group_is_read_from_an_open_file_by_the_calling_thread_alone(watched: Watched) -> None:
    assert read_group(opened(watched), 2, ["ok"]) == ROWS.slice(2000, 1000).select(["ok"])
    assert watched.threads == {threading.get_ident()}


def test_columns_come_in_the_order_asked_for(watched: Watched) -> None:
    assert read_table(watched, ["ok", "key"]).column_names == ["ok", "key"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(watched: Watched) -> None:
    with pytest.raises(pa.ArrowInvalid, match="no column mid, name; there are key, ok"):
        read_table(watched, ["key", "mid", "name"])
