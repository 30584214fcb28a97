"""A sound file of a dataset: its samples as they are, what it is written in, and whether it is whole."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from shards.decode import decode_sound
from shards.sound import Pcm, SoundError

FULL_SCALE = 32768.0
Samples = NDArray[np.float64]

# libsndfile's subtypes in ffmpeg's words, as the ledger's audio_codec has them, and their bits
_CODECS: dict[str, tuple[str, int | None]] = {
    "PCM_U8": ("pcm_u8", 8),
    "PCM_S8": ("pcm_s8", 8),
    "PCM_16": ("pcm_s16", 16),
    "PCM_24": ("pcm_s24", 24),
    "PCM_32": ("pcm_s32", 32),
    "FLOAT": ("pcm_f32", 32),
    "DOUBLE": ("pcm_f64", 64),
    "MPEG_LAYER_III": ("mp3", None),
}
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # of a file that was written to a pipe
_TAIL = 1 << 17  # bytes that surely hold the last page of an Ogg file: 65,307 at most


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundFile:
    """A decoded file: `samples` (T, C), 1.0 being full scale."""

    samples: Samples
    sample_rate: int  # Hz
    codec: str
    bits: int | None  # of a sample in the file; None where that means nothing
    container: str

    @property
    def channels(self) -> int:
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def read_sound_file(path: Path) -> SoundFile:
    """The whole file at its own rate with all its channels; SoundError when it is cut short or no sound."""
    if lacking := cut_short(path):
        raise SoundError(f"cut short: {lacking}")
    sound = _by_libsndfile(path) or _by_ffmpeg(path)
    if not len(sound.samples):
        raise SoundError("holds no sound")
    if not np.isfinite(sound.samples).all():
        raise SoundError("holds samples that are no numbers (NaN or infinite)")
    return sound


def _by_libsndfile(path: Path) -> SoundFile | None:
    """None for what libsndfile cannot open."""
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a name that means headerless samples
        return None
    with file:
        try:
            samples: Samples = file.read(dtype="float64", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise SoundError(f"breaks off: {error}") from None
        if len(samples) < file.frames:
            raise SoundError(f"cut short: {len(samples)} samples of {file.frames}")
        codec, bits = _CODECS.get(file.subtype, (file.subtype.lower(), None))
        if file.format == "FLAC":
            codec = "flac"
        return SoundFile(
            samples=samples,
            sample_rate=int(file.samplerate),
            codec=codec,
            bits=bits,
            container=file.format.lower(),
        )


def _by_ffmpeg(path: Path) -> SoundFile:
    samples, sample_rate = decode_sound(path)
    container = path.suffix.lstrip(".").lower()
    return SoundFile(
        samples=samples.astype(np.float64),
        sample_rate=sample_rate,
        codec=container,
        bits=None,
        container=container,
    )


def cut_short(path: Path) -> str | None:
    """What a file's own headers promise and the file does not hold; None when it keeps its word.

    Decoders take a truncated WAV or Ogg file for a shorter one.
    """
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _riff_lacks(file, size)
        if head[:4] == b"FORM" and head[8:11] == b"AIF":
            promised = struct.unpack(">I", head[4:8])[0] + 8
            return f"{size} bytes of {promised}" if size < promised else None
        if head[:4] == b"OggS":
            file.seek(max(0, size - _TAIL))
            return _ogg_lacks(file.read())
    return None


def _riff_lacks(file: BinaryIO, size: int) -> str | None:
    """Walk a WAV file's chunks to its samples."""
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            here = size - file.tell()
            short = length not in _UNKNOWN_SIZES and here < length
            return f"{here} bytes of sound, its header says {length}" if short else None
        file.seek(length + length % 2, io.SEEK_CUR)
    return "no samples before the file ends"


def _ogg_lacks(tail: bytes) -> str | None:
    """An Ogg stream's last page says that it is the last (RFC 3533), and is whole."""
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return "its last page is broken"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    if len(page) < length:
        return f"its last page has {len(page)} bytes of {length}"
    return None if page[5] & 4 else "its last page says that more follow"


def to_pcm(samples: Samples) -> tuple[Pcm, int]:
    """16-bit samples, rounded to the nearest (halves to even), and how many had to be clipped.

    What was written with 8 or 16 bits comes out as it was.
    """
    scaled = np.rint(samples * FULL_SCALE)
    clipped = int(np.count_nonzero((scaled > FULL_SCALE - 1) | (scaled < -FULL_SCALE)))
    pcm: Pcm = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return pcm, clipped


def encode(pcm: Pcm, sample_rate: int, codec: str) -> bytes:
    """16-bit samples (T, C) as a FLAC or WAV file: equal samples give equal bytes."""
    target = io.BytesIO()
    soundfile.write(target, pcm, sample_rate, format=codec.upper(), subtype="PCM_16")
    return target.getvalue()


def encoder_label() -> str:
    """Which library decodes and encodes, for a sample's `tools`."""
    return f"libsndfile {soundfile.__libsndfile_version__}"
