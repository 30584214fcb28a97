"""A value that is computed from tensors once, and again when one of them has changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

SMALL = 4096  # elements; comparing so many costs a few microseconds


class Memo(Generic[T]):
    """Holds the last value. It does not travel: a copied or pickled memo is empty."""

    def __init__(self) -> None:
        self._sources: list[_Source] = []
        self._value: T | None = None

    def get(self, tensors: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """`compute()`, or what it gave when `tensors`, all that it reads, were last as they are now."""
        if self._value is None or not self._current(tensors):
            self._value = _outside_autograd(compute)
            self._sources = [_Source.of(tensor) for tensor in tensors]
        return self._value

    def clear(self) -> None:
        self._sources, self._value = [], None

    def _current(self, tensors: Sequence[Tensor]) -> bool:
        return len(tensors) == len(self._sources) and all(
            source.matches(tensor) for source, tensor in zip(self._sources, tensors, strict=True)
        )

    def __reduce__(self) -> tuple[type["Memo[T]"], tuple[()]]:
        return type(self), ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A tensor as it was.

    Every write bumps a tensor's version, but one through `.data`: small tensors on a CPU are compared, too.
    """

    tensor: Tensor  # kept alive, so that no other tensor can take its address
    address: int
    version: int | None  # None for an inference tensor, which counts none
    values: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> "_Source":
        small = tensor.device.type == "cpu" and tensor.numel() <= SMALL  # elsewhere, comparing would wait
        return cls(
            tensor=tensor,
            address=tensor.data_ptr(),
            version=_version(tensor),
            values=tensor.detach().clone() if small else None,
        )

    def matches(self, tensor: Tensor) -> bool:
        return (
            tensor is self.tensor
            and tensor.data_ptr() == self.address
            and self.version is not None
            and _version(tensor) == self.version
            and (self.values is None or torch.equal(tensor, self.values))
        )


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _outside_autograd(compute: Callable[[], T]) -> T:
    # an inference tensor kept here could not be used in training later
    with torch.inference_mode(mode=False), torch.no_grad():
        return compute()
