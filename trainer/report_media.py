"""Sounds and pictures of a dataset's samples, small enough to lie in a page."""

from collections.abc import Iterator, Mapping
from io import BytesIO

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shards.sample_reader import SampleReader
from shards.sound import Pcm, SoundError, decode_pcm
from shards.tar import TarError
from trainer.report_findings import Findings
from trainer.search_media import Media

SOUND_BYTES = 10_000_000  # of all sounds in a page together; base64 makes a third more of them
MOST_SOUND_BYTES = 900_000  # of one
PICTURE_BYTES = 40_000
SIDE = 320  # pixels, of a picture that is too large
LOWEST_RATE = 11_025

_HALF_BAND = np.sinc(np.arange(-15, 16) / 2) * np.hamming(31) / 2  # what halving the rate would fold over


def media_of(
    findings: Findings, reader: SampleReader, shard_of: Mapping[str, str], *, sound_bytes: int = SOUND_BYTES
) -> dict[str, Media]:
    """What a page shows of the findings, by key; of a sample that cannot be read, nothing."""
    heard, seen = findings.heard_and_seen()
    limit = min(sound_bytes // max(findings.players, 1), MOST_SOUND_BYTES)
    found = {}
    for key in sorted(seen & shard_of.keys()):
        members = _members(reader, shard_of[key], key)
        sound = members.get("flac", members.get("wav")) if key in heard else None
        picture = members.get("jpg")
        found[key] = Media(
            frames=() if picture is None else tuple(_fitted_picture(picture)),
            sound=None if sound is None else fitted_sound(sound, limit),
        )
    return found


def _members(reader: SampleReader, shard: str, key: str) -> dict[str, bytes]:
    """The central frame and the sound, each if it is there."""
    try:
        spans = reader.members(shard, key)
        names = [name for name in ("jpg", "flac", "wav") if name in spans]
        views = reader.read(shard, [spans[name] for name in names]) if names else []
    except (TarError, OSError):  # an example that is damaged is one less
        return {}
    return {name: bytes(view) for name, view in zip(names, views, strict=True)}


# -- sound


def fitted_sound(sound: bytes, limit: int) -> bytes | None:
    """The sound as FLAC of at most `limit` bytes: mono if it must be, at a lower rate, then without its end.

    None for a sound that does not decode.
    """
    if sound.startswith(b"fLaC") and len(sound) <= limit:
        return sound
    try:
        pcm, rate = decode_pcm(sound)
    except SoundError:
        return None
    for samples, at in _smaller(pcm, rate):
        flac = _flac(samples, at)
        if len(flac) <= limit:
            return flac
    keep = max(int(len(samples) * limit / len(flac) * 0.95), 1)
    return _flac(samples[:keep], at)


def _smaller(pcm: Pcm, rate: int) -> Iterator[tuple[Pcm, int]]:
    yield pcm, rate
    mono = pcm.mean(axis=1).round().astype(np.int16)[:, None]
    yield mono, rate
    while rate >= 2 * LOWEST_RATE:
        mono, rate = _halved(mono), rate // 2
        yield mono, rate


def _halved(mono: NDArray[np.int16]) -> NDArray[np.int16]:
    """(T, 1) -> (T / 2, 1): every other sample, without the upper half of its frequencies."""
    low = np.convolve(mono[:, 0].astype(np.float64), _HALF_BAND, mode="same")[::2]
    return np.clip(np.round(low), -32_768, 32_767).astype(np.int16)[:, None]


def _flac(pcm: Pcm, rate: int) -> bytes:
    with BytesIO() as file:
        soundfile.write(file, pcm, rate, format="FLAC", subtype="PCM_16")
        return file.getvalue()


# -- pictures


def _fitted_picture(jpeg: bytes) -> Iterator[bytes]:
    if len(jpeg) <= PICTURE_BYTES:
        yield jpeg
        return
    try:
        with Image.open(BytesIO(jpeg)) as picture:
            small = picture.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return
    small.thumbnail((SIDE, SIDE))
    with BytesIO() as file:
        small.save(file, "JPEG", quality=80)
        yield file.getvalue()
