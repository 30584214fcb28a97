"""A process that builds shards of a dataset: what it needs is opened once, every shard is claimed first."""

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.attempt import Attempts, Retries
from pipeline.build import Building, Stop, Stopped, TrySegment, build_shard
from pipeline.extract import Extractor
from pipeline.ffmpeg import find_program
from pipeline.planning import Todo
from pipeline.relay import Relay
from pipeline.settings import IngestSettings
from pipeline.sources import open_source
from pipeline.spool import DiskFull, Spool
from shards.labels import read_labels
from shards.layout import CLAIMS, LABELS, WORK_FOLDER, is_shard_name, ledger_name
from shards.ledger import Attempt, ShardRecord
from shards.plan import read_planned
from shards.profile import read_dataset
from shards.progress import WorkerProgress
from shards.store import Store, StoreError, open_store

BUILDERS = 2  # shards side by side: the second fills the places that the tail of the first leaves empty
_BEAT_S = 2.0
_POLL_S = 1.0


def new_run() -> str:
    """A name for a run: when, where, and a few digits against coincidence."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{stamp}-{socket.gethostname()}-{secrets.token_hex(2)}"


def work_folder(wanted: str | None, store: Store, profile_hash: str) -> Path:
    """Where unfinished shards are kept: within a dataset on disk, else under --work or the user's cache.

    Outside of the dataset the folder is named after it and its profile: another dataset has shards of the
    same names.
    """
    inside = store.local_path(WORK_FOLDER)
    if wanted is None and inside is not None:
        return inside
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trichord"
    folder = Path(wanted).expanduser().absolute() if wanted else cache
    mark = hashlib.sha256(f"{store.url} {profile_hash}".encode()).hexdigest()[:12]
    return folder / f"{store.url.rpartition('/')[2]}-{mark}"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What building shards takes, open and ready."""

    store: Store
    profile_hash: str
    work: Path
    try_segment: TrySegment
    settle: Callable[[Attempt], Attempt]
    progress: WorkerProgress
    pool: ThreadPoolExecutor
    stop: Stop
    run: str
    min_free: int  # bytes that must be left on the disk
    observers: list[Callable[[Attempt], None]] = field(default_factory=list)

    def count(self, attempt: Attempt) -> None:
        """Tell everybody who counts of a finished segment."""
        self.progress.count(attempt)
        for observe in self.observers:
            observe(attempt)

    def build(self, todo: Todo, shard: str) -> ShardRecord | None:
        """Build one shard; None when another worker has it or has finished it. Raises Stopped."""
        claim = self.store.claim(f"{CLAIMS}/{shard}", owner=self.run)
        if claim is None:
            return None
        with claim.kept():
            if self.store.exists(ledger_name(shard)):
                return None
            segments = read_planned(self.store, todo.plan_of(shard), shard)
            building = Building(
                store=self.store,
                work=self.work,
                try_segment=self.try_segment,
                pool=self.pool,
                progress=self,
                stop=self.stop,
                profile_hash=self.profile_hash,
                run=self.run,
                still_ours=claim.held,
                settle=self.settle,
            )
            self.progress.shard_started(shard, len(segments), done=len(Spool(self.work / shard).done()))
            record = build_shard(shard, segments, building)
            self.progress.shard_finished(shard)
            return record

    def build_all(self, todo: Todo, on_shard: Callable[[ShardRecord], None]) -> None:
        """Build what nobody else builds, then wait for the others and take over what they leave.

        Raises Stopped, or whatever surprise came up, after all that runs has come to its end.
        """
        waiting = _Waiting(todo.shards)
        builders = [
            threading.Thread(target=self._keep_building, args=(todo, waiting, on_shard), name=f"builder-{n}")
            for n in range(BUILDERS)
        ]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join()
        self.stop.check()

    def _keep_building(
        self, todo: Todo, waiting: "_Waiting", on_shard: Callable[[ShardRecord], None]
    ) -> None:
        try:
            while (shard := waiting.take(self._pause)) is not None:
                self.stop.check()
                record = self.build(todo, shard)
                if record is not None:
                    on_shard(record)
                elif not self.store.exists(ledger_name(shard)):
                    waiting.put_back(shard)
        except Stopped as stopped:
            self.stop.set(stopped)
        except BaseException as error:
            self.stop.set(error)

    def _pause(self) -> None:
        """Others hold all that is left: look again in a moment."""
        time.sleep(_POLL_S)
        self.stop.check()


