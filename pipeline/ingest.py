"""An ingestion from its settings to its summary, in one process, with no server of any kind."""

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.build import Stop, Stopped
from pipeline.planning import Todo, begin_dataset, make_plan, make_retry_plan
from pipeline.settings import IngestSettings
from pipeline.sources import check_source
from pipeline.worker import Worker, new_run, open_worker
from shards.attempted import checked_wanted, failed_segments
from shards.ledger import ShardRecord
from shards.publication import is_current, publish_manifest, read_state
from shards.store import Store, open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run ended, and how its split stands."""

    out: str
    split: str
    planned: int
    outcomes: Mapping[str, int]  # of this run
    left: Mapping[str, int]  # segments of the split by disposition, over all runs
    seconds: float = 0.0
    stopped: BaseException | None = None  # why it ended before its end

    @property
    def ok(self) -> int:
        return self.outcomes.get("ok", 0)


def prepare(settings: IngestSettings) -> Todo:
    """Begin or join the dataset, and plan. Every error of the input is raised here, before work starts."""
    check_source(settings)
    wanted = checked_wanted(settings.retry) if settings.retry else frozenset()
    store = open_store(settings.out)
    dataset = begin_dataset(store, settings)
    if settings.retry:
        return make_retry_plan(store, settings, failed_segments(store, settings.split, wanted))
    return make_plan(store, settings, dataset)


def ingest(
    settings: IngestSettings,
    *,
    stop: Stop | None = None,
    watch: Callable[[Worker, Todo], contextlib.AbstractContextManager[object]] | None = None,
) -> Summary:
    """Build everything that is left to build. `watch` may look on while a worker works."""
    store, begun = open_store(settings.out), time.monotonic()
    todo = prepare(settings)
    outcomes: Counter[str] = Counter()
    reason: BaseException | None = None
    if todo.shards:
        opened = open_worker(settings, todo, new_run(), stop or Stop())
        with opened as worker, watch(worker, todo) if watch else contextlib.nullcontext():
            try:
                worker.build_all(todo, lambda record: _finished(store, outcomes, record))
            except Stopped as stopped:
                reason = stopped.__cause__ or stopped
    finish(store)
    summary = summarise(settings, store, todo, outcomes)
    return dataclasses.replace(summary, seconds=time.monotonic() - begun, stopped=reason)


def summarise(settings: IngestSettings, store: Store, todo: Todo, outcomes: Mapping[str, int]) -> Summary:
    """What a run came to, and how its split stands after it; `finish` comes first."""
    return Summary(
        out=store.url,
        split=settings.split,
        planned=todo.segments,
        outcomes=dict(outcomes),
        left=_left(store, settings.split),
    )


def _left(store: Store, split: str) -> Counter[str]:
    """Segments by disposition, as the last snapshot counted them."""
    left: Counter[str] = Counter()
    for count in read_state(store)["counts"]:
        if count["split"] == split:
            left[count["disposition"]] += count["segments"]
    return left


def _finished(store: Store, outcomes: Counter[str], record: ShardRecord) -> None:
    outcomes.update(record.outcomes)
    publish_manifest(store)


def finish(store: Store) -> None:
    """Bring what is derived from the ledgers up to date: the manifest, its counts, and sizes.json."""
    if not is_current(store):
        publish_manifest(store, force=True)
