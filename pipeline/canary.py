"""Dead is not blocked and not stale: videos known to be alive, and a watch over the share of failures."""

import math
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pipeline.media import Failure, Recording
from shards.outcome import Disposition, Outcome

# "Me at the zoo", the site's first, and two songs: public for more than a decade, in most countries.
YOUTUBE_CANARIES: Final = tuple(
    f"https://www.youtube.com/watch?v={ytid}" for ytid in ("jNQXAC9IVRw", "dQw4w9WgXcQ", "9bZkp7q19f0")
)


def default_canaries(url_template: str) -> tuple[str, ...]:
    """Known-alive addresses of the site that a URL template points at; none for sites we know nothing of."""
    host = urlsplit(url_template).hostname or ""
    return YOUTUBE_CANARIES if re.search(r"(?:^|\.)(?:youtube\.com|youtu\.be)$", host) else ()


@dataclass(frozen=True, slots=True)
class _Probe:
    """When known-alive videos were asked for, and why none answered (None: one did)."""

    started: float
    silence: str | None

    @property
    def alive(self) -> bool:
        return self.silence is None


class Canaries:
    """Whether known-alive videos resolve. Threads may ask at once; one of them asks the site."""

    def __init__(
        self,
        urls: Sequence[str],
        resolve: Callable[[str], Recording | Failure],
        every_s: float = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`resolve` gives a recording only where there are formats.

        After silence nobody is asked for `every_s` seconds.
        """
        self._urls = deque(urls)
        self._resolve = resolve
        self._every_s = every_s
        self._clock = clock
        self._probe: _Probe | None = None
        self._lock = threading.Lock()

    @property
    def given(self) -> bool:
        """Whether there is any video to ask for."""
        return bool(self._urls)

    def alive(self, since: float | None = None) -> bool:
        """Whether one resolved since then, within the last `every_s` seconds if not told, or resolves now."""
        return self._ask(since=self._clock() - self._every_s if since is None else since).alive

    def settle(self, failure: Failure, seen_at: float | None = None) -> tuple[Outcome, Disposition, str]:
        """What a failure amounts to: a doubtful one is permanent only if a canary resolved after it was seen.

        Args:
            failure: what came of a segment.
            seen_at: when, in seconds since the epoch; None: just now. Settling the failures of a whole shard
                at its end costs one request; settling each at once, up to one request each.
        """
        outcome = failure.outcome
        if not outcome.doubtful:
            return outcome, outcome.disposition, failure.message
        probe = self._ask(since=self._clock() if seen_at is None else seen_at)
        if probe.alive:
            return (
                outcome,
                Disposition.PERMANENT,
                f"{failure.message} (a known-alive video resolved afterwards)",
            )
        return outcome, outcome.disposition, f"{failure.message} (not settled: {probe.silence})"

    def _ask(self, since: float) -> _Probe:
        """A probe begun at `since` or later; or an older one that met silence less than `every_s` ago."""
        if not self._urls:
            return _Probe(self._clock(), "no known-alive video of this site was given")
        with self._lock:
            if self._probe is None or not self._still_tells(self._probe, since):
                started = self._clock()
                self._probe = _Probe(started, self._first_answer())
            return self._probe

    def _still_tells(self, probe: _Probe, since: float) -> bool:
        return probe.started >= (since if probe.alive else self._clock() - self._every_s)

    def _first_answer(self) -> str | None:
        """Why no canary resolved; None when one did. The next call starts with the next canary."""
        silence = []
        for url in tuple(self._urls):
            self._urls.rotate(-1)
            answer = self._resolve(url)
            if isinstance(answer, Recording):
                return None
            silence.append(f"{answer.outcome}")
        counts = ", ".join(f"{outcome} ×{count}" for outcome, count in Counter(silence).most_common())
        return f"no known-alive video resolved: {counts}"


class ShareGuard:
    """Watches outcomes for a jump in the share of permanent failures: dead videos do not come in swarms."""

    def __init__(
        self,
        versions: Sequence[str],
        window: int = 60,
        least_share: float = 0.6,
        least_z: float = 4.0,
        prior_share: float = 0.25,  # of AudioSet's videos, what was gone when others counted
        prior_weight: int = 100,  # segments that the prior counts for
    ) -> None:
        """`versions` are the tools to name: `["yt-dlp 2026.08.19", "ffmpeg 9.0.2"]`."""
        self._versions = ", ".join(versions)
        self._recent: deque[Outcome | None] = deque(maxlen=window)  # None: not permanent
        self._least_share = least_share
        self._least_z = least_z
        self._before = [prior_share * prior_weight, float(prior_weight)]  # permanent, all
        self._lock = threading.Lock()

    def watch(self, outcome: Outcome, disposition: Disposition) -> str | None:
        """Count one settled outcome; the reason to pause when the share of permanent ones has jumped."""
        with self._lock:
            if len(self._recent) == self._recent.maxlen:
                self._remember(self._recent.popleft())
            self._recent.append(outcome if disposition is Disposition.PERMANENT else None)
            return self._jump()

    def go_on(self) -> None:
        """Take the share as it is for the usual one: canaries resolved, or somebody decided so."""
        with self._lock:
            while self._recent:
                self._remember(self._recent.popleft())

    def _remember(self, outcome: Outcome | None) -> None:
        self._before[0] += outcome is not None
        self._before[1] += 1

    def _jump(self) -> str | None:
        count = len(self._recent)
        permanent = [outcome for outcome in self._recent if outcome is not None]
        usual = self._before[0] / self._before[1]
        if count != self._recent.maxlen or len(permanent) <= self._least_share * count:
            return None
        if _z(len(permanent), count, usual) <= self._least_z:
            return None
        named = ", ".join(f"{outcome} ×{times}" for outcome, times in Counter(permanent).most_common(3))
        return (
            f"{len(permanent)} of the last {count} segments failed for good ({named}), {usual:.0%} before: "
            f"is a tool out of date ({self._versions})?"
        )


def _z(successes: int, count: int, share: float) -> float:
    """Standard deviations by which a binomial count lies above its mean."""
    deviation = math.sqrt(count * share * (1 - share))
    return (successes - count * share) / deviation if deviation else 0.0
