"""Random numbers that are functions of a sample's seed, whatever the device, the batch and the thread.

A counter-based generator: what is drawn for one purpose does not depend on what was drawn before.
"""

import math
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]

# splitmix64 (Steele, Lea & Flood 2014): a step of the counter, and two multipliers of its output function
_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class Draw(IntEnum):
    """What a number is drawn for."""

    INVERSION = 1
    TIME_SCALING = 2
    PLACE = 3  # of the crop, or in the padding
    NOISE = 4  # whether there is any
    SNR = 5
    MIXUP = 6
    TEXT = 7
    NOISE_SAMPLES = 8


def hashed(values: Integers | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 well-mixed bits of each integer."""
    state = values.astype(np.uint64) + np.uint64(_STEP)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return state ^ (state >> np.uint64(31))


def streams(seeds: Integers, draw: Draw) -> NDArray[np.uint64]:
    """(B,) a seed of its own for one purpose."""
    return hashed(hashed(np.asarray(seeds, dtype=np.int64)) ^ np.uint64(draw))


def uniforms(seeds: Integers, draw: Draw) -> NDArray[np.float64]:
    """(B,) in [0, 1), with 53 bits."""
    return (streams(seeds, draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def whole_numbers(uniform: NDArray[np.float64], bound: Integers) -> Integers:
    """(B,) from 0 to bound - 1, and 0 where bound is less than 1."""
    chosen: Integers = np.minimum((uniform * bound).astype(np.int64), np.maximum(bound - 1, 0))
    return np.maximum(chosen, 0)


def normals(seeds: Tensor, length: int) -> Tensor:
    """(B, length) float32, standard normal, each a function of its row's seed (int64) and of its place."""
    pairs = torch.arange((length + 1) // 2, device=seeds.device)
    bits = _hashed(seeds[:, None] + pairs * _signed(_STEP))
    radius = (-2 * ((_shifted(bits, 32) + 1).float() * 2.0**-32).log()).clamp_min_(0).sqrt_()  # of (0, 1]
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)  # Box & Muller 1958
    return both.flatten(1)[:, :length]


def _hashed(state: Tensor) -> Tensor:
    """As `hashed`, in int64 that wraps around."""
    state = state + _signed(_STEP)
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: int64 shifts its sign in."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >> 63 else constant
