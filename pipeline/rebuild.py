"""A published dataset rebuilt as shards: from its folder or archive to a summary, in one process."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import esc50, imagenet_val, urbansound8k
from pipeline.archive import check_archive, unpack
from pipeline.build import Stop, Stopped
from pipeline.ffmpeg import find_program
from pipeline.file_attempt import FileAttempts
from pipeline.folder_dataset import read_folder
from pipeline.ingest import finish
from pipeline.listing import Item, Listing, ListingError, Published, split_sha256
from pipeline.planning import Todo, alone
from pipeline.spool import raise_if_full
from pipeline.worker import Worker, beating, new_run, tidy, work_folder
from shards.labels import Labels, write_labels
from shards.layout import ANNOTATION_FOLDER, LABELS, ledger_name, tar_name
from shards.ledger import ShardRecord, read_attempts
from shards.outcome import Outcome
from shards.plan import Plan, read_plans, write_plan
from shards.profile import Dataset, Profile, join_dataset, record_partial
from shards.progress import WorkerProgress
from shards.publication import publish_manifest
from shards.store import Store, open_store

ANNOTATIONS = f"{ANNOTATION_FOLDER}/source.parquet"
PICTURES = Profile(frames=1, short_side=0, channels=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A dataset that can be rebuilt by its name."""

    title: str
    published: Published
    table: str = ""  # the file that shows which folder of an archive is the dataset's


