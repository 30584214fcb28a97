"""Media of a segment before decoding: where its streams are and how their bytes may be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shards.outcome import Outcome


class Carries(StrEnum):
    BOTH = "both"
    VIDEO = "video"
    AUDIO = "audio"


class Delivery(StrEnum):
    FILE = "file"  # one resource, read by byte ranges; or a path on this machine
    HLS = "hls"  # an m3u8 playlist
    FRAGMENTS = "fragments"  # a list of fragments (DASH), the first of which may be the initialisation


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """A piece of a DASH stream; `duration` is None for the initialisation."""

    url: str
    duration: float | None  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaStream:
    """One resource that holds sound, picture or both."""

    url: str  # http(s) URL, or an absolute path for local media
    carries: Carries
    delivery: Delivery = Delivery.FILE
    container: str = ""  # "mp4", "webm", "ts", … as far as known
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # what the request must carry
    fragments: tuple[Fragment, ...] = ()
    format_id: str = ""
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    bitrate: float | None = None  # kbit/s


class RangeResponse(Protocol):
    """An open HTTP response, as far as the relay needs it."""

    status: int
    headers: Mapping[str, str]

    def read(self, size: int = -1) -> bytes: ...
    def close(self) -> None: ...


# (url, headers) → response with status 2xx or 416; raises MediaError for others and for transport failures.
OpenUrl = Callable[[str, Mapping[str, str]], RangeResponse]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Media for one segment: one stream with both, or one for each; `open_url` is None for local paths."""

    streams: tuple[MediaStream, ...]
    duration: float | None = None  # seconds of the whole video, where known
    open_url: OpenUrl | None = None
    # seconds of the video that the media's own time zero stands for (a cut window: its start)
    offset: float = 0.0
    downloader_version: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An expected way of not getting a sample: a value, not an exception."""

    outcome: Outcome
    message: str
    retry_after: float | None = None  # seconds, where the server said


class MediaError(Exception):
    """A request for media failed in an expected way; carries the failure it amounts to."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
