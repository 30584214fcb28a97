"""One shard from its segments: tried side by side, spooled as they finish, packed in order, published."""

import contextlib
import heapq
import queue
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from pipeline.attempt import Tried
from pipeline.spool import DiskFull, Spool, raise_if_full
from shards.layout import ledger_name, tar_name
from shards.ledger import Attempt, ShardRecord, write_ledger
from shards.segment import Segment
from shards.store import Store
from shards.tar import TarFacts, read_members, write_tar

TrySegment = Callable[[Segment, int, Path], Tried]  # (segment, number of the try, scratch folder)


class Stopped(Exception):
    """Work ended before its end, on request or because it could not go on; what is finished is kept."""


class Stop:
    """Whether work should end, and why. Safe to share between threads."""

    def __init__(self) -> None:
        self._reason: BaseException | None = None

    def set(self, reason: BaseException) -> None:
        self._reason = self._reason or reason

    @property
    def reason(self) -> BaseException | None:
        return self._reason

    def check(self) -> None:
        if self._reason is not None:
            raise Stopped(str(self._reason)) from self._reason


class Progress(Protocol):
    """Who is told as segments finish."""

    def count(self, attempt: Attempt) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Building:
    """The collaborators of building a shard.

    `still_ours` says whether no other worker has taken it over; `settle` decides, once all segments were
    tried, which doubtful failures are permanent.
    """

    store: Store
    work: Path
    try_segment: TrySegment
    pool: Executor
    progress: Progress
    stop: Stop
    profile_hash: str
    run: str
    still_ours: Callable[[], bool] = field(default=lambda: True)
    settle: Callable[[Attempt], Attempt] = field(default=lambda attempt: attempt)


def build_shard(shard: str, segments: Sequence[Segment], building: Building) -> ShardRecord:
    """Try every segment that is not done yet, then pack and publish.

    Raises Stopped (also when the disk is full), with the finished segments kept in the work folder.
    """
    spool = Spool(building.work / shard)
    try:
        spool.prepare(segments)
        _try_all(segments, spool, building)
        return _publish(shard, segments, spool, building)
    except DiskFull as full:
        building.stop.set(full)
        raise Stopped(str(full)) from full


def _try_all(segments: Sequence[Segment], spool: Spool, building: Building) -> None:
    """Every segment once, and again those whose failure may pass, each when its pause is over."""
    tries = _Tries(partial(_try_one, segments, spool, building), building.pool)
    try:
        for position in sorted(set(range(len(segments))) - spool.done()):
            tries.submit(position, 1)
        while tries.left:
            tries.settle_next()
            building.stop.check()
    except BaseException as error:
        building.stop.set(error)
        tries.drain()
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Again:
    """A try whose failure may pass, and the pause until the next."""

    position: int
    tries: int
    pause_s: float


class _Tries:
    """Tries under way and tries that wait for their time."""

    def __init__(self, try_one: Callable[[int, int], _Again | None], pool: Executor) -> None:
        self._try_one = try_one
        self._pool = pool
        self._running: set[Future[_Again | None]] = set()
        self._ended: queue.SimpleQueue[Future[_Again | None]] = queue.SimpleQueue()
        self._later: list[tuple[float, int, int]] = []  # (due, position, tries)

    @property
    def left(self) -> bool:
        return bool(self._running or self._later)

    def submit(self, position: int, tries: int) -> None:
        future = self._pool.submit(self._try_one, position, tries)
        self._running.add(future)
        future.add_done_callback(self._ended.put)

    def settle_next(self) -> None:
        """Wait for the next try to end or the next pause to be over, a second at most."""
        pause = self._later[0][0] - time.monotonic() if self._later else 1.0
        with contextlib.suppress(queue.Empty):
            future = self._ended.get(timeout=min(1.0, max(0.001, pause)))
            self._running.discard(future)
            if again := future.result():
                due = time.monotonic() + again.pause_s
                heapq.heappush(self._later, (due, again.position, again.tries + 1))
        while self._later and self._later[0][0] <= time.monotonic():
            _, position, tries = heapq.heappop(self._later)
            self.submit(position, tries)

    def drain(self) -> None:
        """Let what runs come to its end, so that nothing writes into the spool any more."""
        for future in self._running:
            future.cancel()
        for future in self._running:
            with contextlib.suppress(BaseException):
                future.result()


def _try_one(
    segments: Sequence[Segment], spool: Spool, building: Building, position: int, tries: int
) -> _Again | None:
    """One try, in a thread of the pool; a finished segment is on disk when it returns."""
    building.stop.check()
    try:
        tried = building.try_segment(segments[position], tries, spool.folder)
    except OSError as error:
        raise_if_full(error, spool.folder)
        raise
    if tried.again_in is not None:
        return _Again(position=position, tries=tries, pause_s=tried.again_in)
    attempt = spool.add(position, replace(tried.attempt, shard=spool.folder.name), tried.sample)
    building.progress.count(attempt)
    return None


def _publish(shard: str, segments: Sequence[Segment], spool: Spool, building: Building) -> ShardRecord:
    """Tar first, ledger last: a ledger that exists says that the shard is whole."""
    finished = spool.finished()
    attempts = [building.settle(attempt) for attempt, _ in finished]
    tar, ledger = spool.folder / tar_name(shard), spool.folder / ledger_name(shard)
    try:
        facts = write_tar((part for attempt, part in finished if attempt.sample_bytes), tar)
        _check_tar(tar, [attempt.key for attempt in attempts if attempt.sample_bytes])
        record = _record(shard, segments[0].split, attempts, facts, building)
        write_ledger(ledger, attempts, record)
    except OSError as error:
        raise_if_full(error, spool.folder)
        raise
    _commit(tar, ledger, record, building)
    spool.remove()
    return record


def _check_tar(tar: Path, keys: Sequence[str]) -> None:
    """Read back what was written: every sample once, in order, its members together."""
    found = list(dict.fromkeys(member.key for member in read_members(tar)))
    if found != list(keys):
        raise RuntimeError(f"{tar} holds {len(found)} samples in an order other than the plan's {len(keys)}")


def _record(
    shard: str, split: str, attempts: Sequence[Attempt], facts: TarFacts, building: Building
) -> ShardRecord:
    return ShardRecord(
        shard=shard,
        split=split,
        rows=len(attempts),
        samples=facts.samples,
        tar_bytes=facts.bytes if facts.samples else 0,
        tar_sha256=facts.sha256 if facts.samples else "",
        outcomes=dict(Counter(str(attempt.outcome) for attempt in attempts)),
        profile_hash=building.profile_hash,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=building.run,
    )


def _commit(tar: Path, ledger: Path, record: ShardRecord, building: Building) -> None:
    """Publish, unless another worker has taken the shard over. A shard without samples has no tar."""
    if not building.still_ours():
        raise Stopped(f"{record.shard} was taken over by another worker while this one was paused")
    if record.samples:
        building.store.publish(tar, tar_name(record.shard), replace=True)
    if not building.store.publish(ledger, ledger_name(record.shard)):
        raise Stopped(f"{record.shard} was finished by another worker")
