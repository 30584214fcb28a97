"""One sample out of its shard into its place of a batch, or another sample in its stead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from shards.members import Span
from shards.sample_reader import SampleReader, Scratch
from shards.sound import SoundError
from shards.tar import TarError
from trainer.decoders import SOUNDS, PictureDecoder, sound_decoder
from trainer.image import ImageError
from trainer.order import replacement, sample_seed
from trainer.slots import Slot

TRIES = 8  # samples that are tried for one place
DEFAULT_SIDE = 256  # pixels, where a dataset's pictures are of any size


class BadSamplesError(Exception):
    """More samples do not decode than a run puts up with."""


class Samples(Protocol):
    """Which samples there are: what the loader asks of a selection."""

    def __len__(self) -> int: ...

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def shards(self) -> Sequence[str]:
        """Names, each once."""
        ...

    @property
    def shard_of(self) -> np.ndarray:
        """(N,) int32: each sample's place in `shards`; samples of one shard lie side by side."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What of a sample is read and decoded."""

    audio: bool = True
    frame: Literal["random", "central"] | None = "random"
    side: int = 0  # pixels of the frame's square; 0: the dataset's short side

    def names(self, members: Mapping[str, Span], seed: int) -> tuple[str | None, str | None]:
        """Of the sound and the frame to read; TarError when the sample has none."""
        sound = next((name for name in SOUNDS if name in members), None) if self.audio else None
        if self.audio and sound is None:
            raise TarError(f"no sound among its members {', '.join(members)}")
        return sound, self._frame(members, seed) if self.frame else None

    def _frame(self, members: Mapping[str, Span], seed: int) -> str:
        numbered = [name for name in members if name[:-4].isdigit() and name.endswith(".jpg")]
        if self.frame == "random" and numbered:
            return numbered[sample_seed(seed, 0, "frame") % len(numbered)]
        if "jpg" not in members:
            raise TarError(f"no picture among its members {', '.join(members)}")
        return "jpg"  # repeats the central one


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What came to lie at one place of a batch."""

    row: int
    key: str
    seed: int
    bad: tuple[tuple[str, str], ...] = ()  # (key, reason) of those that were tried before


@dataclass(kw_only=True)
class SampleDecoder:
    """Belongs to one thread."""

    keys: Sequence[str]
    shards: Sequence[str]
    shard_of: np.ndarray
    reader: SampleReader
    wanted: Wanted
    _scratch: Scratch = field(default_factory=Scratch)
    _picture: PictureDecoder = field(default_factory=PictureDecoder)

    def decode(self, row: int, seed: int, epoch: int, slot: Slot, place: int) -> Decoded:
        """Fill the place with sample `row`, or, where that does not decode, with one that a hash picks."""
        bad: list[tuple[str, str]] = []
        first = self.keys[row]
        for attempt in range(TRIES):
            key = self.keys[row]
            own = sample_seed(seed, epoch, key)
            try:
                self._fill(self.shards[self.shard_of[row]], key, own, slot, place)
            except (SoundError, ImageError, TarError) as error:
                bad.append((key, str(error)))
                row = replacement(len(self.keys), seed, epoch, first, attempt)
            else:
                return Decoded(row=row, key=key, seed=own, bad=tuple(bad))
        raise BadSamplesError(
            f"{TRIES} samples in a row do not decode: "
            + "; ".join(f"{key} ({reason})" for key, reason in bad)
            + ". `trichord verify --deep` says what else is damaged"
        )

    def prefetch(self, row: int, seed: int, epoch: int) -> None:
        """Begin to bring near what `decode` will read."""
        key, shard = self.keys[row], self.shards[self.shard_of[row]]
        members = self.reader.members(shard, key)
        names = self.wanted.names(members, sample_seed(seed, epoch, key))
        self.reader.prefetch(shard, [members[name] for name in names if name])

    def _fill(self, shard: str, key: str, seed: int, slot: Slot, place: int) -> None:
        members = self.reader.members(shard, key)
        sound, frame = self.wanted.names(members, seed)
        spans = [members[name] for name in (sound, frame) if name]
        contents = iter(self.reader.read(shard, spans, self._scratch) if spans else [])
        if sound and slot.lengths is not None:
            decode = sound_decoder(sound)
            rate = self.reader.profile.sample_rate
            slot.lengths[place] = decode(next(contents), rate, slot.sound(place))
        if frame:
            self._picture(next(contents), slot.picture(place))
