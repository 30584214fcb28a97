"""Whether an identity may ask: closed, open after a block, probing; every rule is a function of a value.

Times are seconds since the epoch, since machines share them through the store. A clock that is some seconds
off shifts cooldowns and slots by as much, no more; what lies absurdly far ahead is not believed.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pipeline.pace import Pace
from shards.outcome import Disposition, Outcome

COOLDOWN_S = {
    Outcome.RATE_LIMITED: 5 * 60.0,
    Outcome.FORBIDDEN: 10 * 60.0,
    Outcome.BOT_CHECK: 30 * 60.0,
    Outcome.SESSION_LIMIT: 60 * 60.0,  # "for up to an hour", in YouTube's own words
}
LONGEST_COOLDOWN_S = 4 * 3600.0  # what doubling comes to at most
LONGEST_RETRY_AFTER_S = 24 * 3600.0
STRIKES = 3  # consecutive 403s: single ones alternate with successes (yt-dlp #14039)
UNPROVEN_S = 30.0  # until the next probe, when one came to nothing
FAR_S = 26 * 3600.0  # farther ahead than anything that we write

_CREDENTIALS = re.compile(r"//[^/@\s]+@")


class Breaker(StrEnum):
    CLOSED = "closed"  # the identity works
    OPEN = "open"  # it was blocked and cools down
    PROBING = "probing"  # one process tries one video


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What all processes know of an identity: the content of its file."""

    id: str
    label: str
    breaker: Breaker = Breaker.CLOSED
    outcome: str | None = None  # what opened it last
    message: str | None = None
    opened_at: float | None = None
    closed_at: float | None = None
    until: float = 0.0  # open: when it may be probed; probing: when the probe counts as dead
    cooldown_s: float = 0.0
    probe: str | None = None  # the probing turn's token
    strikes: int = 0
    struck_at: float = 0.0
    generation: int = 0  # counts openings and closings: older turns have no say in what came after
    videos_per_hour: float | None = None
    next_at: float = 0.0  # the first slot that nobody has
    granted: int = 0  # slots given out

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError, TypeError or KeyError when the content is no standing."""
        facts = json.loads(data)
        return cls(**{**facts, "breaker": Breaker(facts["breaker"])})

    def believed(self, now: float) -> Self:
        """Without times that only a clock gone wrong can have written."""
        return dataclasses.replace(
            self,
            until=self.until if self.until < now + FAR_S else now,
            next_at=self.next_at if self.next_at < now + FAR_S else 0.0,
        )

    def may_probe(self, now: float) -> bool:
        return self.breaker is not Breaker.CLOSED and now >= self.until


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """What a turn came to."""

    outcome: Outcome
    message: str = ""
    retry_after_s: float | None = None
    generation: int  # of the standing under which the turn began
    probe: str | None = None

    @property
    def answered(self) -> bool:
        """Whether the site spoke to us about the video: proof that the identity works."""
        return self.outcome.disposition in (Disposition.DONE, Disposition.PERMANENT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooling:
    """How long an identity rests."""

    base_s: float | None = None  # for every outcome, instead of COOLDOWN_S
    longest_s: float = LONGEST_COOLDOWN_S
    probe_s: float = 300.0  # after which a probe that said nothing counts as dead

    def cooldown_s(self, outcome: Outcome) -> float:
        return COOLDOWN_S[outcome] if self.base_s is None else self.base_s

    def again_s(self, standing: Standing, word: Word) -> float:
        """The cooldown of an identity that is still, or again, blocked: twice the last one."""
        doubled = max(min(2 * standing.cooldown_s, self.longest_s), self.cooldown_s(word.outcome))
        return self._as_told(word, doubled)

    def first_s(self, word: Word) -> float:
        return self._as_told(word, self.cooldown_s(word.outcome))

    def _as_told(self, word: Word, ours: float) -> float:
        """The server's own word counts more than our guess."""
        return (
            ours if word.retry_after_s is None else min(max(0.0, word.retry_after_s), LONGEST_RETRY_AFTER_S)
        )


def reserved(standing: Standing, pace: Pace, now: float) -> tuple[Standing, list[float]]:
    """The standing with the next slots taken, and those slots."""
    slots = pace.slots(standing.next_at, now)
    taken = dataclasses.replace(
        standing,
        next_at=slots[-1] + pace.interval_s,
        granted=standing.granted + len(slots),
        videos_per_hour=pace.videos_per_hour,
    )
    return taken, slots


def probing(standing: Standing, token: str, now: float, cooling: Cooling) -> Standing:
    """The standing with this one process trying; unchanged when another came first."""
    if not standing.may_probe(now):
        return standing
    return dataclasses.replace(standing, breaker=Breaker.PROBING, probe=token, until=now + cooling.probe_s)


def reported(standing: Standing, word: Word, now: float, cooling: Cooling) -> Standing:
    """The standing after a turn's end."""
    if word.probe is not None and word.probe == standing.probe:
        return _probed(standing, word, now, cooling)
    if word.outcome.blocked:
        return _blocked(standing, word, now, cooling)
    if word.answered and standing.strikes:
        return dataclasses.replace(standing, strikes=0)
    return standing


def _probed(standing: Standing, word: Word, now: float, cooling: Cooling) -> Standing:
    if word.outcome.blocked:
        return _opened(standing, word, now, cooling.again_s(standing, word))
    if word.answered:
        return dataclasses.replace(
            standing,
            breaker=Breaker.CLOSED,
            closed_at=now,
            probe=None,
            strikes=0,
            generation=standing.generation + 1,
        )
    pause = min(standing.cooldown_s, UNPROVEN_S)
    return dataclasses.replace(standing, breaker=Breaker.OPEN, probe=None, until=now + pause)


def _blocked(standing: Standing, word: Word, now: float, cooling: Cooling) -> Standing:
    if standing.breaker is Breaker.CLOSED and word.generation == standing.generation:
        strikes = standing.strikes + 1
        if word.outcome is Outcome.FORBIDDEN and strikes < STRIKES:
            return dataclasses.replace(standing, strikes=strikes, struck_at=now)
        relapse = standing.closed_at is not None and now < standing.closed_at + standing.cooldown_s
        pause = cooling.again_s(standing, word) if relapse else cooling.first_s(word)
        opened = _opened(standing, word, now, pause)
        return dataclasses.replace(opened, opened_at=now, generation=standing.generation + 1)
    # a turn that was under way when the breaker opened may know of a longer block
    late = standing.breaker is Breaker.OPEN and word.generation == standing.generation - 1
    other = word.outcome not in (Outcome.FORBIDDEN, standing.outcome)
    if late and other and now + cooling.first_s(word) > standing.until:
        return _opened(standing, word, now, cooling.first_s(word))
    return standing


def _opened(standing: Standing, word: Word, now: float, pause_s: float) -> Standing:
    return dataclasses.replace(
        standing,
        breaker=Breaker.OPEN,
        outcome=word.outcome.value,
        message=_CREDENTIALS.sub("//***@", word.message) or None,
        until=now + pause_s,
        cooldown_s=pause_s,
        probe=None,
        strikes=0,
    )
