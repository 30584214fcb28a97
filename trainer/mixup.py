"""Sounds that are heard together with their neighbour's, and targets that say so (arXiv 1710.09412)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.draws import Draw, streams

Integers = NDArray[np.int64]


def mixup_shares(seeds: Integers, alpha: float) -> Tensor:
    """(B,) float32 from 0.5 to 1: how much of each example stays itself, from Beta(alpha, alpha).

    Pairs are neighbours, the first with the second, the third with the fourth: in a batch that is split at
    even places every process finds the same ones. Each pair's share is a function of its first seed.
    """
    firsts = streams(np.asarray(seeds, dtype=np.int64)[::2], Draw.MIXUP)
    shares = np.array(
        [np.random.Generator(np.random.Philox(int(seed))).beta(alpha, alpha) for seed in firsts]
    )
    shares = np.maximum(shares, 1 - shares)
    both = np.repeat(shares, 2)[: len(seeds)]
    if len(seeds) % 2:
        both[-1] = 1.0  # an odd one out is left alone
    return torch.from_numpy(both.astype(np.float32))


def mixed(values: Tensor, shares: Tensor) -> Tensor:
    """Each example of (B, …) with its neighbour: share · itself + (1 - share) · the other."""
    partner = neighbours(len(values), values.device)
    own = shares.to(values).view(-1, *[1] * (values.ndim - 1))
    return own * values + (1 - own) * values[partner]


def neighbours(count: int, device: torch.device) -> Tensor:
    """(count,) the place of each one's other; an odd one out is its own."""
    partner = torch.arange(count, device=device) ^ 1
    return torch.where(partner < count, partner, partner ^ 1)
