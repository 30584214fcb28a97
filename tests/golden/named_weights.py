"""Weights and inputs drawn from names, as for the golden vectors: two programs agree without sharing a file.

Every tensor has its own stream (NumPy's frozen `RandomState`), seeded by its name and a salt: the order
and the company of tensors change nothing.
"""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

GOLDEN = Path(__file__).parent
LAYOUT = GOLDEN / "audioclip_checkpoint_layout.tsv"
VECTORS = GOLDEN / "audioclip.npz"


def read_layout(path: Path = LAYOUT) -> dict[str, Shape]:
    """{key: shape} of the float tensors that are drawn: not the window, not the counters."""
    rows = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return {
        name: tuple(int(size) for size in shape.split(",") if size)
        for name, shape, dtype in rows
        if dtype == "float32" and name != "audio.window"
    }


def fill(layout: Mapping[str, Iterable[int]], salt: str) -> dict[str, Floats]:
    """{name: values} for every name in `layout`, which are those of the published checkpoint."""
    return {name: _draw(name, tuple(shape), salt) for name, shape in layout.items()}


def waveform(seconds: float, channels: int, salt: str, sample_rate: int = 44_100) -> Floats:
    """(channels, samples) in [-1, 1]: in each channel a chirp that goes on and off, over noise."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.clip([_chirp(time, _stream(f"{salt}:wave:{c}")) for c in range(channels)], -1, 1).astype(
        np.float32
    )


def image(salt: str, size: int = 224) -> Floats:
    """(3, size, size), normalised as CLIP wants it: coarse squares and fine noise."""
    stream = _stream(f"{salt}:image")
    squares = stream.standard_normal((3, 14, 14)).repeat(size // 14, axis=1).repeat(size // 14, axis=2)
    return (squares + 0.1 * stream.standard_normal((3, size, size))).astype(np.float32)


def _stream(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def _chirp(time: NDArray[np.float64], stream: np.random.RandomState) -> NDArray[np.float64]:
    pitch = 150 + 900 * stream.rand()
    gate = 1 + 4 * stream.rand()
    sounding = np.sin(2 * np.pi * gate * time) > 0
    tone = np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time)) * sounding
    return np.asarray(0.4 * tone + 0.05 * stream.standard_normal(len(time)))


def _draw(name: str, shape: Shape, salt: str) -> Floats:
    noise = np.asarray(_stream(f"{salt}:{name}").standard_normal(shape))
    return np.asarray(_shaped(name, noise), dtype=np.float32)


def _shaped(name: str, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard normal noise brought to the size that a trained tensor of this name would have."""
    leaf = name.rpartition(".")[2]
    by_leaf = {
        "running_mean": lambda: 0.05 * noise,
        "running_var": lambda: (
            (2500.0 if name == "audio.bn1.running_var" else 1.0) * (1 + 0.2 * np.abs(noise))
        ),
        "m": lambda: 0.05 + 0.7 * np.abs(noise),
        "fb": lambda: 1 + 0.3 * np.tanh(noise),
        "fc": lambda: np.arange(len(noise)) + 0.3 * noise,
        "num_batches_tracked": lambda: 0 * noise,
        "positional_embedding": lambda: 0.02 * noise,
        "class_embedding": lambda: 0.02 * noise,
    }
    if leaf in by_leaf:
        return np.asarray(by_leaf[leaf]())
    if leaf.startswith("logit_scale"):
        return 3.0 + 0.3 * noise  # exp(3) is about 20
    if name.endswith("token_embedding.weight"):
        return 0.05 * noise
    if noise.ndim >= 2:
        return _centred(name, noise)
    return 1 + 0.1 * noise if leaf == "weight" else 0.05 * noise  # a normalisation's gain; a bias


def _centred(name: str, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filters without a mean, as otherwise all outputs fall onto one direction."""
    fan_in = noise[0].size
    if fan_in > 1:
        noise = noise - noise.mean(axis=tuple(range(1, noise.ndim)), keepdims=True)
    gain = 2.0 if noise.ndim == 4 else 1.2
    if name.startswith("encoder.resblocks.") and name.endswith("in_proj_weight"):
        gain = 1.8  # vip-AnT's, so that its class token tells inputs apart
    return noise * (gain / np.sqrt(fan_in))
