"""Sound as the models hear it: resampled, downmixed, cut into windows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from shards.decode import SoundStream, open_sound
from shards.sound import SoundError

Tag = TypeVar("Tag")
SoundSource = (
    Path | str | tuple[Tensor | np.ndarray, int]
)  # a file, or ((C, T) or (T,) in [-1, 1], sample rate in Hz)

# A Kaiser-windowed sinc of 192 zero crossings a side: flat to 0.94 of the lower Nyquist frequency, and beyond
# that frequency down by more than 100 dB (tests/trainer/test_waveform.py measures both).
ZERO_CROSSINGS = 192
ROLLOFF = 0.97
BETA = 12.0
LARGEST_KERNEL = 1 << 25  # floats; rates without a common measure make one phase per output sample
LOUDEST = 32.0  # decoded lossy files pass 1.0, but nothing real passes this: int16 amplitudes do
STREAM_S = 8  # seconds resampled at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A span of a sound, at the model's sample rate."""

    start: float  # seconds from the beginning of the file
    end: float
    waveform: Tensor  # (C, T) float32 in [-1, 1]


def windows_of(
    source: SoundSource, sample_rate: int, *, mono: bool = True, window_s: float | None = 10.0
) -> Iterator[Window]:
    """The sound at `sample_rate` in windows of `window_s` seconds, the last one reaching back to be as long.

    A sound that is shorter, and any sound when `window_s` is None, is one window. An hour in windows takes no
    more memory than a minute. Raises SoundError for what does not decode, holds nothing, or holds a NaN.
    """
    if window_s is not None and window_s <= 0:
        raise ValueError(
            f"window_s is {window_s}; expected a positive number of seconds, or None for whole files"
        )
    stream, name = _stream(source)
    blocks = (_prepared(block, name, mono=mono) for block in stream.blocks)
    size = None if window_s is None else round(window_s * sample_rate)
    cut = _cut(_resampled_blocks(blocks, stream.sample_rate, sample_rate), size)
    end = 0
    for first, waveform in cut:
        end = first + waveform.shape[-1]
        yield Window(start=first / sample_rate, end=end / sample_rate, waveform=waveform)
    if not end:
        raise SoundError(f"{name} holds no samples; expected at least one")


def _stream(source: SoundSource) -> tuple[SoundStream, str]:
    if isinstance(source, tuple):
        waveform, sample_rate = source
        samples = np.atleast_2d(np.asarray(waveform, dtype=np.float32)).T  # (C, T) -> (T, C)
        return SoundStream(
            sample_rate=sample_rate, channels=samples.shape[1], blocks=iter([samples])
        ), "the sound"
    return open_sound(Path(source)), str(source)


def _prepared(block: np.ndarray, name: str, *, mono: bool) -> Tensor:
    """(C, n) of a block of (n, C) samples."""
    samples = torch.from_numpy(np.ascontiguousarray(block.T))
    _check(samples, name)
    return samples.mean(dim=0, keepdim=True) if mono else samples


def checked_waveform(waveform: Tensor | np.ndarray) -> Tensor:
    """(B, C, T) float32, checked: SoundError for another shape, no samples, NaN or int16 amplitudes."""
    checked = torch.as_tensor(waveform)
    if checked.ndim != 3 or 0 in checked.shape:
        raise SoundError(
            f"waveform of shape {tuple(checked.shape)}; expected (batch, channels, samples), none zero"
        )
    if not checked.is_floating_point():
        raise SoundError(
            f"waveform of {checked.dtype}; expected floats in [-1, 1]: divide int16 samples by 32768"
        )
    _check(checked, "the waveform")
    return checked.float()


def _check(samples: Tensor, name: str) -> None:
    if not samples.numel():
        return
    loudest = samples.abs().amax().item()  # NaN if one is
    if not loudest < float("inf"):
        raise SoundError(f"{name} holds NaN or infinite samples; expected finite ones in [-1, 1]")
    if loudest > LOUDEST:
        raise SoundError(
            f"{name} reaches an amplitude of {loudest:g}; expected [-1, 1]: divide int16 by 32768"
        )


