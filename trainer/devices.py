"""Where tensors live, and how exactly they are computed there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

PRECISIONS = ("float32", "bf16")


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


def lower_precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bfloat16 products by autocast for `bf16`; for `float32`, whatever holds already."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def checked_precision(precision: str) -> str:
    """Raises ValueError for one that is not known."""
    if precision not in PRECISIONS:
        raise ValueError(f"no precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    return precision


def check_compiler() -> None:
    """Raises ValueError where torch.compile would find no compiler for the code that it writes."""
    candidates = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if not any(shutil.which(name) for name in candidates if name):
        raise ValueError(
            "no C++ compiler is here, and compiling towers needs one; "
            "install g++ or clang++, name one in CXX, or load without compiling"
        )


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Products of float32 are not rounded to TF32 or bfloat16, whatever the process allows elsewhere."""
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and the same algorithm every time: a result depends on its input alone.

    CUDA's convolutions otherwise round to ten bits (TF32) and may differ from call to call.
    """
    # not by cudnn.flags: it reads the older switches, which raise once someone has set the newer ones
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        with float32_arithmetic():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
