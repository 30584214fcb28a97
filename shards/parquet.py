"""Reading Parquet: what comes from an open file is read by the calling thread alone.

Arrow's own threads may hold a Python file a moment longer than the call that gave it to them. When the
interpreter ends in that moment, such a thread ends the whole process with `terminate called without an active
exception`, after all the work was done. So files of Python's are read without threads; what is read by its
path may use them. All reading goes through here, which ruff sees to; a writer leaves no thread behind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq


def opened(source: Path | IO[bytes]) -> pq.ParquetFile:
    """A Parquet file of which nothing is read ahead; for its footer, and for `read_group`."""
    return pq.ParquetFile(source, pre_buffer=False)


def read_table(source: Path | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """All columns or the named ones, in their order.

    Raises pyarrow.ArrowInvalid for what is no Parquet and for a column that the file lacks, OSError.
    """
    with opened(source) as file:
        names = file.schema_arrow.names
        if lacking := [name for name in columns or () if name not in names]:
            raise pa.ArrowInvalid(f"no column {', '.join(lacking)}; there are {', '.join(names)}")
        return file.read(columns, use_threads=isinstance(source, Path))


def read_group(file: pq.ParquetFile, index: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a file that was opened here."""
    return file.read_row_group(index, columns, use_threads=False)
