"""Where tensors live, and how exactly they are computed there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CHOICES = ("auto", "cuda", "mps", "cpu")


def choose_device(wanted: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA, else Apple's Metal, else the CPU. Raises ValueError for a device that is not here."""
    if isinstance(wanted, torch.device):
        return wanted
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, found in here.items() if found))
    if not here.get(wanted.split(":")[0], False):
        present = ", ".join(name for name, found in here.items() if found)
        raise ValueError(f"device {wanted!r} is not available; expected auto or one of: {present}")
    return torch.device(wanted)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and the same algorithm every time: a result depends on its input alone.

    CUDA's convolutions otherwise round to ten bits (TF32) and may differ from call to call.
    """
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
