"""Encoded sound and pictures into memory that is already there: int16 PCM and RGB bytes, nothing between.

What decodes here holds no lock of the interpreter while it works, so that threads decode side by side.
"""

import importlib
import struct
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import simplejpeg
import soundfile
from numpy.typing import NDArray

from shards.sound import SoundError
from trainer.image import ImageError, read_image

Pcm = NDArray[np.int16]
Pixels = NDArray[np.uint8]
Encoded = bytes | memoryview
# (encoded, sample rate in Hz, out (C, T)) -> samples per channel; what `out` holds beyond them is silent
SoundDecoder = Callable[[Encoded, int, Pcm], int]

SOUNDS = ("flac", "wav", "ogg", "opus", "mp3")  # members that hold sound

_CHUNK = struct.Struct("<4sI")
_WAV_FORMAT = struct.Struct("<HHIIHH")  # code, channels, rate, bytes per second, bytes per frame, bits
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE


def sound_decoder(name: str) -> SoundDecoder:
    """What decodes members called `name`: `wav`, `flac`, or anything else that soundfile reads."""
    if name == "wav":
        return decode_wav
    if name == "flac" and fast_flac() is not None:
        return decode_flac_fast
    return decode_by_soundfile


def decode_wav(encoded: Encoded, sample_rate: int, out: Pcm) -> int:
    """As SoundDecoder: 16-bit PCM is copied, any other WAV goes through soundfile."""
    data = memoryview(encoded)
    rate, channels, bits, content = _wav_content(data)
    if bits != 16:
        return decode_by_soundfile(encoded, sample_rate, out)
    _check_rate(rate, sample_rate)
    pcm = np.frombuffer(content, "<i2").reshape(-1, channels)
    return _place(pcm, out)


def _wav_content(data: memoryview) -> tuple[int, int, int, memoryview]:
    """(rate, channels, bits, samples); bits are 0 for what is no plain PCM. SoundError for what is no WAV."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WAVE":
        raise SoundError(f"no WAV: it begins with {bytes(data[:12])!r}")
    at, form = 12, None
    while at + _CHUNK.size <= len(data):
        name, size = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        if name == b"fmt " and size >= _WAV_FORMAT.size and at + size <= len(data):
            form = _WAV_FORMAT.unpack_from(data, at)
        elif name == b"data":
            return _checked_content(data, at, size, form)
        at += size + size % 2
    raise SoundError(f"a WAV of {len(data)} bytes without samples: it is cut short")


def _checked_content(
    data: memoryview, at: int, size: int, form: tuple[int, ...] | None
) -> tuple[int, int, int, memoryview]:
    if form is None:
        raise SoundError("a WAV whose samples come before their format")
    code, channels, rate, _, width, bits = form
    plain = code in (_PCM, _EXTENSIBLE) and bits == 16 and channels > 0 and width == 2 * channels
    if at + size > len(data):
        raise SoundError(f"a WAV of {len(data)} bytes that promises {at + size}: it is cut short")
    if plain and size % width:
        raise SoundError(f"a WAV of {size} bytes in frames of {width}: it is cut short")
    return rate, channels, 16 if plain else 0, data[at : at + size]


def decode_flac_fast(encoded: Encoded, sample_rate: int, out: Pcm) -> int:
    """As SoundDecoder, by dr_flac: 0.7 of libFLAC's time for the same samples. Its checksums are checked."""
    facts = _flac_facts(memoryview(encoded))
    if facts is None or facts[2] != 16:
        return decode_by_soundfile(encoded, sample_rate, out)
    rate, channels, _, frames = facts
    _check_rate(rate, sample_rate)
    wanted: int = min(frames, out.shape[1])
    if channels == 1 and len(out) == 1:
        # the first `wanted` samples; what lies behind them cannot be heard, so it need not be whole
        _read_flac(encoded, out[0], wanted)
        out[0, wanted:] = 0
        return wanted
    pcm = np.empty((wanted, channels), np.int16)
    _read_flac(encoded, pcm.reshape(-1), wanted)
    return _place(pcm, out)


def _flac_facts(data: memoryview) -> tuple[int, int, int, int] | None:
    """(rate, channels, bits, frames) by the STREAMINFO block; None where soundfile is to have a look."""
    if len(data) < 42 or bytes(data[:4]) != b"fLaC" or data[4] & 0x7F != 0:
        return None
    packed = int.from_bytes(data[18:26], "big")  # 20 bits rate, 3 channels - 1, 5 bits - 1, 36 frames
    rate, channels = packed >> 44, (packed >> 41 & 0x7) + 1
    bits, frames = (packed >> 36 & 0x1F) + 1, packed & (1 << 36) - 1
    return (rate, channels, bits, frames) if frames else None


