"""Embeddings of files and texts as rows, and the Parquet file that holds them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from shards.sound import NoSound, SoundError
from shards.video import SLACK_S, NoPictures, VideoError, picture_seconds, stills
from trainer.image import ImageError, read_image
from trainer.models.encoder import BATCH, TEXTS, WINDOW_S, Encoder, NoTower
from trainer.read_ahead import read_ahead
from trainer.text import TextError
from trainer.waveform import Window, windows_of

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
VIDEOS = frozenset(
    {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"}
)
SOUNDS = VIDEOS | frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".au", ".wma"}
    | {".caf", ".w64", ".amr", ".ac3"}
)
ROW_GROUP = 1024  # rows held in memory before they are written
READERS = min(8, os.cpu_count() or 1)  # threads that decode ahead
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One vector: of a picture, a text, a span of a sound, or a moment in a span of a video."""

    modality: str
    vector: Tensor  # (D,) float32 on the CPU, of unit length
    path: str | None = None  # None for a text
    text: str | None = None  # None for a file
    start: float | None = None  # seconds; None where there is no time
    end: float | None = None
    at: float | None = None  # seconds into a video, of its picture


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
    model: Encoder,
    files: Iterable[Path],
    *,
    mono: bool = True,
    window_s: float | None = WINDOW_S,
    frames: int = 0,
) -> Iterator[Embedded | Skipped]:
    """Rows of any number of files, in order: one per picture and window of sound, one Skipped per failure.

    A video is heard; with `frames`, so many of its pictures are seen in each window as well, evenly spaced:
    one is the central one. While some files are embedded, the next are decoded; a few windows of each are
    held, never a whole file.
    """
    read = partial(_read, model, mono=mono, window_s=window_s, frames=frames)
    with closing(read_ahead(files, read, readers=READERS, held=BATCH)) as items:
        for some in _batches(items, 2 * BATCH):  # of videos, half of them are heard and half are seen
            heard = _heard(model, [item for item in some if isinstance(item, _Heard)])
            seen = _seen(model, [item for item in some if isinstance(item, _Seen)])
            for item in some:
                if isinstance(item, Skipped):
                    yield item
                else:
                    yield next(heard if isinstance(item, _Heard) else seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """A window of a sound that is still to be embedded."""

    path: str
    window: Window


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A picture that is still to be embedded; of a video, with its window and its moment in seconds."""

    path: str
    pixels: Tensor  # (3, S, S)
    start: float | None = None
    end: float | None = None
    at: float | None = None


def _read(
    model: Encoder, file: Path, *, mono: bool, window_s: float | None, frames: int
) -> Iterator[_Heard | _Seen | Skipped]:
    """What a file gives, ready for the towers."""
    try:
        if file.suffix.lower() in PICTURES:
            yield _Seen(path=str(file), pixels=model.pixels([read_image(file)])[0])
        elif frames and file.suffix.lower() in VIDEOS and "image" in model.modalities:
            yield from _read_video(model, file, mono=mono, window_s=window_s, frames=frames)
        else:
            yield from _read_sound(model, file, mono=mono, window_s=window_s)
    except (SoundError, ImageError, VideoError, NoTower, OSError) as error:
        yield Skipped(what=str(file), reason=str(error))


def _read_sound(model: Encoder, file: Path, *, mono: bool, window_s: float | None) -> Iterator[_Heard]:
    windows = windows_of(file, model.sample_rate, mono=mono, window_s=window_s)
    yield from (_Heard(path=str(file), window=window) for window in windows)


def _read_video(
    model: Encoder, file: Path, *, mono: bool, window_s: float | None, frames: int
) -> Iterator[_Heard | _Seen]:
    """Its sound, if it has any, then its pictures, if it has any; NoPictures where it has neither."""
    heard: list[tuple[float, float]] = []
    if "audio" in model.modalities:
        with suppress(NoSound):
            for item in _read_sound(model, file, mono=mono, window_s=window_s):
                heard.append((item.window.start, item.window.end))
                yield item
    try:
        seconds = picture_seconds(file)
    except NoPictures:
        if not heard:
            raise
        return
    for start, end in _windows_seen(seconds, window_s, heard):
        yield from _read_pictures(model, file, start, end, frames)


def _windows_seen(
    seconds: float, window_s: float | None, heard: Sequence[tuple[float, float]]
) -> Sequence[tuple[float, float]]:
    """The windows of the sound; of pictures that last for longer or less, their own by the same rule."""
    if heard and abs(heard[-1][1] - seconds) <= SLACK_S:
        return heard
    if window_s is None or seconds <= window_s:
        return [(0.0, seconds)]
    whole = [(window_s * place, window_s * (place + 1)) for place in range(int(seconds / window_s))]
    return whole if whole[-1][1] >= seconds else [*whole, (seconds - window_s, seconds)]


def _read_pictures(model: Encoder, file: Path, start: float, end: float, frames: int) -> Iterator[_Seen]:
    moments = [start + (place + 0.5) / frames * (end - start) for place in range(frames)]
    for at, picture in zip(moments, stills(file, moments), strict=True):
        pixels = model.pixels([read_image(picture)])[0]
        yield _Seen(path=str(file), pixels=pixels, start=start, end=end, at=at)


def _heard(model: Encoder, items: Iterable[_Heard]) -> Iterator[Embedded]:
    for path, window, row in model.embed_each((item.path, item.window) for item in items):
        yield Embedded(modality="audio", vector=row.cpu(), path=path, start=window.start, end=window.end)


def _seen(model: Encoder, items: Iterable[_Seen]) -> Iterator[Embedded]:
    for some in _batches(items):
        rows = model.embed_pixels(torch.stack([item.pixels for item in some])).cpu()
        for item, row in zip(some, rows, strict=True):
            yield Embedded(
                modality="image", vector=row, path=item.path, start=item.start, end=item.end, at=item.at
            )


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
