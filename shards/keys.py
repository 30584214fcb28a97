"""Sample keys as strings, kept as Arrow keeps them."""

# apart from what imports duckdb: `overload` keeps its module to the very end, and duckdb then complains

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa


class Keys(Sequence[str]):
    """A column of strings as a sequence of `str`: two million keys take 50 MB."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: int | slice) -> "str | Keys":
        if isinstance(index, slice):
            return Keys(self.column.take(np.arange(len(self))[index]))
        return str(self.column[int(index)].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self.column.iterchunks():
            yield from chunk.to_pylist()
