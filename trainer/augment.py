"""What training does to sound: time scaling, inversion, crop or padding, noise; evaluation the least.

Everything is computed for a whole batch on the device that it lies on. What is drawn is a function of each
sample's seed (trainer.draws), so neither the device nor the batch nor the number of threads changes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.draws import Draw, normals, streams, uniforms, whole_numbers
from trainer.stage import Augment

FULL_SCALE = 32_768  # of int16: a float sample is the int16 divided by this
# of the whole sound's level, which a crop should reach (released utils/transforms.py, RandomCrop)
LEVEL = 0.5
# rows whose places or levels are computed together, in double precision 3.5 MB for each 10 s: on a CPU what
# its caches hold, elsewhere enough for a kernel
ROWS_AT_ONCE = {"cpu": 2}
ROWS_ELSEWHERE = 16
BLOCK = 512  # samples that are summed together
NORMALS_AT_ONCE = 1 << 22

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How each of B sounds comes to lie in an output of `size` samples.

    Output sample i is sample `left + i` of the scaled sound, whose sample j is at j / factor of the sound,
    which is read backwards where it is inverted. Before and after the scaled sound its edges go on.
    """

    lengths: Integers  # (B,) samples
    factors: Floats  # (B,) on duration; pitch falls by as much
    inverted: Mask  # (B,) in time
    swapped: Mask  # (B,) the channels' order reversed
    left: Integers  # (B,) negative: so much padding before

    @property
    def scaled(self) -> Integers:
        """(B,) samples of each scaled sound."""
        return np.maximum((self.lengths * self.factors).astype(np.int64), 1)


def augmented_sound(
    audio: Tensor,
    lengths: Integers,
    seeds: Integers,
    augment: Augment,
    *,
    size: int,
    training: bool,
) -> Tensor:
    """(B, C, size) float32 in [-1, 1] of sounds (B, C, T), int16 or floats in [-1, 1].

    Each sound has `lengths` (B,) samples, at least one; what follows them is not read. In evaluation crop and
    padding are central and nothing is drawn.
    """
    placement = drawn_placement(lengths, seeds, augment, size=size, training=training)
    placement = with_level(audio, placement, size=size)
    sound = placed(audio, placement, size=size)
    if augment.stretch_amplitude:
        sound = stretched(sound, audio, lengths)
    if training and augment.noise > 0:
        sound = noisy(sound, seeds, probability=augment.noise, snr_db=augment.noise_snr_db)
    return sound


# -------------------------------------------------------------------------------------------- where


def drawn_placement(
    lengths: Integers, seeds: Integers, augment: Augment, *, size: int, training: bool
) -> Placement:
    """What the seeds say, before any sound is heard."""
    lengths = np.asarray(lengths, dtype=np.int64)
    flips = uniforms(seeds, Draw.INVERSION) < (augment.inversion if training else 0.0)
    in_time = augment.inversion_axis == "time"
    factors = (
        scaling_factors(uniforms(seeds, Draw.TIME_SCALING), augment.time_scaling, augment.time_scaling_law)
        if training and augment.time_scaling > 1
        else np.ones(len(lengths))
    )
    found = Placement(
        lengths=lengths,
        factors=factors,
        inverted=flips & in_time,
        swapped=flips & (not in_time),
        left=np.zeros(len(lengths), dtype=np.int64),
    )
    spare = found.scaled - size
    if training and augment.random_crop:
        places = whole_numbers(
            uniforms(seeds, Draw.PLACE), np.abs(spare)
        )  # the last is never drawn, as published
    else:
        places = np.round(0.5 * np.abs(spare)).astype(np.int64)
    return _moved(found, np.where(spare > 0, places, -places))


def scaling_factors(
    uniform: Floats, largest: float, law: Literal["log_uniform", "uniform"] = "log_uniform"
) -> Floats:
    """(B,) from 1 / largest to largest: its power U(-1, 1), or evenly. See docs/decisions/0007."""
    if law == "log_uniform":
        return np.asarray(largest ** (2 * uniform - 1), dtype=np.float64)
    return np.asarray(1 / largest + uniform * (largest - 1 / largest), dtype=np.float64)


def _moved(placement: Placement, left: Integers) -> Placement:
    return Placement(
        lengths=placement.lengths,
        factors=placement.factors,
        inverted=placement.inverted,
        swapped=placement.swapped,
        left=left,
    )


