"""What can be indexed: the files of a folder, and the samples of a dataset's shards."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from shards.labels import Labels, LabelsError, read_labels
from shards.layout import DATASET, LABELS, is_shard_name, ledger_name, tar_name
from shards.ledger import read_attempts, read_record
from shards.outcome import Outcome
from shards.profile import AUDIO_CODECS
from shards.sound import SoundError, decode_pcm
from shards.store import Store
from shards.tar import read_samples
from shards.vector_rows import VectorIndexError
from trainer.embed import Embedded, Skipped, embed_files, found_files
from trainer.image import ImageError, read_image
from trainer.index import Embedding, Found, Unit
from trainer.models.encoder import BATCH, Encoder
from trainer.waveform import Window, windows_of

T = TypeVar("T")

ROW_COLUMNS = (
    "key",
    "split",
    "mids",
    "rms_dbfs",
    "peak_dbfs",
    "silent_share",
    "channels",
    "still",
    "outcome",
)


@dataclass(frozen=True)
class FolderSource:
    """Every sound, video and picture under a folder; a unit is a file. A video is heard and seen."""

    root: Path
    window_s: float | None
    frames: int  # pictures of a video in each window
    without: Path  # a folder that is not looked into: the index itself

    @property
    def name(self) -> str:
        return str(self.root.resolve())

    def units(self) -> list[Unit]:
        without = self.without.resolve()
        files = [path for path in found_files([self.root]) if without not in path.resolve().parents]
        return [
            Unit(name=path.relative_to(self.root).as_posix(), bytes=stat.st_size, mtime=stat.st_mtime)
            for path in files
            if (stat := path.stat())
        ]

    def sha256(self, unit: Unit) -> str:
        with (self.root / unit.name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def embed(self, encoder: Encoder, units: Sequence[Unit]) -> Iterator[Embedding]:
        waiting = {str(self.root / unit.name): unit for unit in units}
        files = (Path(path) for path in list(waiting))
        rows = embed_files(encoder, files, window_s=self.window_s, frames=self.frames)
        for path, group in groupby(rows, key=lambda row: row.what if isinstance(row, Skipped) else row.path):
            yield _embedding(waiting[str(path)], list(group))


def _embedding(unit: Unit, rows: Sequence[Embedded | Skipped]) -> Embedding:
    """A file that breaks off is not in the index at all: half of it would look like the whole."""
    skipped = [row for row in rows if isinstance(row, Skipped)]
    vectors = [row for row in rows if isinstance(row, Embedded)] if not skipped else []
    found = [Found(vector=row.vector, row={"path": unit.name, **_place(row)}) for row in vectors]
    return Embedding(unit=unit, found=found, skipped=skipped)


def _place(row: Embedded) -> dict[str, Any]:
    return {"modality": row.modality, "start_s": row.start, "end_s": row.end, "at_s": row.at}


@dataclass(frozen=True)
class ShardSource:
    """The sounds and central frames of a dataset; a unit is a finished shard, known by its tar's hash."""

    store: Store
    window_s: float | None

    @property
    def name(self) -> str:
        return self.store.url

    def units(self) -> list[Unit]:
        """Raises VectorIndexError where there is no dataset."""
        if not self.store.exists(DATASET):
            raise VectorIndexError(
                f"{self.name} holds no {DATASET}; expected a dataset, or a folder of files"
            )
        entries = [entry for entry in self.store.entries() if entry.name.endswith(".parquet")]
        shards = [(entry.name.removesuffix(".parquet"), entry) for entry in entries]
        return [
            Unit(name=shard, bytes=entry.size, mtime=entry.mtime)
            for shard, entry in shards
            if is_shard_name(shard)
        ]

    def sha256(self, unit: Unit) -> str:
        with self.store.open(ledger_name(unit.name)) as file:
            return read_record(file).tar_sha256

    def embed(self, encoder: Encoder, units: Sequence[Unit]) -> Iterator[Embedding]:
        for unit in units:
            rows, skipped = self._rows(unit.name), list[Skipped]()
            found = [
                Found(vector=row.vector, row={"path": tar_name(unit.name), **_place(row), **rows[key]})
                for key, row in (self._embed_samples(encoder, unit.name, skipped) if rows else ())
            ]
            yield Embedding(unit=unit, found=found, skipped=skipped)

    def _rows(self, shard: str) -> dict[str, dict[str, Any]]:
        """What the ledger says of each sample, with its labels as words."""
        with self.store.open(ledger_name(shard)) as file:
            attempts = read_attempts(file, list(ROW_COLUMNS))
        good = [row for row in attempts if row.pop("outcome") == Outcome.OK]
        return {row["key"]: {**row, "labels": list(self._labels.names(row["mids"]))} for row in good}

    @cached_property
    def _labels(self) -> Labels:
        with suppress(FileNotFoundError, LabelsError), self.store.open(LABELS) as file:
            return read_labels(file)
        return Labels.of(())

    def _embed_samples(
        self, encoder: Encoder, shard: str, skipped: list[Skipped]
    ) -> Iterator[tuple[str, Embedded]]:
        """(key, vector) of the shard's sounds, then of its pictures; what does not decode joins `skipped`."""
        if "audio" in encoder.modalities:
            sounds = self._decoded(shard, partial(_windows, encoder, self.window_s), skipped)
            for key, window, vector in encoder.embed_each(sounds):
                yield key, Embedded(modality="audio", vector=vector.cpu(), start=window.start, end=window.end)
        if "image" in encoder.modalities:
            pictures = self._decoded(shard, partial(_pixels, encoder), skipped)
            while some := list(islice(pictures, BATCH)):
                vectors = encoder.embed_pixels(torch.stack([pixels for _, pixels in some])).cpu()
                for (key, _), vector in zip(some, vectors, strict=True):
                    yield key, Embedded(modality="image", vector=vector)

    def _decoded(
        self, shard: str, decode: Callable[[Mapping[str, bytes]], Iterator[T]], skipped: list[Skipped]
    ) -> Iterator[tuple[str, T]]:
        with self.store.open(tar_name(shard)) as tar:
            for key, members in read_samples(tar):
                try:
                    yield from ((key, one) for one in decode(members))
                except (SoundError, ImageError) as error:
                    skipped.append(Skipped(what=f"{tar_name(shard)}: {key}", reason=str(error)))


def _windows(encoder: Encoder, window_s: float | None, members: Mapping[str, bytes]) -> Iterator[Window]:
    for name in AUDIO_CODECS:
        if name in members:
            pcm, rate = decode_pcm(members[name])
            waveform = torch.from_numpy(pcm.T.astype("float32") / 32768)  # (C, T)
            yield from windows_of((waveform, rate), encoder.sample_rate, window_s=window_s)


def _pixels(encoder: Encoder, members: Mapping[str, bytes]) -> Iterator[Tensor]:
    if "jpg" in members:
        yield encoder.pixels([read_image(members["jpg"])])[0]