@cache
def fast_flac() -> Any:
    """The bindings of dr_flac, or None where they are not installed: `pip install 'trichord[fast]'`."""
    try:
        found = importlib.import_module("miniaudio")
        complete = hasattr(found.lib, "ma_dr_flac_read_pcm_frames_s16")
    except (ImportError, AttributeError):
        return None
    return found if complete else None


def _read_flac(encoded: Encoded, out: Pcm, frames: int) -> None:
    library = fast_flac()
    lib, ffi = library.lib, library.ffi
    source = ffi.from_buffer(encoded)
    decoder = lib.ma_dr_flac_open_memory(source, len(encoded), ffi.NULL)
    if decoder == ffi.NULL:
        raise SoundError("sound does not decode: no FLAC that dr_flac opens")
    try:
        target = ffi.cast("short *", ffi.from_buffer(out, require_writable=True))
        count = lib.ma_dr_flac_read_pcm_frames_s16(decoder, frames, target)
    finally:
        lib.ma_dr_flac_close(decoder)
    if count != frames:
        raise SoundError(f"sound does not decode: {count} of {frames} samples of a FLAC")


def decode_by_soundfile(encoded: Encoded, sample_rate: int, out: Pcm) -> int:
    """As SoundDecoder, for every format that libsndfile reads; SoundError for the others."""
    try:
        with soundfile.SoundFile(BytesIO(encoded)) as file:
            _check_rate(file.samplerate, sample_rate)
            wanted = min(file.frames, out.shape[1])
            if file.channels == 1 and len(out) == 1:
                count = len(file.read(wanted, dtype="int16", out=out[0, :wanted]))
                out[0, count:] = 0
            else:
                count = _place(file.read(wanted, dtype="int16", always_2d=True), out)
    except soundfile.LibsndfileError as error:
        raise SoundError(f"sound does not decode: {error}") from None
    if count != wanted:
        raise SoundError(f"sound does not decode: {count} of {wanted} samples")
    return count


def _check_rate(rate: int, expected: int) -> None:
    if rate != expected:
        raise SoundError(f"sound at {rate} Hz in a dataset of {expected} Hz")


def _place(pcm: Pcm, out: Pcm) -> int:
    """Put (n, c) samples into (C, T): mono is repeated, several channels become their mean."""
    count: int = min(len(pcm), out.shape[1])
    pcm = pcm[:count]
    if pcm.shape[1] == len(out):
        out[:, :count] = pcm.T
    elif pcm.shape[1] == 1:
        out[:, :count] = pcm[:, 0]
    elif len(out) == 1:
        out[0, :count] = np.round(pcm.mean(axis=1, dtype=np.float32)).astype(np.int16)
    else:
        raise SoundError(f"sound of {pcm.shape[1]} channels; expected 1 or {len(out)}")
    out[:, count:] = 0
    return count


class PictureDecoder:
    """Pictures into squares, with memory of its own for what is cut off: one for each thread."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, encoded: Encoded, out: Pixels) -> None:
        """Fill `out` (S, S, 3) with the picture's central square; its short side becomes S, if it is not.

        Raises ImageError.
        """
        picture = self._decoded(encoded)
        side = len(out)
        if min(picture.shape[:2]) != side:
            picture = _resized(picture, side)
        top, left = (round((length - side) / 2) for length in picture.shape[:2])
        out[...] = picture[top : top + side, left : left + side]

    def _decoded(self, encoded: Encoded) -> Pixels:
        # what a camera has turned, what is for print and what is no JPEG is for Pillow
        if b"Exif\0\0" in bytes(encoded[:4096]):
            return np.asarray(read_image(bytes(encoded)))
        try:
            height, width, colours, *_ = simplejpeg.decode_jpeg_header(encoded)
            if colours in ("CMYK", "YCCK"):
                return np.asarray(read_image(bytes(encoded)))
            pixels: Pixels = simplejpeg.decode_jpeg(encoded, "RGB", buffer=self._room(height * width * 3))
        except ValueError:
            return np.asarray(read_image(bytes(encoded)))
        return pixels

    def _room(self, size: int) -> Pixels:
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def _resized(picture: Pixels, side: int) -> Pixels:
    height, width = (int(side * length / min(picture.shape[:2])) for length in picture.shape[:2])
    if min(height, width) < 1:
        raise ImageError(f"a picture of {picture.shape[1]} by {picture.shape[0]} pixels")
    resized = PIL.Image.fromarray(picture).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(resized)
