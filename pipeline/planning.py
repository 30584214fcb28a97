"""From a segments file to shards to do: what was planned before stays, what is asked for anew is added."""

import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.audioset import BadRow, BadRows, SegmentsError, file_sha256, read_segments, select
from pipeline.ontology import LabelFilter, Metadata, find_metadata, label_filter
from pipeline.settings import IngestSettings
from shards.labels import Labels, write_labels
from shards.layout import CLAIMS, LABELS, PLAN_FOLDER, WORK_FOLDER, shard_index
from shards.ledger import finished_shards
from shards.plan import Plan, copy_plan, planned_keys, read_plans, write_plan, write_skipped
from shards.profile import Dataset, join_dataset
from shards.segment import Segment
from shards.store import Store

LOCK = f"{CLAIMS}/planning"
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo:
    """What a run is to do: the shards of some plans that have no ledger yet."""

    plans: tuple[Plan, ...]
    shards: tuple[str, ...]

    @property
    def segments(self) -> int:
        """All that the plans hold."""
        return sum(plan.segments for plan in self.plans)

    @property
    def left(self) -> int:
        """Segments of the shards to do; some may be finished, in a shard that is not."""
        wanted = set(self.shards)
        sizes = (pair for plan in self.plans for pair in zip(plan.shards, plan.sizes, strict=True))
        return sum(size for shard, size in sizes if shard in wanted)

    def plan_of(self, shard: str) -> Plan:
        return next(plan for plan in self.plans if shard in plan.shards)


def begin_dataset(store: Store, settings: IngestSettings) -> Dataset:
    """Join the dataset or begin it: its profile, its class table, the hash of the split's segments file."""
    if not Path(settings.segments).is_file():
        raise SegmentsError(
            f"--segments {settings.segments}: no such file; expected AudioSet's CSV or a variant"
        )
    labels = metadata_of(settings).read_labels()
    _label_filter(settings)  # a class that is not there is said before anything is begun
    dataset = Dataset(
        profile=settings.profile,
        class_labels_sha256=_labels_sha256(labels),
        splits={settings.split: file_sha256(settings.segments)},
    )
    joined = join_dataset(store, dataset)
    if not store.exists(LABELS):
        table = io.BytesIO()
        write_labels(table, labels)
        store.publish_bytes(table.getvalue(), LABELS)
    return joined


def metadata_of(settings: IngestSettings) -> Metadata:
    return find_metadata(
        settings.segments,
        class_labels=Path(settings.class_labels) if settings.class_labels else None,
        ontology=Path(settings.ontology) if settings.ontology else None,
    )


def _labels_sha256(labels: Labels) -> str:
    table = [(label.index, label.mid, label.name) for label in labels.indexed or labels]
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def selected_segments(settings: IngestSettings, bad_rows: "BadRowsOf") -> Iterator[Segment]:
    """The rows that the settings choose, as a stream."""
    segments = read_segments(settings.segments, settings.split, on_bad_row=bad_rows)
    return select(
        segments,
        labels=_label_filter(settings),
        sample=settings.sample,
        seed=settings.seed,
        limit=settings.limit,
    )


def _label_filter(settings: IngestSettings) -> LabelFilter | None:
    if not settings.labels and not settings.exclude_labels:
        return None
    classes = metadata_of(settings).read_classes()
    return label_filter(
        classes, include=settings.labels or "", exclude=settings.exclude_labels or "", exact=settings.exact
    )


class BadRowsOf:
    """Malformed rows: the run stops before it starts, or they are kept for the record."""

    def __init__(self, settings: IngestSettings) -> None:
        self._path = settings.segments
        self._skip = settings.skip_bad_rows
        self._shown = BadRows()
        self.skipped: list[BadRow] = []

    def __call__(self, row: BadRow) -> None:
        if self._skip:
            self.skipped.append(row)
        else:
            self._shown(row)

    def refuse(self) -> None:
        self._shown.refuse(self._path)


def make_plan(store: Store, settings: IngestSettings, dataset: Dataset) -> Todo:
    """The shards to do. The same question finds its plan again, without reading the segments file."""
    selection = _selection_hash(settings, dataset)
    with alone(store):
        plans = read_plans(store, settings.split)
        mine = [plan for plan in plans if plan.selection == selection and not plan.retry]
        if not mine:
            kept = _without_abandoned(store, plans, settings.split)
            new = _write(store, settings, selection, kept, _new_segments(store, settings, kept))
            mine = [new] if new else []
    return _todo(store, mine, settings.split)


