"""What a compiler leaves as it is, marked so without loading the compiler."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """`torch.compiler.disable(function)`, asked for once PyTorch's compiler is here: asking takes seconds."""
    disabled: Callable[P, R] | None = None

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # PyTorch's
        return disabled(*args, **kwargs)

    return called
