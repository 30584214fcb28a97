"""How parameters move in one step: groups, rules, and what is done to gradients before."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.freeze import matches
from trainer.gradients import normalise_gradients
from trainer.learner import OBJECTIVE
from trainer.run_request import RunError
from trainer.stage import Optim


def build_optimiser(optim: Optim, model: nn.Module, *, devices: int = 1) -> Optimizer:
    """Over the parameters that learn, in the model's order: one group that decays, one that does not.

    Raises RunError when nothing learns, or for a `no_decay` pattern that names no parameter of the model.
    """
    _check_patterns(optim, model)
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not learning:
        raise RunError("no parameter learns; expected `trainable` patterns that name some")
    groups = [
        {
            "params": [parameter for name, parameter in learning if _spared(name, optim) is spared],
            "weight_decay": 0.0 if spared else optim.weight_decay,
        }
        for spared in (False, True)
    ]
    return _rule(optim, [group for group in groups if group["params"]], base_rate(optim, devices))


def _spared(name: str, optim: Optim) -> bool:
    return name.startswith(OBJECTIVE) or matches(name, optim.no_decay)


def base_rate(optim: Optim, devices: int) -> float:
    """The rate that the schedule scales."""
    return optim.lr * devices if optim.lr_times_devices else optim.lr


def _check_patterns(optim: Optim, model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in optim.no_decay:
        if not any(matches(name, (pattern,)) for name in names):
            raise RunError(f"optim.no_decay pattern {pattern!r} names no parameter; expected such as *fbsp.m")


def _rule(optim: Optim, groups: list[dict[str, Any]], rate: float) -> Optimizer:
    fused = _fusable(groups)
    if optim.name == "sgd":
        nesterov = optim.nesterov and optim.momentum > 0
        return torch.optim.SGD(groups, lr=rate, momentum=optim.momentum, nesterov=nesterov, fused=fused)
    rule = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return rule(groups, lr=rate, betas=optim.betas, fused=fused)


def _fusable(groups: list[dict[str, Any]]) -> bool:
    """One kernel for all parameters, which PyTorch has for floats on these devices."""
    return all(
        parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
        for group in groups
        for parameter in group["params"]
    )


def set_rate(optimiser: Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def normalised_parameters(optim: Optim, model: nn.Module) -> list[nn.Parameter]:
    """Those whose gradients are divided by their largest entry."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and matches(name, optim.normalise)
    ]


def finish_gradients(optim: Optim, model: nn.Module) -> Tensor:
    """Normalises, then clips: once, on what is accumulated and reduced. Gives the norm before clipping.

    A gradient that is not finite makes the norm so.
    """
    normalise_gradients(normalised_parameters(optim, model))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if optim.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), optim.clip_norm, norm)
    return norm
