"""One worker a process, shared by the tasks that run in it at the same time, whoever started the process."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.build import Stop
from pipeline.planning import Todo
from pipeline.settings import IngestSettings
from pipeline.worker import Worker, new_run, open_worker
from shards.layout import ledger_name
from shards.ledger import ShardRecord
from shards.plan import read_plans
from shards.store import open_store

_POLL_S = 2.0


@dataclass(kw_only=True, slots=True)
class _Shared:
    """A worker, the plans it knows, how many tasks use it, and what ends it."""

    worker: Worker
    todo: Todo
    closing: contextlib.ExitStack
    users: int = 0


_lock = threading.Lock()
_open: dict[str, _Shared] = {}


def build_planned_shard(settings_json: str, shard: str) -> ShardRecord | None:
    """Build a shard of the dataset's plans; None when another worker has finished it. Raises Stopped."""
    with _borrowed(settings_json) as (worker, todo):
        while not worker.store.exists(ledger_name(shard)):
            worker.stop.check()
            if record := worker.build(todo, shard):
                return record
            time.sleep(_POLL_S)  # somebody holds it; whoever died is followed by the next who asks
    return None


def stop_workers(reason: BaseException) -> None:
    """Let every worker of this process come to its end; what is finished is kept."""
    with _lock:
        for shared in _open.values():
            shared.worker.stop.set(reason)


@contextlib.contextmanager
def _borrowed(settings_json: str) -> Iterator[tuple[Worker, Todo]]:
    """The process's worker for these settings; the last task that uses it ends it.

    A task that comes after one that failed finds a stopped worker, and gets a new one.
    """
    with _lock:
        shared = _open.get(settings_json)
        if shared is None or shared.worker.stop.reason is not None:
            shared = _open[settings_json] = _opened(settings_json)
        shared.users += 1
    try:
        yield shared.worker, shared.todo
    finally:
        with _lock:
            shared.users -= 1
            if shared.users == 0:
                if _open.get(settings_json) is shared:
                    del _open[settings_json]
                shared.closing.close()


def _opened(settings_json: str) -> _Shared:
    settings = IngestSettings.from_json(settings_json)
    plans = read_plans(open_store(settings.out), settings.split)
    todo = Todo(plans=tuple(plans), shards=())
    closing = contextlib.ExitStack()
    worker = closing.enter_context(open_worker(settings, todo, new_run(), Stop()))
    return _Shared(worker=worker, todo=todo, closing=closing)