def with_level(audio: Tensor, placement: Placement, *, size: int) -> Placement:
    """Crops that are too quiet moved, by the published rule, which holds in evaluation as well.

    Where the standard deviation of a crop is below half the sound's, the first `size` samples are taken;
    where these are louder but still below half, the last. Levels are those of the recorded samples under
    each crop. Of int16 all sums are whole numbers below 2 ** 53 in double precision, up to three minutes of
    sound: exact, so that every device decides alike.
    """
    cropped = placement.scaled > size
    if not cropped.any():
        return placement
    rows = np.flatnonzero(cropped)
    last = placement.scaled - size
    levels = _levels(audio, placement, rows, [placement.left, np.zeros_like(last), last], size)
    whole, drawn, first = levels[:, 0], levels[:, 1], levels[:, 2]
    quiet = drawn < LEVEL * whole
    still_quiet = quiet & (first > drawn) & (first < LEVEL * whole)
    left = placement.left.copy()
    left[rows] = np.where(still_quiet, last[rows], np.where(quiet, 0, left[rows]))
    return _moved(placement, left)


def _levels(audio: Tensor, placement: Placement, rows: Integers, lefts: list[Integers], size: int) -> Floats:
    """(len(rows), 1 + len(lefts)) standard deviations: of the whole sound, then of each crop."""
    spans = [(np.zeros(len(rows), dtype=np.int64), placement.lengths[rows])]
    spans += [_recorded_span(placement, left, size, rows) for left in lefts]
    starts, ends = (np.stack(side, axis=1) for side in zip(*spans, strict=True))
    bounds = torch.from_numpy(np.concatenate([starts, ends], axis=1)).to(audio.device)
    sums = []
    for part in _some_rows(len(rows), audio.device):
        sound = audio[torch.from_numpy(rows[part]).to(audio.device)].double()
        sums.append([_between(values, bounds[part]) for values in (sound, sound.square())])
    total, squares = (torch.cat(parts).cpu().numpy() for parts in zip(*sums, strict=True))
    count = (ends - starts) * audio.shape[1]
    variance = (squares - total**2 / count) / np.maximum(count - 1, 1)
    deviations: Floats = np.sqrt(np.maximum(variance, 0))
    return deviations


def _recorded_span(
    placement: Placement, left: Integers, size: int, rows: Integers
) -> tuple[Integers, Integers]:
    """[start, end) of the recorded samples that a crop is made of."""
    lengths, factors = placement.lengths[rows], placement.factors[rows]
    start = np.floor(left[rows] / factors).astype(np.int64)
    end = np.minimum(np.ceil((left[rows] + size - 1) / factors).astype(np.int64), lengths - 1) + 1
    backwards = placement.inverted[rows]
    return np.where(backwards, lengths - end, start), np.where(backwards, lengths - start, end)


def _between(values: Tensor, edges: Tensor) -> Tensor:
    """(B, n) sums of values (B, C, T) over n spans, given as n starts and n ends: by blocks and the rest."""
    blocks = values.shape[2] // BLOCK
    sums = values[:, :, : blocks * BLOCK].view(*values.shape[:2], blocks, BLOCK).sum(dim=(1, 3))
    before = edges // BLOCK
    upto = torch.nn.functional.pad(sums.cumsum(dim=1), (1, 0)).gather(1, before)
    places = before[:, :, None] * BLOCK + torch.arange(BLOCK, device=values.device)  # (B, 2 n, BLOCK)
    index = places.clamp(max=values.shape[2] - 1).flatten(1)[:, None].expand(-1, values.shape[1], -1)
    over = values.gather(2, index).sum(dim=1).view(places.shape).masked_fill_(places >= edges[:, :, None], 0)
    starts, ends = (upto + over.sum(dim=2)).chunk(2, dim=1)
    return ends - starts


# ------------------------------------------------------------------------------------------- gather


def placed(audio: Tensor, placement: Placement, *, size: int) -> Tensor:
    """(B, C, size) float32 in [-1, 1]: scaled, inverted, cropped and padded, all by one gather.

    Between recorded samples by linear interpolation, without a low-pass, as published; there the places were
    single-precision numbers, up to 0.008 samples off after five seconds, here they are double. Padding is the
    mean over the channels of the first and the last sample.
    """
    parts = _some_rows(len(audio), audio.device)
    return torch.cat([_placed(audio[part], placement, part.start, size) for part in parts])


