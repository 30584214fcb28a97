"""One try at one segment: find its media, cut it, and say whether to try again."""

import contextlib
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pipeline.extract import TRICHORD, Extraction, Extractor, extract
from pipeline.media import Failure, Recording
from shards.ledger import Attempt
from shards.outcome import Disposition, Outcome
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


Settle = Callable[[Failure], tuple[Outcome, Disposition, str]]


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
    """The collaborators of an attempt. `settle` decides whether a doubtful failure is permanent."""

    source: MediaSource
    extractor: Extractor
    settle: Settle
    retries: Retries
    run: str

    def try_segment(self, segment: Segment, tries: int) -> Tried:
        """The segment's try number `tries`, counted from 1."""
        clock = _Clock()
        with self.source.turn() as turn:
            clock.begin()
            extraction, downloader = self._extraction(segment, turn, clock)
            turn.report(extraction.failure)
            identity = turn.identity
        outcome, disposition, message = self._settled(extraction.failure)
        attempt = Attempt(
            key=segment.key,
            ytid=segment.ytid,
            start=segment.start,
            end=segment.end,
            split=segment.split,
            mids=segment.mids,
            outcome=outcome,
            disposition=disposition,
            attempts=tries,
            message=message,
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
            again_in=self._again_in(segment, outcome, disposition, tries, extraction.failure),
        )

    def _extraction(self, segment: Segment, turn: Turn, clock: "_Clock") -> tuple[Extraction, str | None]:
        recording = turn.resolve(segment)
        clock.resolved()
        if isinstance(recording, Failure):
            return Extraction(sample=None, failure=recording, facts={}), None
        return extract(segment, recording, self.extractor), recording.downloader_version

    def _settled(self, failure: Failure | None) -> tuple[Outcome, Disposition, str | None]:
        if failure is None:
            return Outcome.OK, Disposition.DONE, None
        if failure.outcome.doubtful:
            return self.settle(failure)
        return failure.outcome, failure.outcome.disposition, failure.message

    def _again_in(
        self,
        segment: Segment,
        outcome: Outcome,
        disposition: Disposition,
        tries: int,
        failure: Failure | None,
    ) -> float | None:
        dice = random.Random(f"{segment.key} {tries} {self.run}")
        if outcome in TRANSIENT and tries < self.retries.transient:
            asked = failure.retry_after if failure and failure.retry_after else 0.0
            return max(asked, self.retries.delay(tries, dice))
        if disposition is Disposition.BLOCKED and tries < self.retries.blocked:
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
