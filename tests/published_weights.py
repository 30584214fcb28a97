"""A file as the authors of AudioCLIP publish it, with weights drawn from the names of its tensors."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from golden.named_weights import LAYOUT, fill, read_layout
from torch import Tensor


@cache
def published_state(salt: str = "dev") -> dict[str, Tensor]:
    """All 861 tensors; to be copied before it is changed."""
    drawn = fill(read_layout(), salt)
    return {name: _tensor(name, shape, drawn.get(name)) for name, shape in layout().items()}


def layout() -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in LAYOUT.read_text().splitlines()[1:])
    return {name: tuple(int(size) for size in shape.split(",") if size) for name, shape, _ in rows}


def published_file(folder: Path, salt: str = "dev") -> Path:
    path = folder / "AudioCLIP-drawn.pt"
    torch.save(published_state(salt), path)
    return path


def _tensor(name: str, shape: tuple[int, ...], drawn: np.ndarray | None) -> Tensor:
    if drawn is not None:
        return torch.from_numpy(drawn)
    if name == "audio.window":
        return _blackman_harris(*shape)
    return torch.zeros(shape, dtype=torch.int64)  # num_batches_tracked


def _blackman_harris(taps: int) -> Tensor:
    phase = 2 * np.pi * np.arange(taps) / taps
    terms = (0.35875, -0.48829, 0.14128, -0.01168)  # Harris 1978, four terms; periodic
    return torch.from_numpy(sum(a * np.cos(k * phase) for k, a in enumerate(terms))).float()
