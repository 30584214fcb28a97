"""How the demo's video site misbehaves: for one video, and for everybody who asks too often."""

import dataclasses
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

ANY = "*"  # stands for the videos that have no behaviour of their own


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """How the site answers for one video. "Page" is its watch page and its info, "media" are bytes of it.

    The default is a video that plays. `first` bounds the trouble: after that many requests of the kind
    (pages and media are counted apart) the site answers well.
    """

    page_status: int = 200
    media_status: int = 200
    first: int | None = None  # how many requests meet the trouble; None: all
    retry_after_s: float | None = None  # sent with 429 and 503
    # why the video does not play, as YouTube words it; the status line's text for a bad status
    reason: str = ""
    subreason: str = ""
    live_status: str = ""  # yt-dlp's word: is_live, is_upcoming, post_live
    page_hangs: bool = False  # accepts and never answers
    media_hangs: bool = False
    stall_after: int | None = None  # bytes of a media body, then silence
    disconnect_after: int | None = None  # bytes of a media body, then the connection closes
    kept_share: float = 1.0  # how much of the file the server holds: 0.5 a truncated one, 0 an empty one
    html_as_media: bool = False
    ranges: bool = True
    delay_s: float = 0.0  # before each answer
    slow_start_s: float = 0.0  # between a media answer's headers and its body
    formats: tuple[str, ...] = ()  # format ids that the info offers; none named: the usual ones

    def during(self, request: int) -> "Behaviour":
        """What the request of that number (from 0) meets."""
        return self if self.first is None or request < self.first else Behaviour(delay_s=self.delay_s)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """ValueError for a name that is no field."""
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(f"{', '.join(unknown)}: not a behaviour; choose from {', '.join(sorted(names))}")
        formats = tuple(values.get("formats", ()))
        return cls(**{**values, "formats": formats})

    @classmethod
    def parse(cls, text: str) -> Self:
        """`page_status=429,first=2` or `formats=134+140`, as the command line gives it."""
        pairs = (pair.partition("=") for pair in text.split(",") if pair)
        return cls.from_json({name.strip(): _value(name.strip(), value) for name, _, value in pairs})


def _value(name: str, text: str) -> Any:
    if name == "formats":
        return text.split("+")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class Behaviours:
    """What each request meets. Safe to use from many threads."""

    def __init__(self, chosen: Mapping[str, Behaviour]) -> None:
        self._chosen = dict(chosen)
        self._asked: dict[tuple[str, str], int] = defaultdict(int)
        self._lock = threading.Lock()

    def change(self, ytid: str, behaviour: Behaviour) -> None:
        """From now on; the counts behind `first` start anew."""
        with self._lock:
            self._chosen[ytid] = behaviour
            for kind in ("page", "media"):
                self._asked.pop((ytid, kind), None)

    def next(self, ytid: str, kind: str) -> Behaviour:
        """What this request (for a `page` or for `media`) meets; counts it."""
        with self._lock:
            request = self._asked[ytid, kind]
            self._asked[ytid, kind] += 1
            chosen = self._chosen.get(ytid) or self._chosen.get(ANY) or Behaviour()
            return chosen.during(request)


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """After `requests` pages in `seconds` the site refuses more until the oldest are that long ago."""

    requests: int
    seconds: float
    retry_after_s: float | None = None
    reason: str = ""  # given: the video's info says this with status 200, as YouTube does, instead of a 429
    per_cookie: bool = False  # count each Cookie header apart: one guest session, one budget

    @property
    def refusal(self) -> Behaviour:
        if self.reason:
            return Behaviour(reason=self.reason)
        return Behaviour(page_status=429, retry_after_s=self.retry_after_s)


class RateMeter:
    """Who has asked how often lately. Safe to use from many threads."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._asked: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def refuses(self, cookie: str) -> bool:
        """Count one request and say whether it is one too many; a refused one does not count."""
        now = time.monotonic()
        with self._lock:
            asked = self._asked[cookie if self.limit.per_cookie else ""]
            while asked and asked[0] <= now - self.limit.seconds:
                asked.popleft()
            if len(asked) >= self.limit.requests:
                return True
            asked.append(now)
            return False
