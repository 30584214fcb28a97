"""An ingestion from its settings to its summary, in one process, with no server of any kind."""

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.build import Stop, Stopped
from pipeline.planning import Todo, begin_dataset, make_plan, make_retry_plan
from pipeline.settings import IngestSettings
from pipeline.worker import Worker, new_run, open_worker
from shards.attempted import checked_wanted, failed_segments, read_dispositions
from shards.layout import SIZES, tar_name
from shards.ledger import ShardRecord, read_record
from shards.manifest import publish_manifest
from shards.outcome import Disposition
from shards.store import Store, open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run ended, and how its split stands."""

    run: str
    out: str
    split: str
    planned: int
    shards: int  # built by this run
    outcomes: Mapping[str, int]  # of this run
    left: Mapping[str, int]  # segments of the split by disposition, over all runs
    seconds: float
    stopped: BaseException | None  # why it ended before its end

    @property
    def ok(self) -> int:
        return self.outcomes.get("ok", 0)


def prepare(settings: IngestSettings) -> Todo:
    """Begin or join the dataset, and plan. Every error of the input is raised here, before work starts."""
    store = open_store(settings.out)
    dataset = begin_dataset(store, settings)
    if settings.retry:
        wanted = checked_wanted(settings.retry)
        return make_retry_plan(store, settings, failed_segments(store, settings.split, wanted))
    return make_plan(store, settings, dataset)


def ingest(
    settings: IngestSettings,
    *,
    stop: Stop | None = None,
    watch: Callable[[Worker, Todo], contextlib.AbstractContextManager[object]] | None = None,
) -> Summary:
    """Build everything that is left to build. `watch` may look on while a worker works."""
    store, run, begun = open_store(settings.out), new_run(), time.monotonic()
    todo = prepare(settings)
    built: list[ShardRecord] = []
    reason: BaseException | None = None
    if todo.shards:
        with open_worker(settings, todo, run, stop or Stop()) as worker:
            looking = watch(worker, todo) if watch else contextlib.nullcontext()
            with looking:
                try:
                    worker.build_all(todo, lambda record: _finished(worker, built, record))
                except Stopped as stopped:
                    reason = stopped.__cause__ or stopped
    finish(store)
    return Summary(
        run=run,
        out=settings.out,
        split=settings.split,
        planned=todo.segments,
        shards=len(built),
        outcomes=sum((Counter(record.outcomes) for record in built), Counter()),
        left=Counter(read_dispositions(store, settings.split).values()),
        seconds=time.monotonic() - begun,
        stopped=reason,
    )


def _finished(worker: Worker, built: list[ShardRecord], record: ShardRecord) -> None:
    built.append(record)
    publish_manifest(worker.store)


def finish(store: Store) -> None:
    """Publish what is derived from the ledgers: the manifest, and sizes.json for loaders that want it."""
    publish_manifest(store, force=True)
    sizes = dict(_sizes(store))
    store.publish_bytes((json.dumps(sizes, indent=0) + "\n").encode(), SIZES, replace=True)


def _sizes(store: Store) -> Iterator[tuple[str, int]]:
    for name in store.names("audioset-"):
        if name.endswith(".parquet"):
            with store.open(name) as file:
                record = read_record(file)
            if record.samples:
                yield tar_name(record.shard), record.samples
