"""Memory for batches, taken once and filled again and again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.decoders import Pcm, Pixels
from trainer.host_batch import Fence


@dataclass(kw_only=True)
class Slot:
    """Room for one process's part of a batch."""

    audio: Tensor | None  # (B, C, T) int16
    lengths: Tensor | None  # (B,) int64
    frames: Tensor | None  # (B, S, S, 3) uint8
    fence: Fence | None = None  # a copy that may still read from here

    @classmethod
    def of(cls, samples: int, *, channels: int, frames_per_channel: int, side: int) -> "Slot":
        """Room for sounds of `channels` and pictures of `side`, each left out where that is 0.

        Pinned where there is CUDA, so that copying to the device needs no copy on the way.
        """
        pinned = torch.cuda.is_available()

        def room(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=pinned)

        return cls(
            audio=room(samples, channels, frames_per_channel, dtype=torch.int16) if channels else None,
            lengths=room(samples, dtype=torch.int64) if channels else None,
            frames=room(samples, side, side, 3, dtype=torch.uint8) if side else None,
        )

    def sound(self, place: int) -> Pcm:
        """(C, T) of one sample, to write into."""
        assert self.audio is not None
        pcm: Pcm = self.audio[place].numpy()
        return pcm

    def picture(self, place: int) -> Pixels:
        """(S, S, 3) of one sample, to write into."""
        assert self.frames is not None
        pixels: Pixels = self.frames[place].numpy()
        return pixels

    def wait(self) -> None:
        """Until what was here before has been copied away."""
        if (fence := self.fence) is not None:
            fence.synchronize()
