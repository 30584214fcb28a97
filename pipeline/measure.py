"""Numbers a person filters by: how loud a sample is, how much of it is silent, how much its picture moves."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shards.sound import Pcm

FULL_SCALE = 32768.0
SILENT_DBFS = -60.0
FLOOR_DBFS = -120.0  # digital silence, so that a column of levels stays finite
BLOCK_S = 0.05
STILL = 0.995  # ten encodings of one picture lie above; a quiet scene with a fixed camera, below


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    rms_dbfs: float
    peak_dbfs: float
    silent_share: float  # of blocks of 50 ms below -60 dBFS
    pcm_sha256: str  # of the interleaved little-endian 16-bit samples


def measure_levels(pcm: Pcm, sample_rate: int) -> Levels:
    """Levels of PCM (T, C), 0 dBFS being a full-scale square wave."""
    sound = pcm.astype(np.float32)
    block = max(1, round(BLOCK_S * sample_rate)) * pcm.shape[1]
    power = _block_power(sound.ravel(), block)
    peak = max(abs(int(pcm.max(initial=0))), abs(int(pcm.min(initial=0))))
    return Levels(
        rms_dbfs=_dbfs(float(np.dot(sound.ravel(), sound.ravel()) / max(1, sound.size)) ** 0.5),
        peak_dbfs=_dbfs(float(peak)),
        silent_share=float(np.mean(power < (FULL_SCALE * 10 ** (SILENT_DBFS / 20)) ** 2)),
        pcm_sha256=hashlib.sha256(np.ascontiguousarray(pcm, dtype="<i2").data).hexdigest(),
    )


def _block_power(sound: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    whole = sound[: sound.size // block * block].reshape(-1, block)
    if not whole.size:
        whole = sound.reshape(1, -1)
    power: NDArray[np.float32] = np.einsum("ij,ij->i", whole, whole) / whole.shape[1]
    return power


def _dbfs(amplitude: float) -> float:
    return max(FLOOR_DBFS, 20 * float(np.log10(max(amplitude, 1e-9) / FULL_SCALE)))


def measure_stillness(frames: Sequence[bytes]) -> float:
    """1 for equal pictures, 0 for unrelated ones: the lowest correlation of neighbours among the JPEGs.

    The pictures are decoded at an eighth of their size, where compression noise averages out.
    """
    small = [_thumbnail(frame) for frame in frames]
    if len({picture.shape for picture in small}) > 1:
        return 0.0
    pairs = itertools.pairwise(small)
    return min((_alike(first, second) for first, second in pairs), default=1.0)


def _thumbnail(frame: bytes) -> NDArray[np.float32]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(frame)
    grey = simplejpeg.decode_jpeg(
        frame,
        colorspace="GRAY",
        fastdct=True,
        min_height=max(1, height // 8),
        min_width=max(1, width // 8),
        min_factor=1,
    )
    picture: NDArray[np.float32] = grey[..., 0].astype(np.float32)
    return picture


def _alike(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Share of the contrast that two pictures have in common; flat equal pictures count as equal."""
    difference = float(np.mean((first - second) ** 2))
    contrast = float(np.var(first) + np.var(second)) + 2.0  # 2: what encoding alone changes in a flat picture
    return max(0.0, 1.0 - difference / contrast)
