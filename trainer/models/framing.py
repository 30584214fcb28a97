"""How a waveform is cut into frames: 1654 samples every 561, the whole padded evenly at both ends."""

from math import ceil

from torch import Tensor
from torch.nn import functional as F

FRAME = 1654  # samples; AudioCLIP, win_length
HOP = 561  # samples; AudioCLIP, hop_length


def frame_count(samples: int) -> int:
    """How many frames cover `samples` samples: at least one."""
    return 1 + max(0, ceil((samples - FRAME) / HOP))


def framed(signals: Tensor) -> Tensor:
    """(R, T) -> (R, frames, FRAME), a view: zeros fill both ends up, the odd one the right."""
    samples = signals.shape[-1]
    padding = (frame_count(samples) - 1) * HOP + FRAME - samples
    left = padding // 2
    return F.pad(signals, (left, padding - left)).unfold(-1, FRAME, HOP)
