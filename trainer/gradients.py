"""What is done to gradients between the backward pass and the optimiser's step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from trainer.models.fbsp import FbspSpectrogram


def wavelet_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """m, fb and fc of every fbsp front-end in `model`: those whose gradients AudioCLIP normalises."""
    ears = (module for module in model.modules() if isinstance(module, FbspSpectrogram))
    return [parameter for ear in ears for parameter in (ear.m, ear.fb, ear.fc)]


@torch.no_grad()
def normalise_gradients(parameters: Iterable[Tensor], *, epsilon: float = 1e-8) -> None:
    """Divides each tensor's gradient, in place, by its largest absolute entry plus `epsilon`.

    To be called once a step, on gradients that are accumulated over micro-batches and reduced over processes.
    The published code does it in hooks on each backward pass (AudioCLIP, model/esresnet/fbsp.py; ESResNeXt's
    has epsilon = 0). With one device and one batch that is the same; in parts, its sums exceed 1. A parameter
    without a gradient is left alone, and a gradient of zeros stays so.
    """
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.numel():
            largest = parameter.grad.abs().amax() + epsilon
            parameter.grad.div_(largest.where(largest > 0, 1))
