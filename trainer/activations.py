"""Activations that are computed again in the backward pass instead of kept: memory for a third more time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

STAGES = ("layer1", "layer2", "layer3", "layer4")  # of a ResNet, and of the audio head


class RecomputedStage(nn.Sequential):
    """A residual stage that keeps its input only. Parameters have the names that they had."""

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.training):
            return self._forward(x)
        output: Tensor = checkpoint(
            self._forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(self))
        )
        return output

    def _forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return x


def recompute_stages(tower: nn.Module) -> int:
    """Replaces each residual stage under `tower` by one that recomputes; the number of them."""
    found = [
        (parent, name)
        for parent in tower.modules()
        for name in STAGES
        if isinstance(getattr(parent, name, None), nn.Sequential)
    ]
    for parent, name in found:
        setattr(parent, name, RecomputedStage(*getattr(parent, name)))
    return len(found)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch normalisations normalise as before, but leave their running statistics alone."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the statistics are added 0 times; without any, fewer tensors would be saved
        counted = norm.num_batches_tracked
        norm.num_batches_tracked = None if counted is None else counted.clone()
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
