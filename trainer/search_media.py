"""What a search found, as bytes to play and to show."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shards.decode import decode_span
from shards.profile import AUDIO_CODECS
from shards.store import Store
from shards.tar import read_samples
from trainer.embed import PICTURES
from trainer.image import read_image

SIDE = 512  # pixels that a picture is shown with at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """JPEGs, and a FLAC or WAV file."""

    frames: tuple[bytes, ...] = ()
    sound: bytes | None = None


def file_media(root: Path, row: Mapping[str, Any]) -> Media:
    """The span of a sound, or the picture, that a row of a folder's index speaks of."""
    path = root / row["path"]
    if path.suffix.lower() in PICTURES:
        return Media(frames=(_small(path),))
    samples, rate = decode_span(path, row["start_s"], row["end_s"])
    return Media(sound=_flac(samples, rate))


def sample_media(store: Store, row: Mapping[str, Any]) -> Media:
    """The sound and the frames of the sample that a row of a dataset's index speaks of."""
    with store.open(row["path"]) as tar:
        members = next(members for key, members in read_samples(tar) if key == row["key"])
    frames = sorted((name for name in members if name.endswith(".jpg")), key=lambda name: int(name[:-4]))
    sound = next((members[name] for name in AUDIO_CODECS if name in members), None)
    return Media(frames=tuple(members[name] for name in frames), sound=sound)


def _small(path: Path) -> bytes:
    picture = read_image(path)
    picture.thumbnail((SIDE, SIDE))
    with BytesIO() as file:
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()


def _flac(samples: np.ndarray, rate: int) -> bytes:
    with BytesIO() as file:
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()
