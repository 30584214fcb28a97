"""Embeddings of files and texts as rows, and the Parquet file that holds them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from shards.sound import SoundError
from trainer.image import ImageError, read_image
from trainer.models.encoder import BATCH, TEXTS, WINDOW_S, Encoder, NoTower
from trainer.read_ahead import read_ahead
from trainer.text import TextError
from trainer.waveform import Window, windows_of

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
SOUNDS = frozenset(
    {
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".m4a",
        ".aac",
        ".aif",
        ".aiff",
        ".au",
        ".wma",
        ".webm",
    }
    | {".mp4", ".mkv", ".mov", ".avi", ".caf", ".w64", ".amr", ".ac3"}
)
ROW_GROUP = 1024  # rows held in memory before they are written
READERS = min(8, os.cpu_count() or 1)  # threads that decode ahead
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One vector: of a picture, a text, or a span of a sound."""

    modality: str
    vector: Tensor  # (D,) float32 on the CPU, of unit length
    path: str | None = None  # None for a text
    text: str | None = None  # None for a file
    start: float | None = None  # seconds; None where there is no time
    end: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A file or text that gave no vector, or a sound that gave none from some point on."""

    what: str
    reason: str


def found_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths themselves; for a folder, every sound, video and picture under it, by name."""
    for path in paths:
        if path.is_dir():
            yield from (
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in PICTURES | SOUNDS and file.is_file()
            )
        else:
            yield path


def embed_files(
    model: Encoder, files: Iterable[Path], *, mono: bool = True, window_s: float | None = WINDOW_S
) -> Iterator[Embedded | Skipped]:
    """Rows of any number of files, in order: one per picture and window of sound, one Skipped per failure.

    While some are embedded, the next files are decoded; a few windows of each are held, never a whole file.
    """
    read = partial(_read, model, mono=mono, window_s=window_s)
    with closing(read_ahead(files, read, readers=READERS, held=BATCH)) as items:
        for kind, group in groupby(items, key=type):
            if kind is _Heard:
                yield from _heard(model, (item for item in group if isinstance(item, _Heard)))
            elif kind is _Seen:
                yield from _seen(model, (item for item in group if isinstance(item, _Seen)))
            else:
                yield from (item for item in group if isinstance(item, Skipped))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """A window of a sound that is still to be embedded."""

    path: str
    window: Window


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A picture that is still to be embedded."""

    path: str
    pixels: Tensor  # (3, S, S)


def _read(
    model: Encoder, file: Path, *, mono: bool, window_s: float | None
) -> Iterator[_Heard | _Seen | Skipped]:
    """What a file gives, ready for the towers."""
    try:
        if file.suffix.lower() in PICTURES:
            yield _Seen(path=str(file), pixels=model.pixels([read_image(file)])[0])
        else:
            windows = windows_of(file, model.sample_rate, mono=mono, window_s=window_s)
            yield from (_Heard(path=str(file), window=window) for window in windows)
    except (SoundError, ImageError, NoTower, OSError) as error:
        yield Skipped(what=str(file), reason=str(error))


def _heard(model: Encoder, items: Iterable[_Heard]) -> Iterator[Embedded]:
    for path, window, row in model.embed_each((item.path, item.window) for item in items):
        yield Embedded(modality="audio", vector=row.cpu(), path=path, start=window.start, end=window.end)


def _seen(model: Encoder, items: Iterable[_Seen]) -> Iterator[Embedded]:
    for some in _batches(items):
        rows = model.embed_pixels(torch.stack([item.pixels for item in some])).cpu()
        for item, row in zip(some, rows, strict=True):
            yield Embedded(modality="image", vector=row, path=item.path)


def embed_texts(model: Encoder, texts: Iterable[str]) -> Iterator[Embedded | Skipped]:
    """A row per text, in order; a text that is too long is skipped."""
    for some in _batches(texts, TEXTS):
        reasons = [_unreadable(model, text) for text in some]
        readable = [text for text, reason in zip(some, reasons, strict=True) if reason is None]
        vectors = iter(model.embed_text(readable).cpu())
        for text, reason in zip(some, reasons, strict=True):
            if reason is None:
                yield Embedded(modality="text", vector=next(vectors), text=text)
            else:
                yield Skipped(what=text, reason=reason)


def _unreadable(model: Encoder, text: str) -> str | None:
    try:
        model.tokens([text])
    except (TextError, NoTower) as error:
        return str(error)
    return None


def _batches(items: Iterable[T], most: int = BATCH) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, most)):
        yield batch


def write_embeddings(
    rows: Iterable[Embedded | Skipped], out: Path, *, fingerprint: str, size: int
) -> tuple[int, list[Skipped]]:
    """(rows written, what was skipped). The Parquet file appears under its name when it is whole.

    Columns: path, text, modality, start_s, end_s, vector (`size` floats of unit length), model
    (`fingerprint`). Raises OSError where it cannot be written.
    """
    if out.is_dir():  # known before hours of work
        raise IsADirectoryError(f"{out} is a folder; expected the name of a Parquet file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    skipped: list[Skipped] = []
    written, held = 0, []
    with pq.ParquetWriter(partial, _schema(size), compression="zstd") as writer:
        for row in rows:
            if isinstance(row, Skipped):
                skipped.append(row)
                continue
            held.append(row)
            if len(held) == ROW_GROUP:
                written += _write(writer, held, fingerprint, size)
                held = []
        written += _write(writer, held, fingerprint, size)
    partial.replace(out)
    return written, skipped


def _write(writer: pq.ParquetWriter, rows: Sequence[Embedded], fingerprint: str, size: int) -> int:
    if not rows:
        return 0
    vectors = torch.stack([row.vector for row in rows]).reshape(-1).numpy()
    columns = [pa.array([getattr(row, name) for row in rows]) for name in ("path", "text", "modality")]
    columns += [pa.array([getattr(row, name) for row in rows], pa.float64()) for name in ("start", "end")]
    columns += [pa.FixedSizeListArray.from_arrays(vectors, size), pa.array([fingerprint] * len(rows))]
    columns = [column.cast(field.type) for column, field in zip(columns, _schema(size), strict=True)]
    writer.write_table(pa.Table.from_arrays(columns, schema=_schema(size)))
    return len(rows)


def _schema(size: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("path", pa.string()),
            pa.field("text", pa.string()),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("start_s", pa.float64()),
            pa.field("end_s", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), size), nullable=False),
            pa.field("model", pa.string(), nullable=False),
        ]
    )
