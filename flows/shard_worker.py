"""One worker a process, shared by the tasks that run in it, whoever started the process."""

import atexit
import contextlib
import threading
import time

from pipeline.build import Stop
from pipeline.planning import Todo
from pipeline.settings import IngestSettings
from pipeline.worker import Worker, new_run, open_worker
from shards.layout import ledger_name
from shards.ledger import ShardRecord
from shards.plan import read_plans
from shards.store import open_store

_POLL_S = 2.0

_lock = threading.Lock()
_open: dict[str, tuple[Worker, Todo]] = {}
_closing = contextlib.ExitStack()


def build_planned_shard(settings_json: str, shard: str) -> ShardRecord | None:
    """Build a shard of the dataset's plans; None when another worker has finished it. Raises Stopped."""
    worker, todo = _shared(settings_json)
    while not worker.store.exists(ledger_name(shard)):
        if record := worker.build(todo, shard):
            return record
        time.sleep(_POLL_S)  # somebody holds it; whoever died is followed by the next who asks
    return None


def stop_workers(reason: BaseException) -> None:
    """Let every worker of this process come to its end; what is finished is kept."""
    with _lock:
        for worker, _ in _open.values():
            worker.stop.set(reason)


def close_workers() -> None:
    """End the workers of this process that have nothing to do any more."""
    with _lock:
        _open.clear()
        _closing.close()


def _shared(settings_json: str) -> tuple[Worker, Todo]:
    with _lock:
        if settings_json not in _open:
            settings = IngestSettings.from_json(settings_json)
            plans = read_plans(open_store(settings.out), settings.split)
            todo = Todo(plans=tuple(plans), shards=())
            worker = _closing.enter_context(open_worker(settings, todo, new_run(), Stop()))
            _open[settings_json] = worker, todo
        return _open[settings_json]


atexit.register(close_workers)
