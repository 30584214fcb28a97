"""What a search found, as bytes to play and to show."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shards.decode import decode_span
from shards.profile import AUDIO_CODECS
from shards.sound import SoundError
from shards.store import Store
from shards.tar import TarError, read_samples
from shards.video import VideoError, stills
from trainer.embed import PICTURES, VIDEOS
from trainer.image import read_image

SIDE = 512  # pixels that a picture is shown with at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """JPEGs, and a FLAC or WAV file."""

    frames: tuple[bytes, ...] = ()
    sound: bytes | None = None


def file_media(root: Path, row: Mapping[str, Any]) -> Media:
    """The picture, or the span of a sound or video, that a row of a folder's index speaks of.

    Raises SoundError, ImageError or VideoError for what is gone or has changed.
    """
    path = root / row["path"]
    if path.suffix.lower() in PICTURES:
        return Media(frames=(_small(path),))
    start, end = row["start_s"], row["end_s"]
    if path.suffix.lower() not in VIDEOS:
        return Media(sound=_flac(*decode_span(path, start, end)))
    moment = (start + end) / 2 if row.get("at_s") is None else row["at_s"]
    if row["modality"] == "audio":
        return Media(frames=tuple(_seen(path, moment)), sound=_flac(*decode_span(path, start, end)))
    return Media(frames=(_still(path, moment),), sound=_heard(path, start, end))


def _seen(path: Path, moment: float) -> Iterator[bytes]:
    """The picture that goes with a sound, where it has one."""
    with suppress(VideoError):
        yield _still(path, moment)


def _heard(path: Path, start: float, end: float) -> bytes | None:
    """The sound that goes with a picture, where it has one."""
    with suppress(SoundError):
        samples, rate = decode_span(path, start, end)
        return _flac(samples, rate) if len(samples) else None
    return None


def _still(path: Path, moment: float) -> bytes:
    return _small(next(stills(path, [moment])))


def sample_media(store: Store, row: Mapping[str, Any]) -> Media:
    """The sound and the frames of the sample that a row of a dataset's index speaks of.

    Raises StoreError or TarError for what is gone.
    """
    with store.open(row["path"]) as tar:
        members = next((members for key, members in read_samples(tar) if key == row["key"]), None)
    if members is None:
        raise TarError(f"{row['path']} holds no {row['key']} any more; index again")
    frames = sorted((name for name in members if name.endswith(".jpg")), key=lambda name: int(name[:-4]))
    sound = next((members[name] for name in AUDIO_CODECS if name in members), None)
    return Media(frames=tuple(members[name] for name in frames), sound=sound)


def _small(source: Path | bytes) -> bytes:
    picture = read_image(source)
    picture.thumbnail((SIDE, SIDE))
    with BytesIO() as file:
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()


def _flac(samples: np.ndarray, rate: int) -> bytes:
    with BytesIO() as file:
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()
