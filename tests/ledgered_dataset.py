"""A dataset's ledgers, plans and labels without any media, for tests of what is derived from them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shards.labels import ClassLabel, Labels, write_labels
from shards.layout import DATASET, LABELS, ledger_name, shard_name
from shards.ledger import Attempt, ShardRecord, write_ledger
from shards.outcome import Outcome
from shards.plan import write_plan, write_skipped
from shards.profile import Dataset, Profile
from shards.segment import Segment
from shards.store import Store, open_store

DOG, BARK, SPEECH, MUSIC = "/m/0bt9lr", "/m/05tny_", "/m/09x0r", "/m/04rlf"
CLASSES = (
    ClassLabel(index=0, mid=SPEECH, name="Speech"),
    ClassLabel(index=74, mid=DOG, name="Dog"),
    ClassLabel(index=75, mid=BARK, name="Bark", parents=(DOG,)),
    ClassLabel(index=137, mid=MUSIC, name="Music"),
)
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def segment(number: int, *mids: str, split: str = "eval", start: float = 30.0) -> Segment:
    """Ten seconds of video number `number`."""
    return Segment(
        ytid=f"video{number:05d}A", start=start, end=start + 10, mids=mids or (SPEECH,), split=split
    )


def attempt(of: Segment, outcome: Outcome = Outcome.OK, **facts: Any) -> Attempt:
    """What trying `of` came to, with the facts that a real one has."""
    number = int(of.ytid[5:10])
    begun = NOON + timedelta(seconds=number)
    found: dict[str, Any] = {
        "disposition": str(outcome.disposition),
        "attempts": 1,
        "message": None if outcome.ok else f"ERROR: {of.ytid}: {outcome}",
        "identity": "direct",
        "requests": 3,
        "total_s": 2.0,
        "started_at": begun,
        "finished_at": begun + timedelta(seconds=2),
        "host": "builder",
        "run": "run-1",
        "downloader_version": "2026.08.01",
        "ffmpeg_version": "7.1",
        "trichord_version": "0.1.0",
    }
    return Attempt(
        key=of.key,
        ytid=of.ytid,
        start=of.start,
        end=of.end,
        split=of.split,
        mids=of.mids,
        outcome=str(outcome),
        **{**found, **(_sample(number) if outcome.ok else {}), **facts},
    )


def _sample(number: int) -> dict[str, Any]:
    return {
        "audio_s": 10.0,
        "video_s": 10.0,
        "short": False,
        "sample_rate": 44_100,
        "channels": 1,
        "frame_times": tuple(0.5 + place + 0.01 for place in range(10)),
        "rms_dbfs": -20.0,
        "peak_dbfs": -3.0,
        "silent_share": 0.0,
        "stillness": 0.4,
        "still": False,
        "pcm_sha256": f"{number:064x}",
        "sample_sha256": f"{number + 1_000_000:064x}",
        "sample_bytes": 600_000,
        "width": 640,
        "height": 360,
        "fps": 25.0,
        "rotation": 0,
        "hdr": False,
        "source_sample_rate": 44_100,
        "source_channels": 2,
        "video_codec": "h264",
        "audio_codec": "aac",
        "format_id": "18",
        "media_bytes": 1_000_000,
        "resolve_s": 0.5,
        "extract_s": 1.0,
        "cpu_s": 0.4,
    }


@dataclass
class LedgeredDataset:
    """A store that fills up as an ingestion would fill it."""

    store: Store
    scratch: Path
    _next: Counter[str] = field(default_factory=Counter)

    @classmethod
    def begin(cls, url: str | Path, scratch: Path) -> LedgeredDataset:
        store = open_store(url)
        table = io.BytesIO()
        write_labels(table, Labels.of(CLASSES))
        store.publish_bytes(table.getvalue(), LABELS)
        store.publish_bytes(Dataset(profile=Profile()).to_json(), DATASET)
        return cls(store=store, scratch=scratch)

    def plan(
        self, segments: Sequence[Segment], *, per_shard: int = 512, retry: bool = False
    ) -> tuple[str, ...]:
        """Plan segments of one split; the shards' names."""
        split = segments[0].split
        local = self.scratch / "plan.parquet"
        plan = write_plan(
            local,
            segments,
            split=split,
            selection="all",
            first_index=self._next[split],
            per_shard=per_shard,
            retry=retry,
        )
        assert plan is not None
        self.store.publish(local, plan.name)
        self._next[split] += len(plan.shards)
        return plan.shards

    def skip(self, *rows: tuple[int, str, str], file: str = "eval_segments.csv") -> None:
        table = io.BytesIO()
        write_skipped(table, rows, file)
        self.store.publish_bytes(table.getvalue(), "_plan/eval.skipped.parquet", replace=True)

    def finish(self, attempts: Iterable[Attempt], shard: str | None = None, replace_it: bool = False) -> str:
        """Publish a shard's ledger; the shard's name."""
        rows = list(attempts)
        if shard is None:
            shard = shard_name(rows[0].split, self._next[rows[0].split])
            self._next[rows[0].split] += 1
        rows = [replace(row, shard=shard) for row in rows]
        local = self.scratch / "ledger.parquet"
        write_ledger(local, rows, _record(shard, rows))
        self.store.publish(local, ledger_name(shard), replace=replace_it)
        return shard


def _record(shard: str, rows: Sequence[Attempt]) -> ShardRecord:
    samples = sum(row.sample_bytes is not None for row in rows)
    return ShardRecord(
        shard=shard,
        split=rows[0].split,
        rows=len(rows),
        samples=samples,
        tar_bytes=samples * 610_000,
        tar_sha256="0" * 64,
        outcomes=dict(Counter(row.outcome for row in rows)),
        profile_hash=Profile().hash,
        written_at=NOON.isoformat(),
        run="run-1",
    )
