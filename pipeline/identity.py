"""Who a site sees when we ask, an address and a cookie file, and which of them may ask now."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pipeline.breaker import Cooling, Standing, Word
from pipeline.pace import named_pace
from pipeline.shared_standing import REFRESH_S, Grant, SharedStanding, hour
from shards.outcome import Outcome
from shards.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A proxy × a cookie file; either may be absent. Its rate budget and its blocks are its own.

    `network` tells apart machines that share one output but reach the site from different addresses without
    a proxy: the same word, or none, means that they share one budget.
    """

    proxy: str | None = field(default=None, repr=False)  # may hold a password
    cookies: Path | None = None
    network: str = ""

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits; the proxy's password cannot be had from them."""
        cookies = str(Path(self.cookies).expanduser().resolve()) if self.cookies else ""
        return _digest("\n".join((self.proxy or "", cookies, self.network)))

    @property
    def label(self) -> str:
        """For people, without credentials: `http://***@host:8080 + cookies.txt`."""
        parts = [_masked(self.proxy) if self.proxy else self.network or "direct"]
        return " + ".join([*parts, Path(self.cookies).name] if self.cookies else parts)


class AllBlocked(Exception):
    """No identity may ask before `resumes_at` (seconds since the epoch); `reasons` by their labels."""

    def __init__(self, reasons: Mapping[str, str], resumes_at: float) -> None:
        super().__init__(dict(reasons), resumes_at)  # as it is made anew in another process
        self.reasons = dict(reasons)
        self.resumes_at = resumes_at

    @property
    def told(self) -> str:
        return "; ".join(f"{label}: {reason}" for label, reason in self.reasons.items())

    def __str__(self) -> str:
        return (
            f"every identity is blocked ({self.told}); the first may be tried again at "
            f"{hour(self.resumes_at)}. Run the same command again then, or give another --proxy or --cookies"
        )


class Turn:
    """An identity's permission for one video. Whoever leaves the block without a report proved nothing."""

    def __init__(self, identity: Identity, standing: SharedStanding, grant: Grant) -> None:
        self.identity = identity
        self._standing = standing
        self._grant = grant
        self._reported = False

    @property
    def probing(self) -> bool:
        """Whether this video decides for everybody if the identity works again."""
        return self._grant.probe is not None

    def report(self, outcome: Outcome, message: str = "", retry_after: float | None = None) -> None:
        """Tell every process what the video came to; `retry_after` in seconds, as the server gave it."""
        self._reported = True
        self._standing.hear(
            Word(
                outcome=outcome,
                message=message,
                retry_after_s=retry_after,
                generation=self._grant.generation,
                probe=self._grant.probe,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.probing and not self._reported:
            self.report(Outcome.EXTRACTOR)


class Identities:
    """Whose turn it is, by budgets and breakers that all processes share through the store.

    A turn at pace `none` under a closed breaker costs one small read a second, however many there are.
    """

    def __init__(
        self,
        store: Store,
        identities: Sequence[Identity],
        pace: str = "auto",
        on_blocked: str = "wait",
        *,
        cooldown_s: float | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        dice: random.Random | None = None,
        check: Callable[[], None] = lambda: None,
        tell: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`pace` is as `pipeline.pace.named_pace` takes it, `on_blocked` is wait or stop.

        While a turn waits, `check` is called each second and may raise; `tell` hears of the blocks it waits
        for, and None when it goes on.
        """
        if not identities:
            raise ValueError("no identity given; expected at least Identity(), the direct connection")
        cooling, dice = Cooling(base_s=cooldown_s), dice or random.Random()
        self._members = [
            _Member(
                identity=identity,
                standing=SharedStanding(
                    store,
                    identity.id,
                    identity.label,
                    named_pace(pace, account=identity.cookies is not None),
                    cooling,
                    clock,
                    dice,
                ),
            )
            for identity in dict.fromkeys(identities)
        ]
        self._wait = on_blocked == "wait"
        self._clock, self._sleep, self._check, self._tell = clock, sleep, check, tell
        self._told: str | None = None
        self._turns = 0
        self._door = threading.Lock()  # one thread waits for the next slot, the others for that thread

    def turn(self) -> Turn:
        """A turn of the identity that may ask soonest, once it may.

        Raises AllBlocked when none may and we are not to wait, and whatever `check` raises.
        """
        with self._door:
            while True:
                self._check()
                turn = self._taken(self._clock())
                if turn is not None:
                    self._say(None)
                    return turn
                self._rest(self._clock())

    def status(self) -> list[Standing]:
        """How each of these identities stands, by the store."""
        for member in self._members:
            member.standing.read(self._clock())
        return [member.standing.known for member in self._members]

    def _taken(self, now: float) -> Turn | None:
        for member in self._members:
            member.standing.refresh(now)
        soonest = sorted(self._members, key=lambda member: (member.standing.ready_at(now), member.last_turn))
        for member in soonest:
            # asking reserves a slot: only of the one that we are going to wait for
            if member is soonest[0] or member.standing.ready_at(now) <= now:
                grant = member.standing.take(now)
                if grant is not None:
                    self._turns += 1
                    member.last_turn = self._turns
                    return Turn(member.identity, member.standing, grant)
        return None

    def _rest(self, now: float) -> None:
        ready_at = min(member.standing.ready_at(now) for member in self._members)
        if all(member.standing.blocked(now) for member in self._members):
            obstacle = AllBlocked({m.identity.label: m.standing.reason for m in self._members}, ready_at)
            if not self._wait:
                raise obstacle
            self._say(f"every identity is blocked ({obstacle.told}); next try at {hour(ready_at)}")
        self._sleep(min(max(ready_at - now, 0.01), REFRESH_S))

    def _say(self, obstacle: str | None) -> None:
        if obstacle != self._told:
            self._tell(obstacle)
        self._told = obstacle


@dataclass(slots=True)
class _Member:
    identity: Identity
    standing: SharedStanding
    last_turn: int = 0  # of identities that are ready at once, the one goes that rested longest


def _masked(proxy: str) -> str:
    address = urlsplit(proxy if "://" in proxy else f"//{proxy}")
    scheme = f"{address.scheme}://" if address.scheme else ""
    hidden = "***@" if "@" in address.netloc else ""
    return f"{scheme}{hidden}{address.netloc.rpartition('@')[2]}"


@lru_cache(maxsize=1024)
def _digest(text: str) -> str:
    # slow on purpose: trying passwords against the id must not pay
    return hashlib.scrypt(text.encode(), salt=b"trichord identity", n=1 << 14, r=8, p=1, dklen=6).hex()
