"""One try at one segment: find its media, cut it, and say whether to try again."""

import contextlib
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipeline.extract import TRICHORD, Extraction, Extractor, extract
from pipeline.media import Failure, Recording
from shards.ledger import Attempt
from shards.outcome import Outcome
from shards.sample import Sample
from shards.segment import Segment

# Outcomes that a second request soon after may change; the other retryable ones need days, or a person.
TRANSIENT = frozenset(
    {Outcome.NETWORK, Outcome.TIMEOUT, Outcome.SERVER_ERROR, Outcome.CRASHED, Outcome.EXTRACTOR}
)


class Turn(Protocol):
    """Permission to ask for one video, from one identity."""

    @property
    def identity(self) -> str | None: ...
    def resolve(self, segment: Segment) -> Recording | Failure: ...
    def report(self, failure: Failure | None) -> None: ...


class MediaSource(Protocol):
    """Where recordings come from; `turn` waits until somebody may ask."""

    def turn(self) -> AbstractContextManager[Turn]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often a segment is tried within one run, and how long after a failure."""

    transient: int = 3
    blocked: int = 5  # each under whichever identity may work by then
    base_s: float = 2.0
    cap_s: float = 120.0

    def delay(self, tries: int, dice: random.Random) -> float:
        """Exponential, with jitter of ±50 %, so that many do not come back at once."""
        pause = min(self.cap_s, self.base_s * 2.0 ** (tries - 1))
        return pause * dice.uniform(0.5, 1.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What a try came to; `again_in` is None when it was the last one."""

    attempt: Attempt
    sample: Sample | None
    again_in: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """The collaborators of an attempt."""

    source: MediaSource
    extractor: Extractor
    retries: Retries
    run: str

    def try_segment(self, segment: Segment, tries: int, scratch: Path) -> Tried:
        """The segment's try number `tries`, counted from 1; `scratch` takes files for as long as it lasts."""
        clock = _Clock()
        with self.source.turn() as turn:
            clock.begin()
            extraction, downloader = self._extraction(segment, turn, clock, scratch)
            turn.report(extraction.failure)
            identity = turn.identity
        failure = extraction.failure
        outcome = failure.outcome if failure else Outcome.OK
        attempt = Attempt(
            key=segment.key,
            ytid=segment.ytid,
            start=segment.start,
            end=segment.end,
            split=segment.split,
            mids=segment.mids,
            outcome=outcome,
            disposition=outcome.disposition,
            attempts=tries,
            message=failure.message if failure else None,
            identity=identity,
            downloader_version=downloader,
            ffmpeg_version=self.extractor.program.version,
            trichord_version=TRICHORD.removeprefix("trichord "),
            host=socket.gethostname(),
            run=self.run,
            **clock.facts(),
            **extraction.facts,
        )
        return Tried(
            attempt=attempt,
            sample=extraction.sample,
            again_in=self._again_in(segment, tries, failure) if failure else None,
        )

    def _extraction(
        self, segment: Segment, turn: Turn, clock: "_Clock", scratch: Path
    ) -> tuple[Extraction, str | None]:
        recording = turn.resolve(segment)
        clock.resolved()
        if isinstance(recording, Failure):
            return Extraction(sample=None, failure=recording, facts={}), None
        return extract(segment, recording, self.extractor, scratch), recording.downloader_version

    def _again_in(self, segment: Segment, tries: int, failure: Failure) -> float | None:
        dice = random.Random(f"{segment.key} {tries} {self.run}")
        if failure.outcome in TRANSIENT and tries < self.retries.transient:
            return max(failure.retry_after or 0.0, self.retries.delay(tries, dice))
        if failure.outcome.blocked and tries < self.retries.blocked:
            return self.retries.delay(tries, dice)  # the identity cools down by itself
        return None


class _Clock:
    """When a try began, and how its seconds were spent; waiting for a turn is not counted."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._resolve_s = 0.0

    def resolved(self) -> None:
        self._resolve_s = time.monotonic() - self._started

    def facts(self) -> dict[str, Any]:
        return {
            "started_at": self._started_at,
            "finished_at": datetime.now(UTC),
            "resolve_s": self._resolve_s,
            "total_s": time.monotonic() - self._started,
        }


@dataclass(frozen=True, slots=True)
class FreeTurn:
    """A turn at media that nobody limits."""

    resolve: Callable[[Segment], Recording | Failure]
    identity: str | None = None

    def report(self, failure: Failure | None) -> None:
        """Nobody needs to know."""


@dataclass(frozen=True, slots=True)
class FreeMedia:
    """A source that never makes anybody wait, such as a folder."""

    resolve: Callable[[Segment], Recording | Failure]

    def turn(self) -> AbstractContextManager[Turn]:
        return contextlib.nullcontext(FreeTurn(self.resolve))