def make_retry_plan(store: Store, settings: IngestSettings, failed: Iterable[Segment]) -> Todo:
    """Shards for segments that failed, apart from those that an unfinished retry will try already."""
    with alone(store):
        plans = read_plans(store, settings.split)
        pending = _todo(store, [plan for plan in plans if plan.retry], settings.split)
        coming = {
            key
            for plan in pending.plans
            for key in planned_keys(store, plan, [shard for shard in pending.shards if shard in plan.shards])
        }
        again = (segment for segment in failed if segment.key not in coming)
        new = _write(store, settings, f"retry-{time.time_ns()}", plans, again, retry=True)
    mine = [*pending.plans, *([new] if new else [])]
    return _todo(store, mine, settings.split)


def _todo(store: Store, plans: Sequence[Plan], split: str) -> Todo:
    finished = set(finished_shards(store, split))
    open_plans = [plan for plan in plans if not finished.issuperset(plan.shards)]
    shards = [shard for plan in open_plans for shard in plan.shards if shard not in finished]
    return Todo(plans=tuple(open_plans or plans), shards=tuple(shards))


def _selection_hash(settings: IngestSettings, dataset: Dataset) -> str:
    question = {**settings.selection(), "segments": dataset.splits[settings.split]}
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


def _new_segments(store: Store, settings: IngestSettings, plans: Sequence[Plan]) -> Iterator[Segment]:
    """The selection without what other plans hold already."""
    taken = {hash(key) for plan in plans for key in planned_keys(store, plan)}
    bad_rows = BadRowsOf(settings)
    for segment in selected_segments(settings, bad_rows):
        if not taken or hash(segment.key) not in taken:
            yield segment
    bad_rows.refuse()
    if bad_rows.skipped:
        _record_skipped(store, settings, bad_rows.skipped)


def _record_skipped(store: Store, settings: IngestSettings, rows: Sequence[BadRow]) -> None:
    table = io.BytesIO()
    write_skipped(table, [(row.line, row.text, row.reason) for row in rows], Path(settings.segments).name)
    store.publish_bytes(table.getvalue(), f"{PLAN_FOLDER}/{settings.split}.skipped.parquet", replace=True)


def _without_abandoned(store: Store, plans: Sequence[Plan], split: str) -> list[Plan]:
    """Other questions' plans, without the shards that nobody has begun and nobody is working towards.

    So a run over everything that was given up early does not bind a later one over a few classes.
    """
    begun = _begun(store).union(finished_shards(store, split))
    if _somebody_works(store, split):
        return list(plans)
    kept: list[Plan] = []
    for plan in plans:
        shards = [shard for shard in plan.shards if shard in begun]
        if not shards:
            store.delete(plan.name)
        elif len(shards) < len(plan.shards):
            kept.append(_narrowed(store, plan, shards))
        else:
            kept.append(plan)
    return kept


def _somebody_works(store: Store, split: str) -> bool:
    for name in store.names(f"{CLAIMS}/audioset-{split}-"):
        claim = store.claim(name)
        if claim is None:
            return True
        claim.release()
    return False


def _begun(store: Store) -> set[str]:
    """Shards with finished segments on disk, or whose worker died holding them."""
    claimed = {name.rpartition("/")[2] for name in store.names(f"{CLAIMS}/")}
    return claimed | {name.split("/")[1] for name in store.names(f"{WORK_FOLDER}/")}


def _narrowed(store: Store, plan: Plan, shards: Sequence[str]) -> Plan:
    """The plan with only these shards, in place of the plan."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plan.parquet"
        narrowed = copy_plan(store, plan, shards, target)
        store.publish(target, plan.name, replace=True)
    return narrowed


def _write(
    store: Store,
    settings: IngestSettings,
    selection: str,
    plans: Sequence[Plan],
    segments: Iterable[Segment],
    *,
    retry: bool = False,
) -> Plan | None:
    """Write and publish a plan after the last shard there is; None when there is nothing to plan."""
    taken = [shard_index(shard) for plan in plans for shard in plan.shards]
    taken += [shard_index(shard) for shard in finished_shards(store, settings.split)]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plan.parquet"
        plan = write_plan(
            target,
            segments,
            split=settings.split,
            selection=selection,
            first_index=max(taken, default=-1) + 1,
            per_shard=settings.segments_per_shard,
            retry=retry,
        )
        if plan is not None and not store.publish(target, plan.name):
            raise RuntimeError(f"{plan.name} exists already, although nobody else plans now")
    return plan


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """One planner at a time on a dataset, on all machines."""
    while (claim := store.claim(LOCK, owner="planning")) is None:
        time.sleep(_POLL_S)
    with claim.kept():
        yield