class _Waiting:
    """Shards that still need somebody."""

    def __init__(self, shards: Sequence[str]) -> None:
        self._fresh = list(reversed(shards))
        self._held: list[str] = []
        self._lock = threading.Lock()

    def take(self, pause: Callable[[], None]) -> str | None:
        """The next shard nobody was seen to hold, else one that was held a moment ago; None at the end."""
        with self._lock:
            if self._fresh:
                return self._fresh.pop()
        pause_first = bool(self._held)
        if pause_first:
            pause()
        with self._lock:
            return self._held.pop(0) if self._held else None

    def put_back(self, shard: str) -> None:
        with self._lock:
            self._held.append(shard)


@contextlib.contextmanager
def open_worker(settings: IngestSettings, todo: Todo, run: str, stop: Stop) -> Iterator[Worker]:
    """A worker, with its heart beating; nothing of it is left afterwards but finished segments."""
    store = open_store(settings.out)
    work = work_folder(settings.work, store, read_dataset(store).profile.hash)
    work.mkdir(parents=True, exist_ok=True)
    progress = WorkerProgress(store, run=run)
    with contextlib.closing(Relay()) as relay, contextlib.ExitStack() as ending:
        ending.callback(tidy, work, store)
        extractor = _extractor(settings, store, relay)
        source, settle = open_source(settings, store, todo, extractor.program, progress, stop)
        pool = ending.enter_context(ThreadPoolExecutor(settings.jobs_now, thread_name_prefix="segment"))
        retries = Retries(transient=settings.retries, base_s=settings.retry_base_s)
        attempts = Attempts(source=source, extractor=extractor, retries=retries, run=run)
        worker = Worker(
            store=store,
            profile_hash=extractor.profile.hash,
            work=work,
            try_segment=attempts.try_segment,
            settle=settle,
            progress=progress,
            pool=pool,
            stop=stop,
            run=run,
            min_free=settings.min_free,
        )
        ending.enter_context(beating(worker))
        yield worker


def tidy(work: Path, store: Store) -> None:
    """Remove what other workers have finished in our place, and the folder when nothing is left in it."""
    for folder in work.glob("*"):
        if is_shard_name(folder.name) and store.exists(ledger_name(folder.name)):
            Spool(folder).remove()
    with contextlib.suppress(OSError):  # somebody's shards are in it
        work.rmdir()


def _extractor(settings: IngestSettings, store: Store, relay: Relay) -> Extractor:
    with store.open(LABELS) as table:
        labels = read_labels(table)
    return Extractor(
        program=find_program(settings.ffmpeg),
        profile=read_dataset(store).profile,
        names=labels.names,
        relay=relay,
        timeout_s=settings.segment_timeout_s,
    )


@contextlib.contextmanager
def beating(worker: Worker) -> Iterator[None]:
    """Every two seconds: say how far the worker is, and see whether there is room to go on."""
    done = threading.Event()
    heart = threading.Thread(target=_beat_until, args=(done, worker), daemon=True, name="heartbeat")
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        worker.progress.finish()


def _beat_until(done: threading.Event, worker: Worker) -> None:
    while True:
        with contextlib.suppress(OSError, StoreError):  # a full disk is noticed where it matters
            worker.progress.publish()
        _check_room(worker)
        if done.wait(_BEAT_S):
            return


def _check_room(worker: Worker) -> None:
    worker.work.mkdir(parents=True, exist_ok=True)  # who ends on this machine may just have removed it
    free, least = shutil.disk_usage(worker.work).free, worker.min_free
    if free < least:
        worker.stop.set(
            DiskFull(
                f"{free >> 20} MiB are left at {worker.work}, less than --min-free {least >> 20} MiB; "
                "make room and run the same command again"
            )
        )
