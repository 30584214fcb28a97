"""What the demo's video site has sent so far: every request, and sums over them."""

import dataclasses
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, slots=True)
class Served:
    """One request and what went back. Its thread writes `status` and `bytes` before the client can know.

    So who has read an answer to its end finds it counted. A request that still waits or hangs has status 0.
    """

    at: float  # seconds since the epoch, when the request came
    kind: str  # page or media
    path: str
    ytid: str
    range: str
    cookie: str
    status: int = 0
    bytes: int = 0  # of the body, as handed to the network


class Traffic:
    """The log of one site. Safe to use from many threads."""

    def __init__(self) -> None:
        self._served: list[Served] = []
        self._lock = threading.Lock()

    def begin(self, served: Served) -> Served:
        """Count a request that has come in; what goes back is filled in later."""
        with self._lock:
            self._served.append(served)
        return served

    def forget(self) -> None:
        """Start the counts anew."""
        with self._lock:
            self._served.clear()

    def log(self, ytid: str | None = None, kind: str | None = None) -> list[Served]:
        """Copies of all requests so far, or of those of one video or kind (`page`, `media`)."""
        with self._lock:
            found = [one for one in self._served if ytid in (None, one.ytid) and kind in (None, one.kind)]
        return [dataclasses.replace(one) for one in found]

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
