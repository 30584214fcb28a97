"""How far each worker of a dataset is, written by itself into the dataset for everybody to read."""

import dataclasses
import json
import re
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from shards.layout import WORKERS
from shards.ledger import Attempt
from shards.process import Process, this_process
from shards.store import Entry, Store

EVERY_S = 2.0  # between two writes of one worker
RATE_OVER_S = 120.0
FORGET_S = 86_400.0  # files of workers that ended longer ago go away


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Per second, over the last two minutes."""

    segments: float = 0.0
    ok: float = 0.0
    media_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInWork:
    """Segments of a shard that are done, out of all it has."""

    shard: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReport:
    """What a worker's file says; the totals are of its run."""

    process: Process
    run: str
    started_at: float  # seconds since the epoch, by the worker's clock
    beat: int
    shards: tuple[ShardInWork, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    media_bytes: int = 0
    cpu_s: float = 0.0
    rate: Rate = Rate()
    waiting: str | None = None  # for what, in words
    finished: bool = False

    @property
    def segments(self) -> int:
        return sum(self.outcomes.values())

    def to_bytes(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError, TypeError or KeyError when the content is no report."""
        facts = json.loads(data)
        nested = {
            "process": Process(**facts["process"]),
            "shards": tuple(ShardInWork(**each) for each in facts["shards"]),
            "rate": Rate(**facts["rate"]),
        }
        return cls(**{**facts, **nested})


class WorkerProgress:
    """Counts what a worker's threads finish, and publishes it when asked to."""

    def __init__(self, store: Store, *, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._process = this_process()
        self._started_at = time.time()
        self._shards: dict[str, ShardInWork] = {}
        self._outcomes: Counter[str] = Counter()
        self._media_bytes = 0
        self._cpu_s = 0.0
        self._beat = 0
        self._published_at = float("-inf")
        self._waiting: str | None = None
        self._marks = deque([(clock(), 0, 0, 0)])  # time, segments, ok, media bytes
        self._lock = threading.Lock()
        host = re.sub(r"[^A-Za-z0-9-]", "-", self._process.host) or "host"
        self.name = f"{WORKERS}/{host}-{self._process.pid}-{secrets.token_hex(4)}.json"

    def shard_started(self, shard: str, total: int, done: int = 0) -> None:
        """`done` segments were finished before, by this worker or another."""
        with self._lock:
            self._shards[shard] = ShardInWork(shard=shard, done=done, total=total)

    def shard_finished(self, shard: str) -> None:
        with self._lock:
            self._shards.pop(shard, None)

    def count(self, attempt: Attempt) -> None:
        """One more segment is finished, of the shard that the attempt names."""
        with self._lock:
            self._outcomes[str(attempt.outcome)] += 1
            self._media_bytes += attempt.media_bytes or 0
            self._cpu_s += attempt.cpu_s or 0.0
            if (shard := self._shards.get(attempt.shard)) is not None:
                self._shards[attempt.shard] = dataclasses.replace(shard, done=shard.done + 1)

    def waiting(self, reason: str | None) -> None:
        """What the worker waits for, such as "cooling down until 12:30"; None when it works."""
        with self._lock:
            self._waiting = reason

    @property
    def waiting_for(self) -> str | None:
        with self._lock:
            return self._waiting

    def publish(self) -> None:
        """Let everybody read how far it is, unless that was done within the last two seconds."""
        if self._clock() - self._published_at >= EVERY_S * 0.9:  # a beat that comes a little early counts
            self._write(finished=False)

    def finish(self) -> None:
        """The last word of this worker."""
        self._write(finished=True)

    def _write(self, *, finished: bool) -> None:
        if self._beat == 0:
            _forget_old(self._store)
        self._store.publish_bytes(self._report(finished).to_bytes(), self.name, replace=True)

    def _report(self, finished: bool) -> WorkerReport:
        with self._lock:
            self._beat += 1
            self._published_at = self._clock()
            return WorkerReport(
                process=self._process,
                run=self._run,
                started_at=self._started_at,
                beat=self._beat,
                shards=tuple(self._shards.values()),
                outcomes=dict(self._outcomes),
                media_bytes=self._media_bytes,
                cpu_s=round(self._cpu_s, 3),
                rate=Rate() if finished else self._rate(),
                waiting=None if finished else self._waiting,
                finished=finished,
            )

    def _rate(self) -> Rate:
        now = self._clock()
        mark = (now, self._outcomes.total(), self._outcomes["ok"], self._media_bytes)
        self._marks.append(mark)
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_OVER_S:
            self._marks.popleft()
        then, segments, ok, media_bytes = self._marks[0]
        seconds = max(now - then, 1e-3)
        return Rate(
            segments=(mark[1] - segments) / seconds,
            ok=(mark[2] - ok) / seconds,
            media_bytes=(mark[3] - media_bytes) / seconds,
        )


def read_workers(store: Store) -> list[tuple[Entry, WorkerReport]]:
    """Every worker's file that can be read, oldest first."""
    found = []
    for entry in store.entries(f"{WORKERS}/"):
        try:
            found.append((entry, WorkerReport.from_bytes(store.read_bytes(entry.name))))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # deleted meanwhile, or of another version
    return sorted(found, key=lambda pair: pair[1].started_at)


def _forget_old(store: Store) -> None:
    for entry, report in read_workers(store):
        ended = report.finished or report.process.gone() or not report.process.visible()
        if ended and time.time() - entry.mtime > FORGET_S:
            store.delete(entry.name)
