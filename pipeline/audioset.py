"""What a segments file is: where its rows are, which of them are bad, and which a run takes."""

import gzip
import hashlib
import heapq
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from pipeline.ontology import LabelFilter
from pipeline.segment_rows import Columns, Malformed, columns_at, named_columns
from shards.segment import Segment


class SegmentsError(ValueError):
    """A file that is no segments file, or one with malformed rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that gives no segment."""

    line: int  # from 1, as editors count
    text: str  # its first 200 characters
    reason: str


class BadRows:
    """Takes the bad rows of a reading: counts all, keeps the first."""

    def __init__(self, keep: int = 20) -> None:
        self._keep = keep
        self.first: list[BadRow] = []
        self.total = 0

    def __call__(self, row: BadRow) -> None:
        self.total += 1
        if len(self.first) < self._keep:
            self.first.append(row)

    def refuse(self, path: Path | str) -> None:
        """SegmentsError that shows the rows kept, if there was any bad row."""
        if not self.total:
            return
        shown = "\n".join(f"  line {row.line}: {row.reason}: {row.text}" for row in self.first)
        more = f"\n  and {self.total - len(self.first)} more" if self.total > len(self.first) else ""
        rows = "1 malformed row" if self.total == 1 else f"{self.total} malformed rows"
        raise SegmentsError(
            f"{path}: {rows}; mend the file, or go on without them with --skip-bad-rows\n{shown}{more}"
        )


def read_segments(
    path: Path | str, split: str, *, on_bad_row: Callable[[BadRow], None] | None = None
) -> Iterator[Segment]:
    """The segments of an AudioSet CSV, as a stream in the file's order.

    Taken are AudioSet's own files and their variants: any number of `#` lines, a heading (columns in any
    order, further ones ignored), any quoting, whole seconds, CRLF, a byte order mark, gzip. One line is one
    row; a second one of the same id and start is malformed. A file without ends has windows of ten seconds;
    one without labels may list a window several times (a caption each) and gives it once.

    A malformed row goes to `on_bad_row` and is skipped; without it, it raises SegmentsError with its line
    number. SegmentsError is raised at once when the file is no segments file at all.
    """
    source = Path(path)
    columns, first = _columns(source)
    return _segments(source, split, columns, first, on_bad_row or _stop_at(source))


def check_segments(path: Path | str, *, keep: int = 20) -> int:
    """The number of segments in a file that has no malformed row; SegmentsError that shows the first ones."""
    bad_rows = BadRows(keep)
    count = sum(1 for _ in read_segments(path, "", on_bad_row=bad_rows))
    bad_rows.refuse(path)
    return count


def file_sha256(path: Path | str) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def select(
    segments: Iterable[Segment],
    *,
    labels: LabelFilter | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[Segment]:
    """Of the segments those that `labels` accepts, of these `sample` by lot, of these the first `limit`.

    The order stays. The lot is a hash of the seed and the segment's key: the same on every machine and for
    any order of the file, and a larger sample with the same seed holds the smaller one. Memory is flat but
    for the sample's own segments.
    """
    for name, value in (("sample", sample), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1 segment")
    wanted = segments if labels is None else (s for s in segments if labels.accepts(s.mids))
    drawn = iter(wanted) if sample is None else _sample(wanted, sample, seed)
    return islice(drawn, limit)


def _sample(segments: Iterable[Segment], size: int, seed: int) -> Iterator[Segment]:
    lots = ((-_lot(segment, seed), -position, segment) for position, segment in enumerate(segments))
    drawn = list(islice(lots, size))
    heapq.heapify(drawn)
    for lot in lots:
        heapq.heappushpop(drawn, lot)
    drawn.sort(key=lambda lot: -lot[1])
    yield from (segment for _, _, segment in drawn)


def _lot(segment: Segment, seed: int) -> int:
    salt = seed.to_bytes(16, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(segment.key.encode(), digest_size=8, salt=salt).digest())


def _segments(
    source: Path, split: str, columns: Columns, first: int, on_bad_row: Callable[[BadRow], None]
) -> Iterator[Segment]:
    parse = columns.parser()
    # Hashes instead of keys halve the memory; the chance that two of two million windows share one is 1e-7.
    line_of: dict[int, int] = {}
    for number, line in enumerate(_lines(source), start=1):
        if number < first or line.startswith("#") or line.isspace():
            continue
        try:
            segment = parse(line, split)
            window = hash((segment.ytid, round(segment.start * 1000)))
            if (earlier := line_of.setdefault(window, number)) != number:
                if columns.mids is None:
                    continue
                raise Malformed(f"duplicate of line {earlier}")
        except Malformed as reason:
            on_bad_row(BadRow(line=number, text=line.strip()[:200], reason=str(reason)))
        else:
            yield segment


def _stop_at(source: Path) -> Callable[[BadRow], None]:
    def stop(row: BadRow) -> None:
        raise SegmentsError(
            f"{source}, line {row.line}: {row.reason}: {row.text!r}; mend the row, or go on without it with "
            "--skip-bad-rows"
        ) from None

    return stop


def _lines(source: Path) -> Generator[str]:
    try:
        with _open(source) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SegmentsError(f"{source}: cannot be read as a segments file: {why}") from error


def _open(source: Path) -> TextIO:
    with source.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(source, "rt", encoding="utf-8-sig", errors="replace")
    return source.open(encoding="utf-8-sig", errors="replace")


def _columns(source: Path) -> tuple[Columns, int]:
    """Where the columns are, and the number of the first line that may be a row."""
    heading: Columns | None = None
    with closing(_lines(source)) as lines:
        for number, line in enumerate(lines, start=1):
            _refuse_other_kinds(source, line)
            if line.startswith("#"):  # the third of AudioSet's own comments is a heading
                heading = named_columns(line.lstrip("# ").split(",")) or heading
            elif not line.isspace():
                return columns_at(number, line, heading)
    raise SegmentsError(f"{source}: holds no rows; expected lines like 'YTID, 30.000, 40.000, \"/m/09x0r\"'")


def _refuse_other_kinds(source: Path, line: str) -> None:
    if line.lstrip().startswith("<"):
        kind = "an HTML or XML page (a download that failed?)"
    elif line.startswith("version https://git-lfs"):
        kind = "a Git LFS pointer, not the file it points to"
    elif "\0" in line:
        kind = "no UTF-8 text"
    else:
        return
    raise SegmentsError(f"{source}: {kind}; expected an AudioSet segments file: id, start, end, labels")
