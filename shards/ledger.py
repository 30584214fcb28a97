"""A shard's ledger: one Parquet row per attempted segment, failures included, and the shard's own facts."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from shards.layout import ledger_name, shard_index
from shards.parquet import opened, read_table
from shards.store import Store

FORMAT_VERSION = 1
SHARD_KEY = b"trichord.shard"


class LedgerError(ValueError):
    """A file that is no ledger, or none that can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What one segment's attempt came to. Facts that a failure never reached are None."""

    key: str
    ytid: str
    start: float
    end: float
    split: str
    mids: tuple[str, ...]
    outcome: str
    disposition: str
    attempts: int
    message: str | None = None
    shard: str = ""
    identity: str | None = None
    # what the sample holds
    audio_s: float | None = None  # seconds of sound decoded inside the window
    video_s: float | None = None  # seconds of picture decoded inside the window
    short: bool | None = None  # kept although less than 95 % of the window decoded
    sample_rate: int | None = None
    channels: int | None = None
    frame_times: tuple[float, ...] | None = None  # seconds from the window's start, on the audio's clock
    rms_dbfs: float | None = None
    peak_dbfs: float | None = None
    silent_share: float | None = None  # share of 50 ms blocks below -60 dBFS
    stillness: float | None = None  # 1 = ten equal frames, 0 = unrelated ones
    still: bool | None = None
    pcm_sha256: str | None = None
    sample_sha256: str | None = None  # of its entries in the tar, headers included
    sample_bytes: int | None = None  # in the tar
    # where it came from
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    rotation: int | None = None
    hdr: bool | None = None
    source_sample_rate: int | None = None
    source_channels: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    format_id: str | None = None
    # what it cost
    media_bytes: int | None = None
    requests: int | None = None
    resolve_s: float | None = None
    extract_s: float | None = None
    total_s: float | None = None
    cpu_s: float | None = None
    # by whom and when
    started_at: datetime | None = None
    finished_at: datetime | None = None
    host: str | None = None
    run: str | None = None
    downloader_version: str | None = None
    ffmpeg_version: str | None = None
    trichord_version: str | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> Self:
        facts = json.loads(text)
        for name in ("started_at", "finished_at"):
            facts[name] = datetime.fromisoformat(facts[name]) if facts[name] else None
        for name in ("mids", "frame_times"):
            facts[name] = tuple(facts[name]) if facts[name] is not None else None
        return cls(**facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """A finished shard: what its ledger's footer says about its tar."""

    shard: str
    split: str
    rows: int
    samples: int
    tar_bytes: int
    tar_sha256: str
    outcomes: Mapping[str, int]
    profile_hash: str
    written_at: str
    run: str
    format_version: int = FORMAT_VERSION


_SECONDS = pa.float64()
_SHORT = pa.float32()
_TIME = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("start", _SECONDS, nullable=False),
        pa.field("end", _SECONDS, nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("disposition", pa.string(), nullable=False),
        pa.field("attempts", pa.int16(), nullable=False),
        pa.field("message", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("identity", pa.string()),
        pa.field("audio_s", _SECONDS),
        pa.field("video_s", _SECONDS),
        pa.field("short", pa.bool_()),
        pa.field("sample_rate", pa.int32()),
        pa.field("channels", pa.int16()),
        pa.field("frame_times", pa.list_(_SECONDS)),
        pa.field("rms_dbfs", _SHORT),
        pa.field("peak_dbfs", _SHORT),
        pa.field("silent_share", _SHORT),
        pa.field("stillness", _SHORT),
        pa.field("still", pa.bool_()),
        pa.field("pcm_sha256", pa.string()),
        pa.field("sample_sha256", pa.string()),
        pa.field("sample_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fps", _SHORT),
        pa.field("rotation", pa.int16()),
        pa.field("hdr", pa.bool_()),
        pa.field("source_sample_rate", pa.int32()),
        pa.field("source_channels", pa.int16()),
        pa.field("video_codec", pa.string()),
        pa.field("audio_codec", pa.string()),
        pa.field("format_id", pa.string()),
        pa.field("media_bytes", pa.int64()),
        pa.field("requests", pa.int32()),
        pa.field("resolve_s", _SHORT),
        pa.field("extract_s", _SHORT),
        pa.field("total_s", _SHORT),
        pa.field("cpu_s", _SHORT),
        pa.field("started_at", _TIME),
        pa.field("finished_at", _TIME),
        pa.field("host", pa.string()),
        pa.field("run", pa.string()),
        pa.field("downloader_version", pa.string()),
        pa.field("ffmpeg_version", pa.string()),
        pa.field("trichord_version", pa.string()),
    ]
)


def write_ledger(target: Path | IO[bytes], attempts: Iterable[Attempt], record: ShardRecord) -> None:
    """Write a shard's rows with its record in the footer. The caller names and publishes the file."""
    table = pa.Table.from_pylist([dataclasses.asdict(attempt) for attempt in attempts], schema=SCHEMA)
    footer = {SHARD_KEY: json.dumps(dataclasses.asdict(record)).encode()}
    pq.write_table(table.replace_schema_metadata(footer), target, compression="zstd")


def read_record(source: Path | IO[bytes]) -> ShardRecord:
    """The shard's record from its ledger's footer; LedgerError when the file is no ledger of ours."""
    metadata: Mapping[bytes, Any] = opened(source).schema_arrow.metadata or {}
    if SHARD_KEY not in metadata:
        raise LedgerError(
            f"{source}: a Parquet file, but not a shard's ledger (no {SHARD_KEY.decode()} footer)"
        )
    return ShardRecord(**json.loads(metadata[SHARD_KEY]))


def read_attempts(source: Path | IO[bytes], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The ledger's rows as dictionaries, all columns or the named ones."""
    rows: list[dict[str, Any]] = read_table(source, columns).to_pylist()
    return rows


# -- in a dataset


def finished_shards(store: Store, split: str) -> list[str]:
    """The split's shards that have a ledger, oldest first."""
    names = store.names(f"audioset-{split}-")
    shards = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
    return sorted(shards, key=shard_index)


@contextlib.contextmanager
def opened_ledger(store: Store, shard: str) -> Iterator[BinaryIO]:
    """A finished shard's ledger; LedgerError, with what to do, where it turns out to be unreadable."""
    with store.open(ledger_name(shard)) as file:
        try:
            yield file
        except (pa.ArrowException, LedgerError) as error:
            raise LedgerError(
                f"ledger {ledger_name(shard)} of {store.url} cannot be read: {' '.join(str(error).split())}; "
                "restore it from a copy, or delete it and run the ingestion again"
            ) from None