def resampled(waveform: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """(…, T) at `wanted` Hz: ceil(T · wanted / sample_rate) samples, silence assumed beyond both ends."""
    if sample_rate == wanted:
        return waveform
    if not 1 <= sample_rate <= 10_000_000:
        raise SoundError(f"a sample rate of {sample_rate} Hz; expected a positive whole number of Hz")
    if _kernel_size(sample_rate, wanted) > LARGEST_KERNEL:
        return _interpolated(waveform, sample_rate, wanted)
    return _resampler(sample_rate, wanted, waveform.device)(waveform)  # type: ignore[no-any-return]  # untyped


@lru_cache(maxsize=16)
def _resampler(sample_rate: int, wanted: int, device: torch.device) -> Resample:
    kaiser = {"resampling_method": "sinc_interp_kaiser", "beta": BETA}
    return Resample(
        sample_rate,
        wanted,
        lowpass_filter_width=ZERO_CROSSINGS,
        rolloff=ROLLOFF,
        dtype=torch.float64,
        **kaiser,
    ).to(device, torch.float32)


def _kernel_size(sample_rate: int, wanted: int) -> int:
    return (
        wanted
        // gcd(sample_rate, wanted)
        * (2 * _reach(sample_rate, wanted) + sample_rate // gcd(sample_rate, wanted))
    )


def _reach(sample_rate: int, wanted: int) -> int:
    """Samples on each side of an instant that the kernel weighs."""
    return ceil(ZERO_CROSSINGS / ROLLOFF * max(1.0, sample_rate / wanted)) + 1


def _interpolated(waveform: Tensor, sample_rate: int, wanted: int, most: int = 1 << 13) -> Tensor:
    """As `resampled`, each output sample's weights computed for it alone: for rates of no common measure."""
    reach = _reach(sample_rate, wanted)
    padded = torch.nn.functional.pad(waveform, (reach, reach + 1))
    taps = torch.arange(-reach, reach + 1, device=waveform.device)
    total = ceil(waveform.shape[-1] * wanted / sample_rate)
    pieces = []
    for first in range(0, total, most):
        out = torch.arange(first, min(first + most, total), device=waveform.device)
        nearest, rest = out * sample_rate // wanted, (out * sample_rate % wanted) / wanted
        weights = _weights(taps - rest[:, None], min(1.0, wanted / sample_rate) * ROLLOFF)
        pieces.append(
            torch.einsum("...tk,tk->...t", padded.unfold(-1, 2 * reach + 1, 1)[..., nearest, :], weights)
        )
    return torch.cat(pieces, dim=-1)


def _weights(distance: Tensor, cutoff: float) -> Tensor:
    """The same Kaiser-windowed sinc as torchaudio's, at distances in input samples."""
    t = (distance * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    beta = torch.tensor(BETA, dtype=t.dtype, device=t.device)
    window = torch.i0(beta * (1 - (t / ZERO_CROSSINGS) ** 2).sqrt()) / torch.i0(beta)
    return torch.sinc(t) * window * cutoff


def _resampled_blocks(blocks: Iterable[Tensor], sample_rate: int, wanted: int) -> Iterator[Tensor]:
    """What `resampled` gives for the whole, in pieces, each computed with enough of its neighbours around."""
    if sample_rate == wanted:
        yield from blocks
        return
    step = sample_rate // gcd(sample_rate, wanted)  # input samples between two that fall onto output samples
    margin = step * ceil((_reach(sample_rate, wanted) + 1) / step)
    chunk = step * ceil(STREAM_S * sample_rate / step)
    skip, keep = margin * wanted // sample_rate, chunk * wanted // sample_rate
    held: Tensor | None = None
    for block in blocks:
        held = (
            torch.nn.functional.pad(block, (margin, 0)) if held is None else torch.cat([held, block], dim=-1)
        )
        while held.shape[-1] >= chunk + 2 * margin:
            yield resampled(held[..., : chunk + 2 * margin], sample_rate, wanted)[..., skip : skip + keep]
            held = held[..., chunk:]
    if held is not None:
        yield resampled(held, sample_rate, wanted)[..., skip:]


def _cut(blocks: Iterable[Tensor], size: int | None) -> Iterator[tuple[int, Tensor]]:
    """(first sample, window) of `size` samples, or of all when None; the last overlaps the one before."""
    if size is None:
        whole = list(blocks)
        blocks, size = (
            [torch.cat(whole, dim=-1)] if whole else [],
            sum(block.shape[-1] for block in whole) + 1,
        )
    held, first, last = torch.zeros(0, 0), 0, torch.zeros(0, 0)
    for block in blocks:
        held = torch.cat([held, block], dim=-1) if held.numel() else block
        while held.shape[-1] >= size:
            last, held = held[..., :size], held[..., size:]
            yield first, last
            first += size
    if held.shape[-1] and last.numel():
        missing = size - held.shape[-1]
        yield first - missing, torch.cat([last[..., -missing:], held], dim=-1)
    elif held.shape[-1]:
        yield first, held


def runs(windows: Iterable[tuple[Tag, Window]], most: int) -> Iterator[list[tuple[Tag, Window]]]:
    """Neighbours of one shape, at most so many: what can be embedded at once without padding anything."""
    held: list[tuple[Tag, Window]] = []
    for tag, window in windows:
        if held and (len(held) == most or window.waveform.shape != held[0][1].waveform.shape):
            yield held
            held = []
        held.append((tag, window))
    if held:
        yield held
