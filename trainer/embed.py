"""Embeddings of files and texts as rows, and the Parquet file that holds them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from shards.sound import SoundError
from trainer.image import ImageError, read_image
from trainer.models.encoder import WINDOW_S, Encoder
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

    A few windows are held at a time, never a whole file.
    """
    items = _items(model, files, mono=mono, window_s=window_s)
    for are_windows, group in groupby(items, key=lambda item: isinstance(item, tuple)):
        if not are_windows:
            yield from (item for item in group if not isinstance(item, tuple))
            continue
        windows = (item for item in group if isinstance(item, tuple))
        for path, window, row in model.embed_each(windows):
            yield Embedded(modality="audio", vector=row.cpu(), path=path, start=window.start, end=window.end)


def _items(
    model: Encoder, files: Iterable[Path], *, mono: bool, window_s: float | None
) -> Iterator[tuple[str, Window] | Embedded | Skipped]:
    """What each file gives: windows that are still to be embedded, or a finished row."""
    for file in files:
        try:
            if file.suffix.lower() in PICTURES:
                vector = model.embed_image([read_image(file)])[0].cpu()
                yield Embedded(modality="image", vector=vector, path=str(file))
            else:
                windows = windows_of(file, model.sample_rate, mono=mono, window_s=window_s)
                yield from ((str(file), window) for window in windows)
        except (SoundError, ImageError, OSError) as error:
            yield Skipped(what=str(file), reason=str(error))


def embed_texts(model: Encoder, texts: Sequence[str]) -> Iterator[Embedded | Skipped]:
    """A row per text; a text that is too long is skipped."""
    for text in texts:
        try:
            yield Embedded(modality="text", vector=model.embed_text(text)[0].cpu(), text=text)
        except TextError as error:
            yield Skipped(what=text, reason=str(error))


def write_embeddings(
    rows: Iterable[Embedded | Skipped], out: Path, *, fingerprint: str, size: int
) -> tuple[int, list[Skipped]]:
    """(rows written, what was skipped). The Parquet file appears under its name when it is whole.

    Columns: path, text, modality, start_s, end_s, vector (`size` floats of unit length), model
    (`fingerprint`).
    """
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