KNOWN: Mapping[str, Known] = {
    "esc50": Known(title="ESC-50", published=esc50.PUBLISHED, table=esc50.TABLE),
    "urbansound8k": Known(title="UrbanSound8K", published=urbansound8k.PUBLISHED, table=urbansound8k.TABLE),
    "imagenet-val": Known(title="ImageNet's validation set", published=imagenet_val.PUBLISHED),
    "folder": Known(title="the folder", published=Published()),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildSettings:
    """A rebuild, as asked for. Paths are text, so that the value travels as JSON."""

    dataset: str  # of KNOWN
    out: str
    root: str | None = None
    archive: str | None = None
    checksum: str | None = None  # of the archive, in place of the published one
    allow_partial: bool = False
    table: str | None = None  # of `folder`: its CSV
    name: str | None = None  # of `folder`: what its shards are called
    ground_truth: str | None = None  # of `imagenet-val`: classes of pictures that lie in one folder
    sample_rate: int = 44_100
    audio_codec: str = "flac"
    samples_per_shard: int = 512
    jobs: int | None = None
    work: str | None = None
    ffmpeg: str | None = None
    min_free: int = 1 << 30  # bytes

    def __post_init__(self) -> None:
        if self.dataset not in KNOWN:
            raise ListingError(f"dataset is {self.dataset!r}; expected {', '.join(KNOWN)}")
        if (self.root is None) == (self.archive is None):
            raise ListingError("expected either --root FOLDER or --archive FILE")
        if self.dataset == "folder" and not self.table:
            raise ListingError("expected --table CSV with the columns file,label")
        if not 1 <= self.samples_per_shard <= 100_000:
            raise ListingError(f"--samples-per-shard is {self.samples_per_shard}; expected 1 to 100000")
        if self.jobs is not None and not 1 <= self.jobs <= 1000:
            raise ListingError(f"--jobs is {self.jobs}; expected 1 to 1000")

    @property
    def profile(self) -> Profile:
        """Channels and pictures stay as they are, whatever is asked for."""
        frames = 1 if self.dataset in ("imagenet-val", "folder") else 0
        return dataclasses.replace(
            PICTURES, frames=frames, sample_rate=self.sample_rate, audio_codec=self.audio_codec
        )


class Incomplete(ListingError):
    """The files are not those of the dataset as it was published; `amiss` has a line for each difference."""

    def __init__(self, title: str, amiss: Sequence[str]) -> None:
        super().__init__(
            f"this is not the whole of {title}: {'; '.join(amiss)}. Fetch what is missing, or give "
            "--allow-partial, which every later result then shows"
        )
        self.amiss = tuple(amiss)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A rebuild that is ready to begin: nothing that was given is wrong."""

    store: Store
    root: Path
    listing: Listing
    todo: Todo
    work: Path
    again: int  # shards that are built anew, as files of theirs failed before


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """How a rebuild ended, and how the dataset stands."""

    out: str
    planned: int
    outcomes: Mapping[str, int]  # of this run
    shards: int  # built by this run
    failed: Mapping[str, str]  # key → why there is no sample, over all runs
    clipped: int  # samples of which some values were clipped to 16 bits, over all runs
    amiss: tuple[str, ...]  # what differs from what was published
    partial: Mapping[str, Any] | None
    seconds: float
    stopped: BaseException | None = None


def rebuild(
    settings: RebuildSettings,
    *,
    stop: Stop | None = None,
    watch: Callable[[Worker, Todo], contextlib.AbstractContextManager[object]] | None = None,
    published: Published | None = None,
) -> Rebuilt:
    """Build every shard that is left to build. `watch` may look on while a worker works.

    Raises Incomplete when the files are not what was published, unless `allow_partial`; other ValueErrors
    for what else is wrong with what was given. `published` takes the place of what is known about the
    dataset.
    """
    begun, stop = time.monotonic(), stop or Stop()
    outcomes: Counter[str] = Counter()
    built: list[str] = []
    reason: BaseException | None = None
    with prepared(settings, stop, published) as ready:
        opened = opened_worker(settings, ready, stop)
        with opened as worker, watch(worker, ready.todo) if watch else contextlib.nullcontext():
            try:
                worker.build_all(ready.todo, lambda record: _built(ready, outcomes, built, record))
            except Stopped as stopped:
                reason = stopped.__cause__ or stopped
        concluded = conclude(ready, outcomes)
    seconds = time.monotonic() - begun
    return dataclasses.replace(concluded, shards=len(built), seconds=seconds, stopped=reason)


def _built(ready: Prepared, outcomes: Counter[str], built: list[str], record: ShardRecord) -> None:
    outcomes.update(record.outcomes)
    built.append(record.shard)
    publish_manifest(ready.store)


@contextlib.contextmanager
def prepared(settings: RebuildSettings, stop: Stop, published: Published | None = None) -> Iterator[Prepared]:
    """Begin or join the dataset and plan it; an archive's files are there for as long as the block runs."""
    find_program(settings.ffmpeg)
    known = KNOWN[settings.dataset]
    store = open_store(settings.out)
    work = work_folder(settings.work, store, settings.profile.hash)
    with _root(settings, published or known.published, work, stop) as root:
        listing = read_listing(settings, root, published or known.published)
        amiss = listing.amiss()
        if amiss and not settings.allow_partial:
            raise Incomplete(known.title, amiss)
        _begin(store, settings, listing)
        with alone(store):
            again = _reopen(store, listing, root, settings)
            todo = _plan(store, listing, settings)
        record_partial(store, listing.partial(unbuilt=todo.left))
        yield Prepared(store=store, root=root, listing=listing, todo=todo, work=work, again=again)


def read_listing(settings: RebuildSettings, root: Path, published: Published) -> Listing:
    """The dataset's rows held against its files."""
    match settings.dataset:
        case "esc50":
            return esc50.read_esc50(root, published)
        case "urbansound8k":
            return urbansound8k.read_urbansound8k(root, published)
        case "imagenet-val":
            truth = Path(settings.ground_truth) if settings.ground_truth else None
            return imagenet_val.read_imagenet_val(root, truth, published)
        case _:
            return read_folder(root, Path(settings.table or ""), settings.name or "folder")


# ---------------------------------------------------------------------------------------- where the files are


@contextlib.contextmanager
def _root(settings: RebuildSettings, published: Published, work: Path, stop: Stop) -> Iterator[Path]:
    """The folder that was given, or the archive's files in a folder of ours."""
    table = KNOWN[settings.dataset].table
    if settings.archive is None:
        yield _checked_root(Path(settings.root or ""), table)
        return
    archive = Path(settings.archive)
    check_archive(archive, published.archive if settings.checksum is None else settings.checksum)
    work.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(work)
    with tempfile.TemporaryDirectory(prefix=_archive_prefix(os.getpid()), dir=work) as folder:
        try:
            unpack(archive, Path(folder) / "files", stop.check)
        except OSError as error:
            raise_if_full(error, work)
            raise
        yield _found_root(Path(folder) / "files", table, archive)


def _checked_root(root: Path, table: str) -> Path:
    if not root.is_dir():
        raise ListingError(f"--root {root}: no such folder")
    if table and not (root / table).is_file():
        raise ListingError(f"--root {root}: no {table} in it; expected the dataset's own folder")
    return root


def _found_root(folder: Path, table: str, archive: Path) -> Path:
    """The folder in an archive that holds the table; archives have one of their own name around all."""
    if not table:
        return folder
    tables = sorted(folder.glob(table)) + sorted(folder.glob(f"*/{table}"))
    if not tables:
        raise ListingError(f"{archive}: no {table} in it; expected the dataset's published archive")
    return tables[0].parents[len(Path(table).parts) - 1]


def _archive_prefix(pid: int) -> str:
    return f"archive-{socket.gethostname()}-{pid}-"


def _clear_abandoned(work: Path) -> None:
    """Remove what killed processes of this machine have unpacked."""
    for folder in work.glob(f"archive-{socket.gethostname()}-*-*"):
        pid = int(folder.name.rsplit("-", 2)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            continue


# ----------------------------------------------------------------------------------------------- planning


def _begin(store: Store, settings: RebuildSettings, listing: Listing) -> None:
    """`dataset.json`, the class table and what else the rows say."""
    wanted = Dataset(
        profile=settings.profile,
        name=listing.name,
        class_labels_sha256=_labels_sha256(listing.labels),
        splits={split: split_sha256(items) for split, items in listing.splits.items()},
        partial=listing.partial(unbuilt=len(listing.items)),  # from the beginning: we may be killed
    )
    join_dataset(store, wanted)
    if not store.exists(LABELS):
        table = io.BytesIO()
        write_labels(table, listing.labels)
        store.publish_bytes(table.getvalue(), LABELS)
    store.publish_bytes(annotation_table(listing.items), ANNOTATIONS, replace=True)


def _labels_sha256(labels: Labels) -> str:
    table = [(label.index, label.mid, label.name) for label in labels]
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def annotation_table(items: Sequence[Item]) -> bytes:
    """What the dataset's table says of each sample, as Parquet: key, file, then the table's columns."""
    columns = list(dict.fromkeys(name for item in items for name in item.row))
    rows = pa.table(
        {
            "key": [item.key for item in items],
            "file": [item.file for item in items],
            **{
                name: [item.row.get(name) for item in items]
                for name in columns
                if name not in ("key", "file")
            },
        }
    )
    target = io.BytesIO()
    pq.write_table(rows, target, compression="zstd")
    return target.getvalue()


def _plan(store: Store, listing: Listing, settings: RebuildSettings) -> Todo:
    """A plan for each split, made once; the shards that have no ledger yet."""
    plans = {plan.split: plan for plan in read_plans(store)}
    for split, items in listing.splits.items():
        if split not in plans:
            plans[split] = _new_plan(store, split, items, listing.name, settings)
        elif plans[split].selection != _selection(items, settings):
            raise ListingError(
                f"{store.url} was begun with shards of other sizes, of {max(plans[split].sizes)} samples at "
                f"most; expected the same --samples-per-shard (here {settings.samples_per_shard}), or "
                "another --out"
            )
    names = set(store.names(f"{listing.name}-"))
    wanted = tuple(plans[split] for split in listing.splits)
    return Todo(plans=wanted, shards=tuple(shard for plan in wanted for shard in plan.unfinished(names)))


def _selection(items: Sequence[Item], settings: RebuildSettings) -> str:
    return f"{split_sha256(items)[:16]}-{settings.samples_per_shard}"


def _new_plan(store: Store, split: str, items: Sequence[Item], name: str, settings: RebuildSettings) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plan.parquet"
        plan = write_plan(
            target,
            (item.segment for item in items),
            split=split,
            selection=_selection(items, settings),
            first_index=0,
            per_shard=settings.samples_per_shard,
            dataset=name,
        )
        if plan is None or not store.publish(target, plan.name):
            raise RuntimeError(
                f"{store.url}: the plan of {split} could not be made, although it is ours to make"
            )
    return plan


def _reopen(store: Store, listing: Listing, root: Path, settings: RebuildSettings) -> int:
    """Take back shards with files that failed and may be better now; how many they are.

    A file that is as it was fails as it did: with --allow-partial that is accepted.
    """
    files = {item.key: root / item.file for item in listing.items}
    count = 0
    for shard, rows in _failures(store, listing.name).items():
        if any(_may_succeed(files.get(row["key"]), row, settings.allow_partial) for row in rows):
            store.delete(ledger_name(shard))
            store.delete(tar_name(shard))
            count += 1
    return count


def _may_succeed(file: Path | None, row: Mapping[str, Any], allow_partial: bool) -> bool:
    if file is None or not file.is_file():
        return False
    return not allow_partial or file.stat().st_size != row["media_bytes"]


def _failures(store: Store, name: str) -> dict[str, list[dict[str, Any]]]:
    """shard → its rows without a sample."""
    found: dict[str, list[dict[str, Any]]] = {}
    for shard, rows in _rows(store, name):
        if failed := [row for row in rows if row["outcome"] != Outcome.OK]:
            found[shard] = failed
    return found


def _rows(store: Store, name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for ledger in store.names(f"{name}-"):
        if ledger.endswith(".parquet"):
            with store.open(ledger) as file:
                yield (
                    ledger.removesuffix(".parquet"),
                    read_attempts(file, ["key", "outcome", "message", "media_bytes"]),
                )


# ------------------------------------------------------------------------------------------------ building


@contextlib.contextmanager
def opened_worker(settings: RebuildSettings, ready: Prepared, stop: Stop) -> Iterator[Worker]:
    """A worker that makes samples of files, with its heart beating."""
    ready.work.mkdir(parents=True, exist_ok=True)
    run, jobs = new_run(), settings.jobs or os.cpu_count() or 2
    attempts = FileAttempts(
        items={item.key: item for item in ready.listing.items},
        root=ready.root,
        profile=settings.profile,
        program=find_program(settings.ffmpeg),
        names=ready.listing.labels.names,
        run=run,
    )
    with contextlib.ExitStack() as ending:
        ending.callback(tidy, ready.work, ready.store)
        pool = ending.enter_context(ThreadPoolExecutor(jobs, thread_name_prefix="file"))
        worker = Worker(
            store=ready.store,
            profile_hash=settings.profile.hash,
            work=ready.work,
            try_segment=attempts.try_segment,
            settle=lambda attempt: attempt,
            progress=WorkerProgress(ready.store, run=run),
            pool=pool,
            stop=stop,
            run=run,
            min_free=settings.min_free,
        )
        ending.enter_context(beating(worker))
        yield worker


def conclude(ready: Prepared, outcomes: Mapping[str, int]) -> Rebuilt:
    """Bring the manifest up to date, say in `dataset.json` what is not there, and sum up."""
    listing = ready.listing
    rows = [row for _, rows in _rows(ready.store, listing.name) for row in rows]
    failed = {row["key"]: row["message"] for row in rows if row["outcome"] != Outcome.OK}
    missing = set(listing.missing)
    known = {item.key for item in listing.items if item.file in missing}
    partial = listing.partial(sorted(failed.keys() - known), len(listing.items) - len(rows))
    record_partial(ready.store, partial)
    finish(ready.store)
    return Rebuilt(
        out=ready.store.url,
        planned=ready.todo.segments,
        outcomes=dict(outcomes),
        shards=0,
        failed=failed,
        clipped=sum(row["outcome"] == Outcome.OK and row["message"] is not None for row in rows),
        amiss=tuple(listing.amiss()),
        partial=partial,
        seconds=0.0,
    )
