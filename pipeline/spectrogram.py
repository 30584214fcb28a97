"""A sound as a picture: time to the right, pitch upwards, loudness as colour."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 60.0, 16_000.0  # hertz: the picture's edges
FLOOR_DB = -75.0  # below the loudest point; darker than that is black
_FFT = 2048
_LEVELS = 64  # colours: few enough for a small file, enough for the eye

# Black over violet and orange to pale yellow, equal steps of lightness.
_ANCHORS = (
    (4, 4, 16),
    (40, 17, 89),
    (105, 28, 129),
    (176, 52, 122),
    (236, 99, 92),
    (253, 163, 108),
    (252, 240, 190),
)


def spectrogram_png(sound: NDArray[np.float32], rate: int, *, width: int = 480, height: int = 120) -> bytes:
    """A PNG of (height, width) pixels for (T,) samples at `rate` hertz; frequencies are spaced by octaves."""
    decibels = 10 * np.log10(_power(sound, width) + 1e-12)
    rows = np.geomspace(HIGHEST, LOWEST, height) * _FFT / rate
    bins = np.arange(decibels.shape[1])
    picture = np.stack([np.interp(rows, bins, column, right=-120.0) for column in decibels], axis=1)
    shares = 1 - (picture - picture.max()) / FLOOR_DB
    return _palette_png((np.clip(shares, 0, 1) * (_LEVELS - 1)).astype(np.uint8), _palette())


def height_of(frequency: float) -> float:
    """Where a frequency in hertz lies in the picture: 0 at the lower edge, 1 at the upper."""
    return float(np.log(frequency / LOWEST) / np.log(HIGHEST / LOWEST))


def _power(sound: NDArray[np.float32], columns: int) -> NDArray[np.float64]:
    """(columns, bins): spectra of windows whose centres are spread evenly over the sound."""
    padded = np.pad(sound.astype(np.float64), _FFT // 2)
    starts = np.linspace(0, max(0, len(padded) - _FFT), columns).astype(int)
    windows = padded[starts[:, None] + np.arange(min(_FFT, len(padded)))]
    spectra = np.fft.rfft(windows * np.hanning(windows.shape[1]), _FFT)
    return np.asarray(np.abs(spectra) ** 2)


def _palette() -> bytes:
    anchors = np.array(_ANCHORS, float)
    places = np.linspace(0, len(anchors) - 1, _LEVELS)
    colours = np.stack(
        [np.interp(places, np.arange(len(anchors)), anchors[:, part]) for part in range(3)], axis=1
    )
    return colours.astype(np.uint8).tobytes()


def _palette_png(picture: NDArray[np.uint8], palette: bytes) -> bytes:
    """(H, W) palette indices as a PNG file."""
    height, width = picture.shape
    lines = np.concatenate(
        [np.zeros((height, 1), np.uint8), picture], axis=1
    )  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
