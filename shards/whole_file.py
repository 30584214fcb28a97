"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Where to write what is to be `target`: it gets that name when all went well.

    What fails or is killed leaves `target` as it was, and a `.partial` beside it, which is overwritten.
    """
    partial = target.with_name(f"{target.name}.partial")
    yield partial
    partial.replace(target)


def write_lasting(target: Path, content: bytes) -> None:
    """As `appearing`, on the disk before it has its name: a machine that loses power leaves no empty file."""
    with appearing(target) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
