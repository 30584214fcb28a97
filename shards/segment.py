"""A row of a segments file: ten seconds of one video, and what is heard in them."""

import re
from dataclasses import dataclass

Seconds = float

# Eleven characters of base64url; the last carries only four bits of the 64-bit id, hence sixteen choices.
YTID = re.compile(r"[A-Za-z0-9_-]{10}[048AEIMQUYcgkosw]")
KEY = re.compile(r"(?P<ytid>[A-Za-z0-9_-]{11})_(?P<start_ms>[0-9]{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A window of one video with its labels, as AudioSet's segments files list them."""

    ytid: str
    start: Seconds
    end: Seconds
    mids: tuple[str, ...]
    split: str
    name: str = ""  # the sample's, in datasets whose files have names of their own

    @property
    def duration(self) -> Seconds:
        return self.end - self.start

    @property
    def key(self) -> str:
        """The sample's name in a shard: no dot, since webdataset ends a key at the first one."""
        return self.name or segment_key(self.ytid, self.start)


def segment_key(ytid: str, start: Seconds) -> str:
    return f"{ytid}_{round(start * 1000)}"


def is_ytid(text: str) -> bool:
    """Whether `text` has the form of a YouTube video id."""
    return YTID.fullmatch(text) is not None
