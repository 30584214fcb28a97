"""The audio head's ear: trainable complex B-spline wavelets (fbsp) that turn waveforms into decibels."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.devices import float32_arithmetic
from trainer.models.convolution import multiply, packed
from trainer.models.eager import eager
from trainer.models.framing import FRAME, framed
from trainer.models.memo import Memo

SAMPLE_RATE = 44_100  # Hz; AudioCLIP §4.1
TAPS = 2048  # AudioCLIP, n_fft
FILTERS = TAPS // 2 + 1
BANDS = 3  # they become conv1's input channels, as red, green and blue would
BINS = FILTERS // BANDS
USED = BANDS * BINS  # the two filters above are trained by the norm loss only
FULL_SCALE = 32_768.0  # the published input is int16: ours, in [-1, 1], is brought to that scale
SILENT_POWER = 1e-18  # stands for a power of exactly 0; smaller powers stay as they are
EPSILON = 1e-8  # AudioCLIP, model/esresnet/fbsp.py: on time and on m

MARGIN = (TAPS - FRAME) // 2  # the published code zeroes so many of every frame's 2048 samples, at both ends
RUN = 384  # taps; sums of products are kept apart for so many of the 2048, see `_project`
_BORDERS = [0, *(tap - MARGIN for tap in range(RUN, MARGIN + FRAME, RUN)), FRAME]  # within the frame
_LENGTHS = [stop - start for start, stop in pairwise(_BORDERS)]


class FbspSpectrogram(nn.Module):
    """Log-power of a waveform under 1023 trainable wavelets, in three bands of 341.

    Filter k has order `m[k]`, bandwidth `fb[k]` and centre frequency `fc[k]`, in units of 21.5437 Hz. At the
    initial m = 0, fb = 1, fc = k it is a complex exponential, and the whole a Fourier transform.

    Its arithmetic is float32 under any autocast and TF32 setting: fewer bits leak loud frequencies into quiet
    ones, by many decibels. As long as nothing needs a gradient the filters are kept, and a clip's result
    depends on no other clip in its batch, to the last bit.
    """

    window: Tensor
    time: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(FILTERS))
        self.fb = nn.Parameter(torch.ones(FILTERS))
        self.fc = nn.Parameter(torch.arange(FILTERS, dtype=torch.float32))
        self.register_buffer("window", blackman_harris(FRAME))
        # float32, both ends included. Made once: phases reach 3200 rad, and devices differ on linspace
        time = math.pi * torch.linspace(-1, 1, TAPS, dtype=torch.float32) + EPSILON
        self.register_buffer("time", time, persistent=False)
        self._kept: Memo[tuple[Tensor, ...]] = Memo()

    @eager  # a graph could not set precision
    def forward(self, waveform: Tensor) -> Tensor:
        """(B, C, T) in [-1, 1] at 44.1 kHz -> decibels (B, C, 3, 341, frames), channels last in memory.

        No gradient goes to the waveform. Raises ValueError and TypeError for another shape or type; a NaN
        spoils its own row only.
        """
        self._check(waveform)
        with torch.autocast(waveform.device.type, enabled=False), float32_arithmetic():
            signals = as_published(waveform.detach().flatten(0, 1).to(self.m.dtype))
            rows = (self._learnt if self._learns() else self._one_by_one)(signals)
        return rows.reshape(*waveform.shape[:2], *rows.shape[1:])

    def filters(self) -> Tensor:
        """(1025, 2048, 2): real and imaginary part of every filter."""
        return torch.stack(_wavelets(self.m, self.fb, self.fc, self.time), dim=-1)

    def norm_loss(self) -> Tensor:
        """Mean over the filters of (norm - 1)², which AudioCLIP adds to its loss with weight 1."""
        envelope, _ = _envelope(self.m[:, None], self.fb[:, None], self.time)
        norms = (self.fb / TAPS * envelope.square().sum(dim=1)).sqrt()
        return (norms - 1).square().mean()

    def train(self, mode: bool = True) -> "FbspSpectrogram":
        self._kept.clear()
        return super().train(mode)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())

    def _learnt(self, signals: Tensor) -> Tensor:
        projected: Tensor = _Projection.apply(framed(signals), self.window, *self._runs())
        return _decibels(projected)

    def _one_by_one(self, signals: Tensor) -> Tensor:
        """Decibels of each row computed alone: in one product, the batch may decide how sums are rounded."""
        runs = self._kept.get((self.m, self.fb, self.fc), lambda: tuple(map(packed, self._runs())))
        return torch.cat([_decibels(_project(framed(row[None]), self.window, runs)) for row in signals])

    def _runs(self) -> tuple[Tensor, ...]:
        """The 1654 taps that meet a sample, in runs (2046, ≤ 384); real parts come first."""
        time = self.time[MARGIN : MARGIN + FRAME]
        taps = torch.cat(_wavelets(self.m[:USED], self.fb[:USED], self.fc[:USED], time))
        return tuple(run.contiguous() for run in torch.split(taps, _LENGTHS, dim=1))

    def _check(self, waveform: Tensor) -> None:
        if waveform.ndim != 3 or 0 in waveform.shape:
            shape = tuple(waveform.shape)
            raise ValueError(
                f"waveform of shape {shape}; expected (batch, channels, samples), none of them 0"
            )
        if not waveform.is_floating_point():
            raise TypeError(
                f"waveform of {waveform.dtype}; expected floats in [-1, 1]: divide int16 by 32768"
            )
        if self.m.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"filters of {self.m.dtype}; expected float32: keep the weights, and use autocast"
            )


def blackman_harris(taps: int) -> Tensor:
    """(taps,) float32: the periodic four-term window of Harris (1978)."""
    phase = 2 * math.pi / taps * torch.arange(taps, dtype=torch.float64)
    terms = (0.35875, -0.48829, 0.14128, -0.01168)
    return torch.stack([a * torch.cos(k * phase) for k, a in enumerate(terms)]).sum(dim=0).float()


def as_published(waveform: Tensor) -> Tensor:
    """[-1, 1] -> what the published code makes of its int16: nearly the same, with 0 at +1.5e-5."""
    return waveform.mul(FULL_SCALE).add_(32_768).mul_(2).div_(65_535).sub_(1)


def _envelope(m: Tensor, fb: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """|sinc|^m of (K, 1) parameters over (N,) time, and where the sinc is negative: both (K, N)."""
    argument = fb * time / (m + EPSILON)
    argument = argument.masked_fill(argument == 0, 1e-20)  # whose sinc is 1, and whose gradient is finite
    sinc = argument.sin() / argument
    return sinc.square().pow(0.5 * m), sinc < 0


def _wavelets(m: Tensor, fb: Tensor, fc: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts (K, N) of sqrt(fb/2048) sinc(fb·t/m)^m exp(-i·fc·t), K filters over N times.

    Orders are fractional, so a negative sinc's power is complex: it has phase m·π. Every operation, and their
    order, is the published code's, so that each value is, too, to the last bit.
    """
    m, fb, fc = m[:, None], fb[:, None], fc[:, None]
    envelope, negative = _envelope(m, fb, time)
    turned_re = envelope * torch.where(negative, torch.cos(m * math.pi), 1.0)
    turned_im = envelope * torch.where(negative, torch.sin(m * math.pi), 0.0)
    phase = fc * time
    cos, sin = phase.cos(), phase.sin()
    gain = _square_root(fb)
    real, imaginary = turned_re * cos + turned_im * sin, turned_im * cos - turned_re * sin
    return real * gain / math.sqrt(TAPS), imaginary * gain / math.sqrt(TAPS)


