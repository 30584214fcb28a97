"""What the demo's video site has sent so far: every request, and sums over them."""

import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One request and what went back."""

    at: float  # seconds since the epoch, when the request came
    kind: str  # page or media
    path: str
    ytid: str
    status: int  # 0: no answer at all
    bytes: int  # of the body, as handed to the network
    range: str
    cookie: str


class Traffic:
    """The log of one site. Safe to use from many threads."""

    def __init__(self) -> None:
        self._served: list[Served] = []
        self._lock = threading.Lock()

    def record(self, served: Served) -> None:
        with self._lock:
            self._served.append(served)

    def forget(self) -> None:
        """Start the counts anew."""
        with self._lock:
            self._served.clear()

    def log(self, ytid: str | None = None, kind: str | None = None) -> list[Served]:
        """Finished requests in the order of their ends, all or of one video and kind (`page`, `media`)."""
        with self._lock:
            return [one for one in self._served if ytid in (None, one.ytid) and kind in (None, one.kind)]

    def media_bytes(self, ytid: str | None = None) -> int:
        return sum(one.bytes for one in self.log(ytid, "media"))

    def requests(self, ytid: str | None = None, kind: str | None = None) -> int:
        return len(self.log(ytid, kind))

    def stats(self) -> dict[str, Any]:
        """The counts as `/stats` gives them: in all, per video and per path."""
        videos: dict[str, dict[str, int]] = {}
        paths: dict[str, dict[str, int]] = {}
        for one in self.log():
            video = videos.setdefault(one.ytid, {"page": 0, "media": 0, "media_bytes": 0})
            video[one.kind] += 1
            video["media_bytes"] += one.bytes if one.kind == "media" else 0
            path = paths.setdefault(one.path, {"requests": 0, "bytes": 0})
            path["requests"] += 1
            path["bytes"] += one.bytes
        totals = {"requests": self.requests(), "media_bytes": self.media_bytes()}
        return {**totals, "videos": videos, "paths": paths}
