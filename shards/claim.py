"""Who works on what: claims that any number of machines may make in one store.

A claim is a small file that names its holder and carries a beat, raised while the holder lives. It is taken
over at once when the holder ran on this machine and is gone, otherwise when its beat stands still for the
lease. Time is measured by each observer's own steady clock, so that machines need not agree on the hour.
"""

import contextlib
import dataclasses
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from shards.process import Process, this_process
from shards.store import LEASE_S, Store, StoreError

BEATS_PER_LEASE = 4


def steady_seconds() -> float:
    """Seconds that also pass while the machine sleeps, where the system counts those."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """What a claim's file says."""

    token: str
    owner: str  # what the holder calls itself: a run, a worker
    process: Process
    beat: int
    lease_s: float

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """None when the content is not a claim's: it is then nobody's, once the lease is over."""
        try:
            facts = json.loads(data)
            return cls(**{**facts, "process": Process(**facts["process"])})
        except (ValueError, TypeError, KeyError):
            return None


class Claim:
    """A name that is this process's own for `lease_s` seconds after each `renew`.

    Whoever was paused for longer than the lease finds `held()` False, and must ask `renew()` whether the work
    is still its own.
    """

    def __init__(
        self, store: Store, name: str, holder: Holder, clock: Callable[[], float], begun: float
    ) -> None:
        self.name = name
        self.lease_s = holder.lease_s
        self._store = store
        self._holder = holder
        self._clock = clock
        self._renewed = begun
        self._lock = threading.Lock()

    def renew(self) -> bool:
        """Raise the beat; False, for good, when another process has taken the claim over."""
        with self._lock:
            # the lease counts from before the beat is written: nobody saw it earlier than that
            begun, beaten = self._clock(), dataclasses.replace(self._holder, beat=self._holder.beat + 1)
            renewed = self._store.update(
                self.name, lambda data: beaten.to_bytes() if self._mine(data) else None
            )
            if not self._mine(renewed):
                return False
            self._holder, self._renewed = beaten, begun
            return True

    def held(self) -> bool:
        """Whether the lease runs and the store agrees."""
        if self._clock() - self._renewed >= self.lease_s:
            return False
        try:
            return self._mine(self._store.read_bytes(self.name))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it; nothing happens when they already do."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            data = self._store.read_bytes(self.name)
            if self._mine(data):
                self._store.delete(self.name, only=data)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Self]:
        """Renew in the background for as long as the block runs, then release."""
        done = threading.Event()
        keeper = threading.Thread(
            target=self._beat_until, args=(done,), daemon=True, name=f"claim {self.name}"
        )
        keeper.start()
        try:
            yield self
        finally:
            done.set()
            keeper.join()
            self.release()

    def _beat_until(self, done: threading.Event) -> None:
        while not done.wait(self.lease_s / BEATS_PER_LEASE):
            with contextlib.suppress(StoreError, OSError):  # the next beat may get through; the lease decides
                if not self.renew():
                    return

    def _mine(self, data: bytes | None) -> bool:
        holder = Holder.from_bytes(data or b"")
        return holder is not None and holder.token == self._holder.token


class Claims:
    """The claims that this process makes in one store, and since when it has seen others stand still."""

    def __init__(self, store: Store, clock: Callable[[], float] = steady_seconds) -> None:
        self._store = store
        self._clock = clock
        self._seen: dict[str, tuple[bytes, float]] = {}

    def claim(self, name: str, owner: str = "", lease_s: float = LEASE_S) -> Claim | None:
        """The claim, or None while another holds it; only who asks again sees that a beat stands still."""
        begun = self._clock()
        holder = Holder(
            token=secrets.token_hex(8), owner=owner, process=this_process(), beat=0, lease_s=lease_s
        )
        mine = holder.to_bytes()
        content = self._store.update(
            name, lambda data: mine if data is None or self._stale(name, data, lease_s) else None
        )
        if content != mine:
            return None
        self._seen.pop(name, None)
        return Claim(self._store, name, holder, self._clock, begun)

    def _stale(self, name: str, data: bytes, lease_s: float) -> bool:
        holder = Holder.from_bytes(data)
        if holder is not None and holder.process.gone():
            return True
        known, since = self._seen.get(name, (None, 0.0))
        if known != data:
            self._seen[name] = (data, self._clock())
            return False
        return self._clock() - since >= (lease_s if holder is None else holder.lease_s)