def _square_root(x: Tensor) -> Tensor:
    """Correctly rounded: PyTorch's float32 root is off by a bit on some CPUs. Metal knows no float64."""
    return x.sqrt() if x.device.type == "mps" else x.double().sqrt().to(x.dtype)


class _Projection(torch.autograd.Function):
    """Every frame on every filter, differentiable in the filters."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, window: Tensor, *runs: Tensor) -> Tensor:
        ctx.save_for_backward(frames, window)
        return _project(frames, window, runs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        frames, window = ctx.saved_tensors
        rows = grads[0].flatten(0, 1).T  # (2046, R n)
        with torch.autocast(rows.device.type, enabled=False), float32_arithmetic():
            return None, None, *(rows @ heard for heard in _windowed(frames, window))


def _project(frames: Tensor, window: Tensor, runs: Sequence[Tensor]) -> Tensor:
    """(R, n, 1654) frames on the filters' runs (K, ≤ 384) -> (R, n, K).

    Other orders of summation are as exact. This is MKL's, under the golden vectors in tests/golden, and gives
    96 % of their decibels to the last bit. With others, or the window folded into the filters, the network
    behind, which amplifies rounding, gave embeddings 1 to 3 % away from theirs:
    docs/decisions/0006-exact-front-end.md.
    """
    products = (multiply(rows, run) for rows, run in zip(_windowed(frames, window), runs, strict=True))
    total = next(products)
    for product in products:
        total += product
    return total.view(*frames.shape[:2], -1)


def _windowed(frames: Tensor, window: Tensor) -> Iterator[Tensor]:
    """Each run of taps of the windowed frames, (R n, ≤ 384)."""
    for start, stop in pairwise(_BORDERS):
        yield (frames[..., start:stop] * window[start:stop]).flatten(0, 1)


def _decibels(projected: Tensor) -> Tensor:
    """(R, n, 2046) real and imaginary parts -> decibels (R, 3, 341, n), channels last in memory."""
    real, imaginary = projected[..., :USED], projected[..., USED:]
    power = torch.addcmul(real * real, imaginary, imaginary)
    heard = F.threshold(power, 0, SILENT_POWER)  # replaces exact zeros; a NaN stays
    image = (10 * heard.log10()).view(*heard.shape[:2], BANDS, BINS).permute(0, 2, 3, 1)
    return image.contiguous(memory_format=torch.channels_last)
