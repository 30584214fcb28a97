"""How many segments came to which outcome, counted from ledgers or from a snapshot of them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.manifest import Connection, connect, insert_readable, local_copies, quoted
from shards.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Segments of one split that came to one outcome; each segment counts once, by its current attempt."""

    split: str
    outcome: str
    disposition: str
    segments: int
    audio_s: float
    sample_bytes: int


_COUNT = """
SELECT
    split, outcome, disposition, count(*),
    coalesce(sum(audio_s), 0.0), coalesce(sum(sample_bytes), 0)::BIGINT
FROM {rows} GROUP BY ALL ORDER BY ALL
"""
_COLUMNS = "key, split, outcome, disposition, shard, finished_at, audio_s, sample_bytes"
_ONCE = """
(
    SELECT * FROM attempts WHERE key NOT IN (FROM again)
    UNION ALL
    SELECT * FROM attempts WHERE key IN (FROM again)
    QUALIFY row_number() OVER (
        PARTITION BY key
        ORDER BY outcome = 'ok' DESC, length(shard) DESC, shard DESC, finished_at DESC NULLS LAST
    ) = 1
)
"""


def count_snapshot(manifest: Path) -> list[Count]:
    """What a manifest's file says."""
    with contextlib.closing(connect()) as con:
        con.execute(f"ATTACH {quoted(manifest)} AS manifest (READ_ONLY)")
        return _counts(con, "manifest.attempts WHERE is_current")


def samples_of(manifest: Path) -> dict[str, int]:
    """shard → samples in its tar, of the shards that have one, by a manifest's file."""
    with contextlib.closing(connect()) as con:
        con.execute(f"ATTACH {quoted(manifest)} AS manifest (READ_ONLY)")
        sql = "SELECT shard, samples FROM manifest.shards WHERE samples > 0 ORDER BY shard"
        return dict(con.execute(sql).fetchall())


def count_ledgers(store: Store, names: Sequence[str]) -> tuple[list[Count], dict[str, str]]:
    """What these ledgers say, and which of them cannot be read and why."""
    if not names:
        return [], {}
    with contextlib.closing(connect()) as con, local_copies(store, names) as files:
        con.execute(
            "CREATE TABLE attempts (key VARCHAR, split VARCHAR, outcome VARCHAR, disposition VARCHAR, "
            "shard VARCHAR, finished_at TIMESTAMPTZ, audio_s DOUBLE, sample_bytes BIGINT)"
        )
        problems = insert_readable(
            con, f"INSERT INTO attempts SELECT {_COLUMNS} FROM read_parquet($files)", files
        )
        con.execute("CREATE TABLE again AS SELECT key FROM attempts GROUP BY key HAVING count(*) > 1")
        return _counts(con, _ONCE), problems


def _counts(con: Connection, rows: str) -> list[Count]:
    return [
        Count(
            split=split,
            outcome=outcome,
            disposition=disposition,
            segments=segments,
            audio_s=audio_s,
            sample_bytes=sample_bytes,
        )
        for split, outcome, disposition, segments, audio_s, sample_bytes in con.execute(
            _COUNT.format(rows=rows)
        ).fetchall()
    ]