def _some_rows(count: int, device: torch.device) -> Iterator[slice]:
    at_once = ROWS_AT_ONCE.get(device.type, ROWS_ELSEWHERE)
    return (slice(first, first + at_once) for first in range(0, count, at_once))


def _placed(audio: Tensor, placement: Placement, first: int, size: int) -> Tensor:
    def column(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values[first : first + len(audio)]).to(audio.device)[:, None]

    scaled, lengths = column(placement.scaled), column(placement.lengths)
    j = column(placement.left) + torch.arange(size, device=audio.device)  # (B, size)
    outside = (j < 0) | (j >= scaled)
    j = torch.minimum(j.clamp_(min=0), scaled - 1)
    if (placement.factors[first : first + len(audio)] == 1).all():
        sound = _taken(audio, torch.where(column(placement.inverted), lengths - 1 - j, j))
    else:
        place = j / column(placement.factors)
        place = torch.minimum(place, (lengths - 1).double())  # the last sample goes on
        sound = _interpolated(
            audio, torch.where(column(placement.inverted), lengths - 1 - place, place), lengths
        )
    sound = torch.where(column(placement.swapped)[:, :, None], sound.flip(1), sound)
    if audio.shape[1] > 1:
        sound = torch.where(outside[:, None], sound.mean(dim=1, keepdim=True), sound)
    return sound if audio.is_floating_point() else sound / FULL_SCALE


def _taken(audio: Tensor, places: Tensor) -> Tensor:
    """(B, C, n) float32 of (B, C, T) at whole places (B, n)."""
    return audio.gather(2, places[:, None].expand(-1, audio.shape[1], -1)).float()


def _interpolated(audio: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
    """(B, C, n) float32 of (B, C, T) at places (B, n) between samples."""
    before = places.floor()
    weight = (places - before).float()[:, None]
    index = before.long()
    both = _taken(audio, torch.cat([index, torch.minimum(index + 1, lengths - 1)], dim=1))
    low, high = both.chunk(2, dim=2)
    return low + weight * (high - low)


# ----------------------------------------------------------------------------------------- amplitude


def stretched(sound: Tensor, audio: Tensor, lengths: Integers) -> Tensor:
    """`sound` with the amplitude that stretches its whole recording to int16's range, per sample.

    As the released UrbanSound8K loader does (utils/datasets/us8k.py): the lowest sample of all channels to
    -32768, the highest to 32767. A constant recording stays as it is.
    """
    size = torch.from_numpy(np.asarray(lengths, dtype=np.int64)).to(audio.device)
    padding = torch.arange(audio.shape[-1], device=audio.device) >= size[:, None, None]
    values = audio.float() / (1 if audio.is_floating_point() else FULL_SCALE)
    lowest = values.masked_fill(padding, float("inf")).amin(dim=(1, 2))[:, None, None]
    highest = values.masked_fill(padding, float("-inf")).amax(dim=(1, 2))[:, None, None]
    span = (highest - lowest).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (sound - lowest) / span * (65_535 / FULL_SCALE) - 1
    return torch.where(highest > lowest, whole, sound)


def noisy(sound: Tensor, seeds: Integers, *, probability: float, snr_db: tuple[float, float]) -> Tensor:
    """`sound` (B, C, T), to some of which white Gaussian noise is added, by their seeds.

    The ratio of signal to noise is drawn evenly between the bounds, in dB; the signal's power is its mean
    square over all channels.
    """
    chosen = np.flatnonzero(uniforms(seeds, Draw.NOISE) < probability)
    if not len(chosen):
        return sound
    low, high = snr_db
    ratio = 10 ** ((low + uniforms(seeds[chosen], Draw.SNR) * (high - low)) / 10)
    own = streams(seeds[chosen], Draw.NOISE_SAMPLES).astype(np.int64)
    out = sound.clone()
    at_once = max(1, NORMALS_AT_ONCE // max(1, sound[0].numel()))
    for first in range(0, len(chosen), at_once):
        rows = torch.from_numpy(chosen[first : first + at_once]).to(sound.device)
        some = sound[rows]
        power = some.double().square().mean(dim=(1, 2))
        deviation = (power / torch.from_numpy(ratio[first : first + at_once]).to(power)).sqrt().to(some)
        noise = normals(torch.from_numpy(own[first : first + at_once]).to(sound.device), some[0].numel())
        out[rows] = some + deviation[:, None, None] * noise.view_as(some)
    return out
