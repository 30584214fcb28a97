"""One identity's standing as this process knows it, and as it is shared with all others through the store."""

import dataclasses
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pipeline.breaker import Breaker, Cooling, Standing, Word, probing, reported, reserved
from pipeline.pace import GRACE_S, Pace
from shards.layout import IDENTITIES
from shards.outcome import Outcome
from shards.store import Store

REFRESH_S = 1.0  # how long what other processes wrote may go unnoticed


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """That a video may be asked for now."""

    generation: int  # of the standing that it was given under
    probe: str | None = None  # the token of a probe


class SharedStanding:
    """Reads the store at most once a second, and writes only when there is something to tell."""

    def __init__(
        self,
        store: Store,
        id: str,
        label: str,
        pace: Pace,
        cooling: Cooling,
        clock: Callable[[], float],
        dice: random.Random,
    ) -> None:
        self._store = store
        self._file = f"{IDENTITIES}/{id}.json"
        self._fresh = Standing(id=id, label=label, videos_per_hour=pace.videos_per_hour)
        self._pace = pace
        self._cooling = cooling
        self._clock = clock
        self._dice = dice
        self.known = self._fresh
        self._read_at = float("-inf")
        self._answered_at = float("-inf")
        self._slots: deque[float] = deque()  # reserved by this process, in order
        self._lock = threading.RLock()

    @property
    def reason(self) -> str:
        return f"{self.known.outcome} until {hour(self.known.until)}"

    def blocked(self, now: float) -> bool:
        return self.known.breaker is Breaker.OPEN and now < self.known.until

    def ready_at(self, now: float) -> float:
        """When this identity may ask, as far as is known: seconds since the epoch."""
        with self._lock:
            if self.known.breaker is not Breaker.CLOSED:
                return max(now, self.known.until)
            if not self._pace.limited:
                return now
            self._drop_late(now)
            return max(now, self._slots[0] if self._slots else self.known.next_at)

    def take(self, now: float) -> Grant | None:
        """A grant for now, or None; for an identity that is not blocked a slot is then reserved."""
        with self._lock:
            if self.known.breaker is not Breaker.CLOSED:
                return self._probe(now)
            if self._pace.limited and not self._slot(now):
                return None
            return Grant(generation=self.known.generation)

    def hear(self, word: Word) -> None:
        """Let everybody know what a turn came to, where that changes anything."""
        if word.probe is None and word.answered:
            self._answered_at = self._clock()
            if not self.known.strikes:
                return
        elif word.probe is None and not word.outcome.blocked:
            return
        now = self._clock()
        self._change(lambda standing: reported(standing, word, now, self._cooling))

    def refresh(self, now: float) -> None:
        """Read what others wrote, unless that was done within the last second."""
        with self._lock:
            if not 0 <= now - self._read_at < REFRESH_S:
                self.read(now)
            # a success ends a row of 403s even if this process did not know of them at the time
            if self.known.strikes and self._answered_at >= self.known.struck_at:
                self.hear(Word(outcome=Outcome.OK, generation=self.known.generation))

    def read(self, now: float) -> None:
        with self._lock:
            try:
                data = self._store.read_bytes(self._file)
            except FileNotFoundError:
                data = None
            self._learn(data, now)

    def _slot(self, now: float) -> bool:
        self._drop_late(now)
        if not self._slots:
            self._reserve(now)
        if self.known.breaker is not Breaker.CLOSED or self._slots[0] > now:
            return False
        self._slots.popleft()
        return True

    def _reserve(self, now: float) -> None:
        slots: list[float] = []

        def take_slots(standing: Standing) -> Standing:
            slots.clear()
            if standing.breaker is not Breaker.CLOSED:
                return standing
            standing, taken = reserved(standing, self._pace, now)
            slots.extend(taken)
            return standing

        self._change(take_slots)
        self._slots.extend(sorted(max(s, now) + self._dice.uniform(0, self._pace.jitter_s) for s in slots))

    def _drop_late(self, now: float) -> None:
        """Who used old slots all at once would exceed the rate."""
        while self._slots and self._slots[0] < now - GRACE_S:
            self._slots.popleft()

    def _probe(self, now: float) -> Grant | None:
        if not self.known.may_probe(now):
            return None
        token = secrets.token_hex(8)
        self._change(lambda standing: probing(standing, token, now, self._cooling))
        if self.known.probe != token:
            return None
        return Grant(generation=self.known.generation, probe=token)

    def _change(self, rule: Callable[[Standing], Standing]) -> None:
        """Apply a rule to what the store holds at that moment."""
        now = self._clock()

        def change(data: bytes | None) -> bytes | None:
            before = self._standing(data, now)
            after = rule(before)
            return None if after == before else after.to_bytes()

        with self._lock:
            self._learn(self._store.update(self._file, change), now)

    def _learn(self, data: bytes | None, now: float) -> None:
        self.known, self._read_at = self._standing(data, now), now

    def _standing(self, data: bytes | None, now: float) -> Standing:
        """What a file says; without one, or with one that is not whole, nothing is held against anybody."""
        try:
            standing = Standing.from_bytes(data) if data is not None else self._fresh
        except (ValueError, TypeError, KeyError):
            standing = self._fresh
        return dataclasses.replace(standing.believed(now), id=self._fresh.id, label=self._fresh.label)


def standings(store: Store) -> list[Standing]:
    """How every identity stands that has worked for this dataset, for whoever wants to know."""
    found = []
    for name in store.names(f"{IDENTITIES}/"):
        try:
            found.append(Standing.from_bytes(store.read_bytes(name)))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # deleted meanwhile, or of another version
    return found


def hour(epoch_s: float) -> str:
    """A time as people on this machine read it."""
    return datetime.fromtimestamp(epoch_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
