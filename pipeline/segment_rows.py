"""What the fields of a segments file's rows are, and what makes a row malformed."""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shards.segment import YTID, Seconds, Segment, is_ytid

WINDOW: Seconds = 10.0  # of a row that gives a start alone, as AudioCaps' do
LONGEST_WINDOW: Seconds = 600.0  # AudioSet's last 10 s at most: more means that a column is no time
LATEST_START: Seconds = 999_999.0  # a sample's key has room for nine digits of milliseconds

MID = re.compile(r"/[mtg]/[0-9a-z_]+")  # Freebase's, AudioSet's own, Google's
_MIDS = rf"{MID.pattern}(?:,{MID.pattern})*"
_TIME = r"[0-9]+(?:\.[0-9]+)?"
# The official row, also without its blanks, decimals or quotes: nearly every row of nearly every file.
_PLAIN_ROW = re.compile(rf"({YTID.pattern}), ?({_TIME}), ?({_TIME}), ?(\"?)({_MIDS})\4\n?")

_HEADINGS: Mapping[str, Sequence[str]] = {  # letters and digits alone, the surest name first
    "ytid": ("ytid", "ytids", "youtubeid", "youtubeids", "videoid", "videoids", "vid", "id"),
    "start": ("start", "startseconds", "starttime", "starttimeseconds", "starts", "startsec", "begin"),
    "end": ("end", "endseconds", "endtime", "endtimeseconds", "ends", "endsec", "stop"),
    "mids": ("positivelabels", "mids", "mid", "labels", "label"),
}


class Malformed(Exception):
    """Why a line gives no segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which field of a row is what."""

    ytid: int = 0
    start: int = 1
    end: int | None = 2
    mids: int | None = 3
    width: int = 4

    def parser(self) -> Callable[[str, str], Segment]:
        """What makes a segment of (line, split), or raises Malformed."""
        return self._parse_plain if self == _OFFICIAL else self._parse_any

    def _parse_plain(self, line: str, split: str) -> Segment:
        if (match := _PLAIN_ROW.fullmatch(line)) is None:
            return self._parse_any(line, split)
        ytid, start, end, _, mids = match.groups()
        return _segment(ytid, float(start), float(end), _mids(mids), split)

    def _parse_any(self, line: str, split: str) -> Segment:
        fields = self._whole(_fields(line))
        ytid = fields[self.ytid]
        if not is_ytid(ytid):
            raise Malformed(f"{ytid!r} is no YouTube id (11 characters of A-Z a-z 0-9 _ -)")
        start = _seconds("start", fields[self.start])
        end = start + WINDOW if self.end is None else _seconds("end", fields[self.end])
        mids = () if self.mids is None else _mids(fields[self.mids])
        return _segment(ytid, start, end, mids, split)

    def _whole(self, fields: list[str]) -> list[str]:
        """The fields, with several unquoted labels at the row's end made one."""
        if self.mids == self.width - 1 and len(fields) > self.width:
            fields = [*fields[: self.mids], ",".join(fields[self.mids :])]
        if len(fields) != self.width:
            raise Malformed(f"found {len(fields)}, expected {self.width} fields")
        return fields


_OFFICIAL = Columns()


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise Malformed(f"its quotes do not match ({error})") from error


def _seconds(name: str, text: str) -> Seconds:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf or "_" in text:  # float() takes 1_0 for ten
        raise Malformed(f"{name} {text!r} is no time in seconds")
    return seconds


@lru_cache(maxsize=1 << 15)
def _mids(text: str) -> tuple[str, ...]:
    mids = tuple(dict.fromkeys(mid for part in text.split(",") if (mid := part.strip())))
    if not mids:
        raise Malformed("no labels")
    if wrong := [mid for mid in mids if MID.fullmatch(mid) is None]:
        raise Malformed(f"label {wrong[0]!r} is no mid like /m/09x0r")
    return mids


def _segment(ytid: str, start: Seconds, end: Seconds, mids: tuple[str, ...], split: str) -> Segment:
    if not 0 < end - start <= LONGEST_WINDOW:
        expected = "after the start" if end <= start else f"at most {LONGEST_WINDOW:g} s after it"
        raise Malformed(f"the window {start:g}-{end:g} s is impossible; expected an end {expected}")
    if start > LATEST_START:
        raise Malformed(f"start {start:g} s is beyond any video's end")
    return Segment(ytid=ytid, start=start, end=end, mids=mids, split=split)


def columns_at(number: int, line: str, heading: Columns | None) -> tuple[Columns, int]:
    """The columns of a file whose first line but comments this is, and the number of its first row.

    `heading` holds the columns that a comment named, if one did.
    """
    try:
        fields = _fields(line)
    except Malformed:  # reported when the rows are read
        return heading or _OFFICIAL, number
    if named := named_columns(fields):
        return named, number + 1
    columns = heading or _counted_columns(len(fields))
    return columns, number + _is_heading(fields)


def named_columns(fields: Sequence[str]) -> Columns | None:
    """The columns after a heading's names; None when an id's or a start's is not among them."""
    names = [re.sub(r"[^a-z0-9]", "", field.lower()) for field in fields]
    at = {
        role: next((names.index(known) for known in headings if known in names), None)
        for role, headings in _HEADINGS.items()
    }
    if at["ytid"] is None or at["start"] is None:
        return None
    return Columns(ytid=at["ytid"], start=at["start"], end=at["end"], mids=at["mids"], width=len(names))


def _counted_columns(count: int) -> Columns:
    """The columns of a file without a heading, after its first row: ends and labels may be left out."""
    if count in (2, 3):
        return Columns(end=2 if count == 3 else None, mids=None, width=count)
    return _OFFICIAL


def _is_heading(fields: Sequence[str]) -> bool:
    """Whether an unknown first line names columns: words where ids, times and mids would be."""
    return len(fields) > 2 and not is_ytid(fields[0]) and not any(map(_is_value, fields))


def _is_value(field: str) -> bool:
    return re.match(r"[-+.]?[0-9]|/[mtg]/", field) is not None
