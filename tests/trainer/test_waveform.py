from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from shards.sound import SoundError
from trainer.waveform import Window, checked_waveform, resampled, windows_of

Signal = NDArray[np.float64]
WANTED = 44_100


def noise(rate: int, low: float, high: float) -> Signal:
    """Two seconds of noise between two frequencies, peak 0.9."""
    size = 2 * rate
    frequency = np.fft.rfftfreq(size, 1 / rate)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(size))
    signal = np.fft.irfft(spectrum * ((frequency >= low) & (frequency < high)), size)
    return np.asarray(0.9 * signal / np.abs(signal).max())


def long_sinc(signal: Signal, rate: int, instants: Signal, crossings: int = 4000) -> Signal:
    """The signal at some instants (seconds), by a Kaiser-windowed sinc forty times as long, in float64."""
    cutoff = min(1.0, WANTED / rate)
    values = []
    for instant in instants:
        distance = (np.arange(len(signal)) - instant * rate) * cutoff
        near = signal[np.abs(distance) < crossings]
        distance = distance[np.abs(distance) < crossings]
        window = np.i0(14 * np.sqrt(1 - (distance / crossings) ** 2)) / np.i0(14)
        values.append((near * np.sinc(distance) * window * cutoff).sum())
    return np.array(values)


def decibels(error: Signal, reference: Signal) -> float:
    return float(10 * np.log10(np.mean(error**2) / np.mean(reference**2)))


def one(windows: list[Window]) -> torch.Tensor:
    assert len(windows) == 1
    return windows[0].waveform


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 48_000, 96_000, 44_099, 11_127])
def test_resampling_is_within_100_db_of_a_long_sinc_up_to_94_percent_of_the_band(rate: int) -> None:
    signal = noise(rate, 0, 0.94 * min(rate, WANTED) / 2)
    made = resampled(torch.from_numpy(signal).float()[None], rate, WANTED)[0].double().numpy()
    assert len(made) == 2 * WANTED
    some = np.linspace(0.3 * len(made), 0.7 * len(made), 200).astype(int)
    truth = long_sinc(signal, rate, some / WANTED)
    assert decibels(made[some] - truth, truth) < -100


@pytest.mark.parametrize("rate", [48_000, 96_000])
def test_what_lies_above_the_new_band_does_not_fold_into_it(rate: int) -> None:
    signal = noise(rate, 1.01 * WANTED / 2, 0.98 * rate / 2)
    made = resampled(torch.from_numpy(signal).float()[None], rate, WANTED)[0].double().numpy()
    assert decibels(made[2000:-2000], signal) < -100


def test_equal_rates_change_nothing() -> None:
    waveform = torch.randn(1, 100)
    assert resampled(waveform, WANTED, WANTED) is waveform


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_a_stream_is_resampled_as_the_whole_would_be(tmp_path: Path, rate: int) -> None:
    signal = np.random.default_rng(1).uniform(-0.5, 0.5, 21 * rate)
    path = tmp_path / "noise.wav"
    soundfile.write(path, signal, rate, subtype="FLOAT")
    whole = resampled(torch.from_numpy(signal).float()[None], rate, WANTED)
    streamed = one(list(windows_of(path, WANTED, window_s=None)))
    assert streamed.shape == whole.shape
    torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0)


def test_a_long_sound_is_cut_into_windows_and_the_last_reaches_back() -> None:
    sound = torch.arange(25 * 100, dtype=torch.float32)[None] / 2500
    windows = list(windows_of((sound, 100), 100, window_s=10.0))
    assert [(window.start, window.end) for window in windows] == [(0, 10), (10, 20), (15, 25)]
    for window in windows:
        assert torch.equal(window.waveform, sound[:, int(100 * window.start) : int(100 * window.end)])


@pytest.mark.parametrize("seconds", [0.01, 9.99, 10.0])
def test_a_sound_no_longer_than_a_window_is_one_window(seconds: float) -> None:
    windows = list(windows_of((torch.rand(1, round(100 * seconds)), 100), 100, window_s=10.0))
    assert [(window.start, window.end) for window in windows] == [(0, seconds)]


def test_a_whole_number_of_windows_leaves_no_rest() -> None:
    windows = windows_of((torch.rand(1, 2000), 100), 100, window_s=10.0)
    assert [window.start for window in windows] == [0, 10]


def test_channels_are_averaged_unless_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "eight.wav"
    soundfile.write(path, np.tile(np.arange(8) / 8, (100, 1)), WANTED, subtype="FLOAT")
    torch.testing.assert_close(one(list(windows_of(path, WANTED))), torch.full((1, 100), 3.5 / 8))
    assert one(list(windows_of(path, WANTED, mono=False))).shape == (8, 100)


def test_a_vector_of_samples_is_one_channel() -> None:
    assert one(list(windows_of((np.zeros(5), WANTED), WANTED))).shape == (1, 5)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
        (torch.tensor([[float("-inf")]]), "NaN or infinite"),
        (torch.tensor([[32767.0]]), "divide int16 by 32768"),
        (torch.zeros(1, 0), "holds no samples"),
    ],
)
def test_a_sound_that_cannot_be_meant_is_refused(sound: torch.Tensor, message: str) -> None:
    with pytest.raises(SoundError, match=message):
        list(windows_of((sound, WANTED), WANTED))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(5), r"shape \(5,\); expected \(batch, channels, samples\)"),
        (torch.zeros(1, 1, 0), "none zero"),
        (torch.zeros(1, 1, 5, dtype=torch.int16), "divide int16 samples by 32768"),
        (torch.full((1, 1, 5), 20_000.0), "amplitude of 20000"),
    ],
)
def test_a_waveform_that_cannot_be_meant_is_refused(waveform: torch.Tensor, message: str) -> None:
    with pytest.raises(SoundError, match=message):
        checked_waveform(waveform)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(SoundError, match="sample rate of 0 Hz"):
        resampled(torch.zeros(1, 5), 0, WANTED)
