"""What an ingestion would do, take and need, before it starts."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.pace import named_pace
from pipeline.planning import BadRowsOf, selected_segments
from pipeline.remote_media import identities_of, rate_of
from pipeline.settings import IngestSettings
from shards.attempted import read_dispositions
from shards.ledger import opened_ledger, read_record
from shards.outcome import Disposition
from shards.store import Store

SAMPLE_BYTES = 700_000  # of ten seconds of mono FLAC and eleven JPEGs, until this dataset has its own
_RECORDS = 20  # shards whose sizes make the estimate
PER_HOUR_AND_CORE = 20_000  # segments; decoding one takes about 0.15 s of a core


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Counts of segments, bytes and hours."""

    selected: int
    bad_rows: int
    done: int
    permanent: int
    failed: Mapping[str, int]  # retryable and blocked, which --retry tries again
    todo: int
    shards: int
    pace: str  # what sets the rate, in words
    per_hour: float
    hours: float
    bytes: int
    free_bytes: int | None


def forecast(store: Store, settings: IngestSettings) -> Forecast:
    """Read the selection against what was attempted; nothing is written."""
    pace, per_hour = _expected_rate(settings)
    attempted = read_dispositions(store, settings.split)
    bad_rows = BadRowsOf(settings)
    counts: Counter[str] = Counter()
    for segment in selected_segments(settings, bad_rows):
        counts[attempted.get(segment.key, "todo")] += 1
    bad_rows.refuse()
    todo = counts["todo"]
    return Forecast(
        selected=counts.total(),
        bad_rows=len(bad_rows.skipped),
        done=counts[Disposition.DONE],
        permanent=counts[Disposition.PERMANENT],
        failed={each: counts[each] for each in (Disposition.RETRYABLE, Disposition.BLOCKED)},
        todo=todo,
        shards=-(-todo // settings.segments_per_shard),
        pace=pace,
        per_hour=per_hour,
        hours=todo / per_hour,
        bytes=round(todo * _sample_bytes(store)),
        free_bytes=store.free_bytes(),
    )


def _expected_rate(settings: IngestSettings) -> tuple[str, float]:
    """What sets the rate, and segments an hour: the identities' budgets, else this machine's cores."""
    budgets = [
        named_pace(rate_of(settings), account=identity.cookies is not None)
        for identity in identities_of(settings)
    ]
    rates = [pace.videos_per_hour for pace in budgets if pace.videos_per_hour is not None]
    if not settings.media and len(rates) == len(budgets):
        return f"the budget of {len(rates)} identit{'y' if len(rates) == 1 else 'ies'}", sum(rates)
    cores = os.cpu_count() or 1
    return f"about what {cores} cores decode", float(cores * PER_HOUR_AND_CORE)


def _sample_bytes(store: Store) -> float:
    """Bytes on disk for a segment that gives a sample, by the shards there are."""
    names = [name for name in store.names("audioset-") if name.endswith(".parquet")][-_RECORDS:]
    records = []
    for name in names:
        with opened_ledger(store, name.removesuffix(".parquet")) as file:
            records.append(read_record(file))
    samples = sum(record.samples for record in records)
    return sum(record.tar_bytes for record in records) / samples if samples else SAMPLE_BYTES
