"""How far a dataset is, who works on it and what stands in the way: read from its files, on any machine."""

import dataclasses
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shards.layout import DATASET, IDENTITIES, MANIFEST, PAUSE, ledger_name
from shards.manifest import is_ledger
from shards.outcome import Disposition
from shards.plan import Plan, read_plans
from shards.process import Process
from shards.progress import Rate, ShardInWork, WorkerReport, read_workers
from shards.publication import read_state
from shards.store import Entry, Store
from shards.tally import Count, count_ledgers

ALIVE_S = 30.0  # a worker writes every two seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeCount:
    outcome: str
    disposition: str
    segments: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitStatus:
    """How far one split is. `in_work` segments are done but their shards are not: no ledger has them."""

    split: str
    planned: int
    attempted: int
    in_work: int
    ok: int
    permanent: int
    retryable: int
    blocked: int
    hours: float  # of sound in the samples
    sample_bytes: int

    @property
    def untried(self) -> int:
        return max(0, self.planned - self.attempted)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """A worker that has not come to its end, `alive` or not heard of for a while."""

    host: str
    pid: int
    run: str
    alive: bool
    silent_s: float  # since its last word
    beat: int
    shards: tuple[ShardInWork, ...]
    segments: int
    ok: int
    media_bytes: int
    rate: Rate
    waiting: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityStatus:
    """A proxy and cookie file that requests go through, and whether it is blocked."""

    label: str
    state: str  # closed: it works; open: it cools down; probing
    until: float | None  # seconds since the epoch
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Why all work rests."""

    reason: str
    since: float | None  # seconds since the epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Everything that `trichord status` shows. Times are seconds, sizes bytes."""

    url: str
    at: float  # seconds since the epoch
    splits: tuple[SplitStatus, ...]
    outcomes: tuple[OutcomeCount, ...]
    shards_planned: int
    shards_finished: int
    rate: Rate  # of all living workers
    left: int  # segments that the plans still hold, retries included
    eta_s: float | None
    workers: tuple[WorkerStatus, ...]
    identities: tuple[IdentityStatus, ...]
    pause: Pause | None
    used_bytes: int
    expected_bytes: int  # to come, at the size of the samples so far
    free_bytes: int | None
    manifest_age_s: float | None
    manifest_lacks: int  # ledgers that came after it
    problems: Mapping[str, str]  # file → why it could not be read
    partial: Mapping[str, Any] | None = None  # what a rebuilt dataset lacks, as dataset.json says

    def total(self, name: str) -> int:
        """The sum over the splits of one of their counts, such as "ok"."""
        return sum(getattr(split, name) for split in self.splits)

    @property
    def yield_(self) -> float | None:
        """Share of the attempted segments that gave a sample."""
        attempted = self.total("attempted")
        return self.total("ok") / attempted if attempted else None

    def to_json(self) -> str:
        facts = {**dataclasses.asdict(self), "yield": self.yield_}
        for split, found in zip(facts["splits"], self.splits, strict=True):
            split["untried"] = found.untried
        return json.dumps(facts, indent=2)


def read_status(store: Store, *, previous: Status | None = None) -> Status:
    """How the dataset is now.

    A worker is alive while its word is fresh by this machine's clock, or has changed since `previous`.
    """
    now, entries, state = time.time(), store.entries(), read_state(store)
    names = {entry.name for entry in entries}
    plans, problems = _plans(store)
    counts, unreadable = _counts(store, names, plans, state)
    reports = read_workers(store)
    in_work = _in_work(reports, names)
    workers = tuple(_workers(reports, now, previous))
    rate = _sum_rates(worker.rate for worker in workers if worker.alive)
    splits = tuple(_splits(counts, plans, in_work))
    left = _left(splits, plans, names, in_work)
    used = sum(entry.size for entry in entries)
    attempted = sum(split.attempted for split in splits)
    tar_bytes = sum(entry.size for entry in entries if entry.name.endswith(".tar"))
    age, lacks = _manifest(entries, names, state, now)
    return Status(
        url=store.url,
        at=now,
        splits=splits,
        outcomes=tuple(_outcomes(counts)),
        shards_planned=len({shard for plan in plans for shard in plan.shards}),
        shards_finished=sum(is_ledger(name) for name in names),
        rate=rate,
        left=left,
        eta_s=left / rate.segments if rate.segments > 0 else None,
        workers=workers,
        identities=tuple(_identities(store, names)),
        pause=_pause(store),
        used_bytes=used,
        expected_bytes=round(left * tar_bytes / attempted) if attempted else 0,
        free_bytes=store.free_bytes(),
        manifest_age_s=age,
        manifest_lacks=lacks,
        problems={**problems, **unreadable},
        partial=_facts(store, DATASET).get("partial"),
    )


# ------------------------------------------------------------------------------------------ segments


def _plans(store: Store) -> tuple[list[Plan], dict[str, str]]:
    try:
        return read_plans(store), {}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        return [], {"_plan": f"{type(error).__name__}: {error}"}


def _counts(
    store: Store, names: set[str], plans: Sequence[Plan], state: Mapping[str, Any]
) -> tuple[list[Count], dict[str, str]]:
    """Outcomes by split: what the last snapshot counted and the ledgers that came after it, or all ledgers.

    A ledger of retries changes what was counted before: then all are read.
    """
    ledgers = {name for name in names if is_ledger(name)}
    known = set(state.get("ledgers", ()))
    retried = {ledger_name(shard) for plan in plans if plan.retry for shard in plan.shards}
    if known and known <= ledgers and not retried & (ledgers - known):
        newer, problems = count_ledgers(store, sorted(ledgers - known))
        return [*(Count(**count) for count in state["counts"]), *newer], {**state["problems"], **problems}
    return count_ledgers(store, sorted(ledgers))


