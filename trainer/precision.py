"""How exactly a run computes: every switch that PyTorch has for it, set on purpose and said aloud."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def backends_set(device: torch.device, precision: str) -> Iterator[str]:
    """Sets the process's switches for training on `device`, gives them in words, puts them back afterwards.

    Float32 products are full float32 everywhere: bfloat16 comes from autocast alone, where it does no harm.
    On a CPU every sum is made in a fixed order, so that a run that is resumed gives the same bits; CUDA has
    no such kernel for the attention gates' pooling, and there the fastest convolution is searched for.
    """
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _switches(device)]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for owner, name, value in _switches(device):
            setattr(owner, name, value)
        torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
        yield described(device, precision)
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _switches(device: torch.device) -> list[tuple[Any, str, Any]]:
    backends: Any = torch.backends
    return [
        (backends.cuda.matmul, "fp32_precision", "ieee"),
        (backends.cudnn.conv, "fp32_precision", "ieee"),
        (backends.mkldnn.matmul, "fp32_precision", "ieee"),
        (backends.mkldnn.conv, "fp32_precision", "ieee"),
        (backends.cudnn, "benchmark", device.type == "cuda"),
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]


def described(device: torch.device, precision: str) -> str:
    """One line for a run's header."""
    towers = "bfloat16 towers by autocast, " if precision == "bf16" else ""
    order = "sums in a fixed order" if device.type == "cpu" else "fastest convolutions searched for"
    return f"{towers}float32 without TF32 elsewhere, {order}"


def device_name(device: torch.device) -> str:
    """What a person calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def memory_gb(device: torch.device) -> float:
    """The most memory that this process has held: on the device, or of its own on a CPU. 10⁹ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
