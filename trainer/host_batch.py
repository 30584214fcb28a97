"""A batch as the loader gives it: encoded media made plain, in the machine's memory, not yet on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Fence(Protocol):
    """Something to wait for, such as a `torch.cuda.Event`."""

    def synchronize(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HostBatch:
    """One step's samples. `audio`, `lengths` and `frames` lie in a slot that is used again after `release`.

    Whoever takes the next batch, or leaves the `with` of this one, has released this one: what is to outlive
    that must have been copied, to a device too. The other fields stay.
    """

    rows: NDArray[np.int64]  # (B,) of the selection
    keys: tuple[str, ...]  # B; what was read: a replacement's own where a sample did not decode
    audio: Tensor | None  # (B, C, T) int16, zero from each sample's length on; pinned where there is CUDA
    lengths: Tensor | None  # (B,) int64 samples per channel that were decoded
    frames: Tensor | None  # (B, S, S, 3) uint8 RGB: the frame's central square
    seeds: NDArray[np.int64]  # (B,) of (seed, epoch, key): all that augmentation may depend on
    valid: NDArray[np.bool_]  # (B,) False for the padding of an evaluation's last batch
    epoch: int
    step: int  # within the epoch: the state to resume with after this batch is (seed, epoch, step + 1)
    waited_s: float = 0.0  # seconds that the taker stood waiting for this batch
    on_release: Callable[[Fence | None], None] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def release(self, after: Fence | None = None) -> None:
        """Give the slot back; more than once does no harm.

        A copy from pinned memory that does not block may still be under way: `after` is an event recorded
        behind it, which is waited for before the slot is written to.
        """
        if self.on_release is not None:
            self.on_release(after)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
