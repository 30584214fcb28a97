"""Which segment belongs to which shard: planned once, kept in Parquet files that every worker reads."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from shards.layout import PLAN_FOLDER, shard_name
from shards.parquet import opened, read_group
from shards.segment import Segment, segment_key
from shards.store import Store

PLAN_KEY = b"trichord.plan"
SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
    ]
)


class PlanError(ValueError):
    """A plan's file that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A plan file: shard i of it is its row group i."""

    name: str  # of the file, in the dataset's folder
    split: str
    selection: str  # hash of what was asked for: the same question finds its plan again
    retry: bool
    shards: tuple[str, ...]
    sizes: tuple[int, ...]  # segments of each shard

    @property
    def segments(self) -> int:
        return sum(self.sizes)

    def unfinished(self, names: set[str]) -> list[str]:
        """Its shards that have no ledger among the dataset's file names."""
        return [shard for shard in self.shards if f"{shard}.parquet" not in names]


def write_plan(
    target: Path,
    segments: Iterable[Segment],
    *,
    split: str,
    selection: str,
    first_index: int,
    per_shard: int,
    retry: bool = False,
    dataset: str = "audioset",
) -> Plan | None:
    """Write segments to a plan file as they come, one row group a shard; None when there are none."""
    shards: list[str] = []
    sizes: list[int] = []
    with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for chunk in _chunks(segments, per_shard):
            shards.append(shard_name(split, first_index + len(shards), dataset))
            writer.write_batch(_batch(chunk, shards[-1]))
            sizes.append(len(chunk))
        plan = Plan(
            name=f"{PLAN_FOLDER}/{split}-{first_index:06d}.parquet",
            split=split,
            selection=selection,
            retry=retry,
            shards=tuple(shards),
            sizes=tuple(sizes),
        )
        writer.add_key_value_metadata({PLAN_KEY: json.dumps(asdict(plan)).encode()})
    return plan if shards else None


def _chunks(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    chunk: list[Segment] = []
    for segment in segments:
        chunk.append(segment)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _batch(chunk: Sequence[Segment], shard: str) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([shard] * len(chunk)),
            pa.array(range(len(chunk)), pa.int32()),
            pa.array([segment.key for segment in chunk]),
            pa.array([segment.ytid for segment in chunk]),
            pa.array([segment.start for segment in chunk], pa.float64()),
            pa.array([segment.end for segment in chunk], pa.float64()),
            pa.array([segment.split for segment in chunk]),
            pa.array([segment.mids for segment in chunk], pa.list_(pa.string())),
        ],
        schema=SCHEMA,
    )


def copy_plan(store: Store, plan: Plan, shards: Sequence[str], target: Path) -> Plan:
    """Write the plan's file with only some of its shards; it answers no question any more."""
    with store.open(plan.name) as file, pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        parquet = opened(file)
        groups = [read_group(parquet, plan.shards.index(shard)) for shard in shards]
        for group in groups:
            writer.write_table(group)
        sizes = tuple(group.num_rows for group in groups)
        narrowed = replace(plan, selection="narrowed", shards=tuple(shards), sizes=sizes)
        writer.add_key_value_metadata({PLAN_KEY: json.dumps(asdict(narrowed)).encode()})
    return narrowed


def write_skipped(target: IO[bytes], rows: Sequence[tuple[int, str, str]], file: str) -> None:
    """Malformed rows of a segments file, (line, text, reason), for the record."""
    lines, texts, reasons = zip(*rows, strict=True)
    table = {"line": lines, "text": texts, "reason": reasons, "file": [file] * len(rows)}
    pq.write_table(pa.table(table), target, compression="zstd")


def read_plans(store: Store, split: str | None = None) -> list[Plan]:
    """The dataset's plans, of one split or all, in the order they were made. Raises PlanError."""
    names = [
        name
        for name in store.names(PLAN_FOLDER + "/")
        if name.endswith(".parquet") and ".skipped" not in name
    ]
    plans = [_read_plan(store, name) for name in sorted(names)]
    return [plan for plan in plans if split in (None, plan.split)]


def _read_plan(store: Store, name: str) -> Plan:
    try:
        with store.open(name) as file:
            facts = json.loads(opened(file).metadata.metadata[PLAN_KEY])
        return Plan(**{**facts, "shards": tuple(facts["shards"]), "sizes": tuple(facts["sizes"])})
    except (ValueError, TypeError, KeyError) as error:  # pyarrow's are ValueErrors
        raise PlanError(
            f"{store.url}/{name} cannot be read as a plan: {' '.join(str(error).split())}; restore it from a "
            "copy, or ingest into another --out"
        ) from None


def read_planned(store: Store, plan: Plan, shard: str) -> list[Segment]:
    """The segments of one shard, in their order."""
    with store.open(plan.name) as file:
        rows = read_group(opened(file), plan.shards.index(shard)).to_pylist()
    return [
        Segment(
            ytid=row["ytid"],
            start=row["start"],
            end=row["end"],
            mids=tuple(row["mids"]),
            split=row["split"],
            name="" if row["key"] == segment_key(row["ytid"], row["start"]) else row["key"],
        )
        for row in rows
    ]


def planned_keys(store: Store, plan: Plan, shards: Iterable[str] | None = None) -> Iterator[str]:
    """The keys of a plan, of all its shards or the named ones."""
    with store.open(plan.name) as file:
        parquet = opened(file)
        for index in range(len(plan.shards)) if shards is None else map(plan.shards.index, shards):
            yield from read_group(parquet, index, ["key"])["key"].to_pylist()
