"""What training does to sound, against a plain reference in double precision, one sound at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.augment import (
    augmented_sound,
    drawn_placement,
    noisy,
    placed,
    scaling_factors,
    stretched,
    with_level,
)
from trainer.draws import Draw, _hashed, hashed, normals, uniforms
from trainer.mixup import mixed, mixup_shares
from trainer.stage import Augment

SIZE = 600
SEEDS = np.arange(40, dtype=np.int64) * 7_919 - 100_000
EVERYTHING = Augment(
    time_scaling=1.5, inversion=0.5, noise=0.25, noise_snr_db=(10.0, 120.0), random_crop=True, mixup=0.0
)
ONLY_PLACED = Augment(time_scaling=1.5, inversion=0.5)

Sound = NDArray[np.float64]  # (C, T) in [-1, 1]


def sounds(
    count: int = 40, channels: int = 1, *, shortest: int = 300, longest: int = 900
) -> tuple[Tensor, NDArray[np.int64]]:
    """Noise with a quiet or a loud part somewhere, of different lengths; what follows each is not silent."""
    dice = np.random.default_rng(3)
    lengths = dice.integers(shortest, longest, count)
    audio = dice.normal(0, 6_000, (count, channels, longest))
    for row, length in enumerate(lengths):
        start = dice.integers(0, length)
        audio[row, :, start : start + length // 2] *= dice.choice([0.02, 1.0, 5.0])
    return torch.from_numpy(audio.clip(-32_768, 32_767).astype(np.int16)), lengths.astype(np.int64)


# ----------------------------------------------------------------------------------------- the reference


def plain_scaled(sound: Sound, factor: float) -> Sound:
    """Sample j is at j / factor between the recorded samples, the last one going on."""
    length = max(1, int(sound.shape[1] * factor))
    place = np.minimum(np.arange(length) / factor, sound.shape[1] - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, sound.shape[1] - 1)
    return sound[:, before] * (1 - (place - before)) + sound[:, after] * (place - before)


def plain_padded(sound: Sound, size: int, left: int) -> Sound:
    """Its first and last sample, as the mean over the channels, before and after it."""
    right = size - left - sound.shape[1]
    before = np.full((len(sound), left), sound[:, 0].mean())
    after = np.full((len(sound), right), sound[:, -1].mean())
    return np.concatenate([before, sound, after], axis=1)


def plain_cropped(sound: Sound, size: int, left: int) -> Sound:
    """The crop at `left`; if too quiet the first samples; if these are louder, but too quiet, the last."""
    half = sound.std(ddof=1) / 2
    crop = sound[:, left : left + size]
    level = crop.std(ddof=1)
    if level < half:
        crop = sound[:, :size]
    if half > crop.std(ddof=1) > level:
        crop = sound[:, -size:]
    return crop


def plain(sound: Sound, uniform: dict[Draw, float], augment: Augment, size: int, *, training: bool) -> Sound:
    """All of it but noise."""
    if training and uniform[Draw.INVERSION] < augment.inversion:
        sound = sound[:, ::-1] if augment.inversion_axis == "time" else sound[::-1]
    if training and augment.time_scaling > 1:
        sound = plain_scaled(sound, augment.time_scaling ** (2 * uniform[Draw.TIME_SCALING] - 1))
    spare = abs(sound.shape[1] - size)
    left = int(uniform[Draw.PLACE] * spare) if training and augment.random_crop else round(0.5 * spare)
    if sound.shape[1] > size:
        return plain_cropped(sound, size, left)
    return plain_padded(sound, size, left)


def drawn(row: int) -> dict[Draw, float]:
    return {draw: float(uniforms(SEEDS[row : row + 1], draw)[0]) for draw in Draw}


def recorded(audio: Tensor, lengths: NDArray[np.int64], row: int) -> Sound:
    found: Sound = audio[row, :, : lengths[row]].numpy() / 32_768
    return found


# ------------------------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("axis", ["time", "channels"])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_is_placed_as_the_plain_definition_says(channels: int, axis: str, training: bool) -> None:
    augment = Augment(time_scaling=1.5, inversion=0.5, inversion_axis=axis)  # type: ignore[arg-type]  # both are
    audio, lengths = sounds(channels=channels)
    given = augmented_sound(audio, lengths, SEEDS, augment, size=SIZE, training=training)
    assert given.shape == (40, channels, SIZE)
    assert given.dtype == torch.float32
    agree = []
    for row in range(40):
        expected = plain(recorded(audio, lengths, row), drawn(row), augment, SIZE, training=training)
        agree.append(np.abs(given[row].numpy() - expected).max() < 1e-6)
    # levels of the recorded samples under a scaled crop, not of those between them: no other crop in this set
    assert all(agree)


def test_the_level_rule_moves_a_silent_crop_to_where_the_sound_is() -> None:
    audio = torch.zeros(3, 1, 1_000, dtype=torch.int16)
    tone = (torch.randn(100, generator=torch.Generator().manual_seed(0)) * 5_000).to(torch.int16)
    audio[0, 0, :100] = tone  # at the start: the first samples are taken
    audio[1, 0, 900:] = (
        tone  # at the end, and a little at the start: the first are better, but the last are taken
    )
    audio[1, 0, :100] = tone // 8
    audio[2, 0, 450:550] = tone  # in the middle: the central crop is loud enough
    lengths = np.array([1_000, 1_000, 1_000])
    placement = drawn_placement(lengths, SEEDS[:3], Augment(), size=200, training=False)
    assert placement.left.tolist() == [400, 400, 400]
    assert with_level(audio, placement, size=200).left.tolist() == [0, 800, 400]


def test_levels_of_recorded_samples_choose_the_crop_that_levels_of_scaled_ones_would() -> None:
    augment = Augment(time_scaling=1.5, inversion=0.5)
    audio, lengths = sounds(longest=1_500)
    seeds = np.arange(40, dtype=np.int64)
    given = with_level(audio, drawn_placement(lengths, seeds, augment, size=300, training=True), size=300)
    same = 0
    for row in range(40):
        sound = recorded(audio, lengths, row)
        sound = plain_scaled(sound[:, ::-1] if given.inverted[row] else sound, float(given.factors[row]))
        spare = sound.shape[1] - 300
        wanted = plain_cropped(sound, 300, int(uniforms(seeds[row : row + 1], Draw.PLACE)[0] * spare))
        left = given.left[row]
        same += spare <= 0 or np.array_equal(wanted, sound[:, left : left + 300])
    assert same == 40


def test_evaluation_draws_nothing() -> None:
    audio, lengths = sounds()
    once, again = (
        augmented_sound(audio, lengths, seeds, EVERYTHING, size=SIZE, training=False)
        for seeds in (SEEDS, SEEDS + 1)
    )
    assert torch.equal(once, again)


@pytest.mark.parametrize("spare", [3, 5, -3, -5])
def test_the_centre_is_rounded_to_the_even_place(spare: int) -> None:
    placement = drawn_placement(np.array([SIZE + spare]), SEEDS[:1], Augment(), size=SIZE, training=False)
    assert placement.left.tolist() == [round(0.5 * abs(spare)) * (1 if spare > 0 else -1)]


def test_padding_is_the_edge_samples_mean_over_the_channels() -> None:
    audio = torch.zeros(1, 2, 10, dtype=torch.int16)
    audio[0, 0, 0], audio[0, 1, 3] = 16_384, -16_384
    given = placed(
        audio, drawn_placement(np.array([4]), SEEDS[:1], Augment(), size=8, training=False), size=8
    )
    assert given[0, 0].tolist() == [0.25, 0.25, 0.5, 0, 0, 0, -0.25, -0.25]
    assert given[0, 1].tolist() == [0.25, 0.25, 0, 0, 0, -0.5, -0.25, -0.25]


def test_one_sample_and_a_longest_factor_are_padded_to_any_size() -> None:
    audio = torch.full((1, 1, 1), 16_384, dtype=torch.int16)
    given = augmented_sound(audio, np.array([1]), SEEDS[:1], ONLY_PLACED, size=5, training=True)
    assert given.tolist() == [[[0.5] * 5]]


# ------------------------------------------------------------------------------- a function of the seed alone


@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_comes_out_the_same_in_any_batch_order_and_dtype(channels: int) -> None:
    audio, lengths = sounds(channels=channels)
    whole = augmented_sound(audio, lengths, SEEDS, EVERYTHING, size=SIZE, training=True)
    order = np.random.default_rng(0).permutation(40)[:23]  # another batch, another size of it
    some = augmented_sound(audio[order], lengths[order], SEEDS[order], EVERYTHING, size=SIZE, training=True)
    assert torch.equal(some, whole[order])
    floats = augmented_sound(audio.float() / 32_768, lengths, SEEDS, EVERYTHING, size=SIZE, training=True)
    assert torch.allclose(floats, whole, atol=1e-6)


def test_the_number_of_threads_changes_nothing() -> None:
    audio, lengths = sounds(count=4, shortest=40_000, longest=90_000)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(augmented_sound(audio, lengths, SEEDS[:4], EVERYTHING, size=60_000, training=True))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_places_sounds_to_the_bit_and_its_noise_to_rounding() -> None:
    audio, lengths = sounds(channels=2)
    for augment, tolerance in ((ONLY_PLACED, 0.0), (EVERYTHING, 1e-6)):
        here, there = (
            augmented_sound(audio.to(device), lengths, SEEDS, augment, size=SIZE, training=True).cpu()
            for device in ("cpu", "cuda")
        )
        assert torch.allclose(here, there, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------- distributions


def test_time_scaling_draws_its_law_within_its_bounds() -> None:
    uniform = uniforms(np.arange(20_000), Draw.TIME_SCALING)
    factors = scaling_factors(uniform, 1.5)
    assert factors.min() >= 1 / 1.5
    assert factors.max() <= 1.5
    assert np.log(factors).mean() == pytest.approx(0, abs=0.01)  # as often slower as faster
    even = scaling_factors(uniform, 1.5, "uniform")
    assert (even.min(), even.max(), even.mean()) == pytest.approx(
        (1 / 1.5, 1.5, (1 / 1.5 + 1.5) / 2), abs=0.01
    )


def test_purposes_and_seeds_draw_independently() -> None:
    drawn_numbers = np.stack([uniforms(np.arange(5_000), draw) for draw in Draw])
    assert np.abs(np.corrcoef(drawn_numbers) - np.eye(len(Draw))).max() < 0.06
    assert np.abs(np.corrcoef(drawn_numbers[:, :-1].ravel(), drawn_numbers[:, 1:].ravel())[0, 1]) < 0.02


def test_normals_are_normal_and_white() -> None:
    given = normals(torch.arange(4), 200_000).double()
    assert given.mean(dim=1).abs().max() < 0.01
    assert (given.var(dim=1) - 1).abs().max() < 0.02
    assert (given.pow(4).mean(dim=1) - 3).abs().max() < 0.15
    assert ((given.abs() > 1.959964).double().mean(dim=1) - 0.05).abs().max() < 0.003
    assert (given[:, 1:] * given[:, :-1]).mean(dim=1).abs().max() < 0.01
    assert (given[0] * given[1]).mean().abs() < 0.01
    assert torch.equal(normals(torch.arange(4), 999), normals(torch.arange(4), 1_000)[:, :999])


def test_noise_comes_to_its_share_of_sounds_at_the_ratio_that_was_drawn() -> None:
    seeds = np.arange(400, dtype=np.int64)
    sound = torch.sin(torch.arange(4_000.0) / 9).expand(400, 2, -1) * 0.3
    given = noisy(sound, seeds, probability=0.25, snr_db=(10.0, 40.0))
    touched = (given != sound).flatten(1).any(dim=1).numpy()
    assert 0.18 < touched.mean() < 0.32
    added = (given - sound)[touched].double()
    ratio_db = 10 * np.log10((sound[0].double().square().mean() / added.square().mean(dim=(1, 2))).numpy())
    wanted = 10 + 30 * uniforms(seeds[touched], Draw.SNR)
    assert np.abs(ratio_db - wanted).max() < 0.5
    assert (added[:, 0] * added[:, 1]).mean().abs() < 1e-4  # channels have noise of their own


def test_silence_stays_silent_under_noise() -> None:
    silence = torch.zeros(40, 1, 100)
    assert torch.equal(noisy(silence, SEEDS, probability=1.0, snr_db=(10.0, 10.0)), silence)


# ------------------------------------------------------------------------------------ amplitude and mixup


def test_a_stretched_sound_reaches_both_ends_of_int16() -> None:
    audio = torch.tensor([[[100, -300, 50, 9_999]], [[7, 7, 7, 0]]], dtype=torch.int16)
    given = stretched(audio / 32_768, audio, np.array([3, 3]))
    assert given[0, 0, 1] == -1
    assert given[0, 0, 0] == 32_767 / 32_768
    assert given[0, 0, 2] == pytest.approx((350 / 400 * 65_535 - 32_768) / 32_768, abs=1e-6)
    assert torch.equal(given[1], audio[1] / 32_768)  # a constant cannot be stretched


def test_stretching_and_scaling_may_come_in_any_order() -> None:
    augment = Augment(time_scaling=1.5, stretch_amplitude=True)
    audio, lengths = sounds(channels=2)
    given = augmented_sound(audio, lengths, SEEDS, augment, size=SIZE, training=True)
    for row in range(40):
        sound = recorded(audio, lengths, row)
        lowest, highest = sound.min(), sound.max()
        first = ((sound - lowest) / (highest - lowest) * 65_535 - 32_768) / 32_768
        expected = plain(first, drawn(row), augment, SIZE, training=True)
        assert np.abs(given[row].numpy() - expected).max() < 3e-6


def test_mixup_mixes_neighbours_and_their_labels_by_the_same_shares() -> None:
    shares = mixup_shares(SEEDS[:5], 0.4)
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    assert shares[4] == 1  # the odd one out
    assert torch.equal(shares[::2][:2], shares[1::2])
    labels = mixed(torch.eye(5), shares)
    assert torch.allclose(labels.sum(dim=1), torch.ones(5))
    assert labels[0, 1] == 1 - shares[0]
    assert labels[3, 2] == 1 - shares[2]
    assert torch.equal(mixup_shares(SEEDS[2:4], 0.4), shares[2:4])  # split at an even place, the same pairs


# -------------------------------------------------------------------------------- what past runs have drawn


def test_the_generator_is_splitmix64_and_draws_what_it_always_drew() -> None:
    assert [hex(bits) for bits in hashed(np.array([0]))] == [
        "0xe220a8397b1dcdaf"
    ]  # its published first output
    assert uniforms(np.array([0, 1, -1]), Draw.PLACE).tolist() == pytest.approx(
        [0.781499285280747, 0.5267179955718279, 0.011382352467864343], abs=1e-15
    )


def test_torch_and_numpy_hash_alike() -> None:
    seeds = np.array([0, 1, -1, 2**63 - 1, -(2**63)], dtype=np.int64)
    given = _hashed(torch.from_numpy(seeds)).numpy().astype(np.uint64)
    assert given.tolist() == hashed(seeds).tolist()
