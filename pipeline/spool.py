"""Finished segments of an unfinished shard, each on disk as soon as it is done."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.ledger import Attempt
from shards.sample import Sample
from shards.segment import Segment
from shards.tar import entries

_ROW = re.compile(r"(\d{6})\.json")


class DiskFull(Exception):
    """There is no room to go on. Nothing is lost: what is finished stays, and a later run goes on from it."""


def raise_if_full(error: OSError, folder: Path) -> None:
    """DiskFull in place of an error that means so."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(f"no room left in {folder}; free some and run the same command again") from None


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder with two files a segment: `000042.part`, its entries of the tar, and `000042.json`, its row.

    The row is written last: a segment whose row exists is done.
    """

    folder: Path

    def prepare(self, segments: Sequence[Segment]) -> None:
        """Make the folder, and clear what a killed worker left half done or what is of another plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.partial"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        for position in self.done():
            if position >= len(segments) or not _same(self._read(position), segments[position]):
                self._row(position).unlink()
                self.part(position).unlink(missing_ok=True)

    def done(self) -> set[int]:
        """Positions in the plan of the finished segments."""
        names = os.listdir(self.folder) if self.folder.exists() else []
        matches = (_ROW.fullmatch(name) for name in names)
        return {int(match[1]) for match in matches if match}

    def add(self, position: int, attempt: Attempt, sample: Sample | None) -> Attempt:
        """Keep a finished segment; the returned attempt knows its size in the tar. Raises DiskFull."""
        try:
            if sample is not None:
                part = entries(sample)
                self._write(self.part(position), part)
                sha256 = hashlib.sha256(part).hexdigest()
                attempt = replace(attempt, sample_bytes=len(part), sample_sha256=sha256)
            self._write(self._row(position), attempt.to_json().encode())
        except OSError as error:
            raise_if_full(error, self.folder)
            raise
        return attempt

    def finished(self) -> list[tuple[Attempt, Path]]:
        """Rows and parts in the order of the plan; the parts of failures do not exist."""
        return [(self._read(position), self.part(position)) for position in sorted(self.done())]

    def _read(self, position: int) -> Attempt:
        return Attempt.from_json(self._row(position).read_text())

    def part(self, position: int) -> Path:
        return self.folder / f"{position:06d}.part"

    def _row(self, position: int) -> Path:
        return self.folder / f"{position:06d}.json"

    def _write(self, target: Path, content: bytes) -> None:
        partial = target.with_name(target.name + ".partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _same(attempt: Attempt, segment: Segment) -> bool:
    """Whether that was tried: a plan that was given up leaves its shards' names to another."""
    return (attempt.key, attempt.split, attempt.mids) == (segment.key, segment.split, segment.mids)