def _outcomes(counts: Iterable[Count]) -> list[OutcomeCount]:
    sums: Counter[tuple[str, str]] = Counter()
    for count in counts:
        sums[count.outcome, count.disposition] += count.segments
    ordered = sorted(sums.items(), key=lambda item: (item[0][0] != "ok", -item[1], item[0]))
    return [OutcomeCount(outcome=o, disposition=d, segments=segments) for (o, d), segments in ordered]


def _splits(counts: Sequence[Count], plans: Sequence[Plan], in_work: Mapping[str, int]) -> list[SplitStatus]:
    names = dict.fromkeys([*(plan.split for plan in plans), *sorted(count.split for count in counts)])
    return [_split(name, counts, plans, in_work) for name in names]


def _split(
    name: str, counts: Sequence[Count], plans: Sequence[Plan], in_work: Mapping[str, int]
) -> SplitStatus:
    mine = [count for count in counts if count.split == name]
    by: defaultdict[str, int] = defaultdict(int)
    for count in mine:
        by[count.disposition] += count.segments
    first = [plan for plan in plans if plan.split == name and not plan.retry]
    attempted = sum(by.values())
    return SplitStatus(
        split=name,
        planned=max(attempted, sum(plan.segments for plan in first)),
        attempted=attempted,
        in_work=sum(in_work.get(shard, 0) for plan in first for shard in plan.shards),
        ok=by[Disposition.DONE],
        permanent=by[Disposition.PERMANENT],
        retryable=by[Disposition.RETRYABLE],
        blocked=by[Disposition.BLOCKED],
        hours=sum(count.audio_s for count in mine if count.disposition == Disposition.DONE) / 3600,
        sample_bytes=sum(count.sample_bytes for count in mine),
    )


def _in_work(reports: Iterable[tuple[Entry, WorkerReport]], names: set[str]) -> dict[str, int]:
    """shard → segments done, of shards without a ledger; a shard that changed hands counts once."""
    done: dict[str, int] = {}
    for _, report in reports:
        for each in report.shards:
            if ledger_name(each.shard) not in names:
                done[each.shard] = max(each.done, done.get(each.shard, 0))
    return done


def _left(
    splits: Iterable[SplitStatus], plans: Iterable[Plan], names: set[str], in_work: Mapping[str, int]
) -> int:
    untried = sum(split.untried for split in splits)
    again = sum(
        size
        for plan in plans
        if plan.retry
        for shard, size in zip(plan.shards, plan.sizes, strict=True)
        if ledger_name(shard) not in names
    )
    return max(0, untried + again - sum(in_work.values()))


# ------------------------------------------------------------------------------------------- workers


def _workers(
    reports: Iterable[tuple[Entry, WorkerReport]], now: float, previous: Status | None
) -> list[WorkerStatus]:
    """Who has not finished. Old ones that are surely gone are left out."""
    before = {(w.host, w.pid, w.run): w.beat for w in previous.workers} if previous else {}
    return [
        _worker(entry, report, now, before)
        for entry, report in reports
        if not report.finished and not report.process.gone()
    ]


def _worker(
    entry: Entry, report: WorkerReport, now: float, before: Mapping[tuple[str, int, str], int]
) -> WorkerStatus:
    process: Process = report.process
    silent_s = max(0.0, now - entry.mtime)
    moved = before.get((process.host, process.pid, report.run), report.beat) != report.beat
    return WorkerStatus(
        host=process.host,
        pid=process.pid,
        run=report.run,
        alive=moved or silent_s < ALIVE_S,
        silent_s=silent_s,
        beat=report.beat,
        shards=report.shards,
        segments=report.segments,
        ok=report.outcomes.get("ok", 0),
        media_bytes=report.media_bytes,
        rate=report.rate,
        waiting=report.waiting,
    )


def _sum_rates(rates: Iterable[Rate]) -> Rate:
    total = Rate()
    for rate in rates:
        total = Rate(
            segments=total.segments + rate.segments,
            ok=total.ok + rate.ok,
            media_bytes=total.media_bytes + rate.media_bytes,
        )
    return total


# --------------------------------------------------------------------------------------------- state


def _facts(store: Store, name: str) -> dict[str, Any]:
    """A small file's content; empty when it is gone or not what it should be."""
    try:
        facts = json.loads(store.read_bytes(name))
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _identities(store: Store, names: Iterable[str]) -> list[IdentityStatus]:
    files = sorted(name for name in names if name.startswith(f"{IDENTITIES}/"))
    return [_identity(facts) for name in files if (facts := _facts(store, name))]


def _identity(facts: Mapping[str, Any]) -> IdentityStatus:
    state = str(facts.get("breaker") or facts.get("state") or "closed")
    return IdentityStatus(
        label=str(facts.get("label") or facts.get("id") or "?"),
        state=state,
        until=(facts.get("until") or None) if state != "closed" else None,
        reason=(facts.get("reason") or facts.get("outcome")) if state != "closed" else None,
    )


def _pause(store: Store) -> Pause | None:
    facts = _facts(store, PAUSE)
    if not facts:
        return None
    since = facts.get("since")
    return Pause(
        reason=str(facts.get("reason") or "paused"), since=since if isinstance(since, float) else None
    )


def _manifest(
    entries: Iterable[Entry], names: set[str], state: Mapping[str, Any], now: float
) -> tuple[float | None, int]:
    """Age of the snapshot, and how many ledgers it lacks."""
    ages = [max(0.0, now - entry.mtime) for entry in entries if entry.name == MANIFEST]
    ledgers = {name for name in names if is_ledger(name)}
    return (ages[0], len(ledgers - set(state.get("ledgers", ())))) if ages else (None, len(ledgers))
