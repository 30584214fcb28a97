"""What the demo's events sound like: a strike, bark, chirp or note at a time, and what never stops."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]  # (T,) in about [-1, 1]
Curve = NDArray[np.float64]


def clock(seconds: float, rate: int) -> Curve:
    return np.arange(round(seconds * rate)) / rate


def tone(frequency: Curve | float, times: Curve, rate: int, overtones: Sequence[float] = (1.0,)) -> Curve:
    """A tone whose pitch may glide; `overtones` are the strengths of its multiples."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, times.shape)) / rate
    total = sum(strength * np.sin(number * phase) for number, strength in enumerate(overtones, 1))
    return np.asarray(total / sum(abs(strength) for strength in overtones))


def noise(
    count: int, rng: np.random.Generator, rate: int, low: float, high: float, tilt: float = 0.0
) -> Curve:
    """Noise of RMS 1 between two frequencies in hertz, with soft edges; `tilt` -1 is pink, -2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(max(count, 2)))
    frequencies = np.maximum(np.fft.rfftfreq(max(count, 2), 1 / rate), 1.0)
    edges = 1 / np.sqrt((1 + (low / frequencies) ** 6) * (1 + (frequencies / high) ** 6))
    sound = np.fft.irfft(spectrum * frequencies ** (tilt / 2) * edges, max(count, 2))[:count]
    return np.asarray(sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9))


def faded(sound: Curve, rate: int, attack_s: float, release_s: float) -> Curve:
    """Without clicks at its ends."""
    rise, fall = max(1, round(attack_s * rate)), max(1, round(release_s * rate))
    sound = sound.copy()
    sound[:rise] *= np.linspace(0, 1, len(sound[:rise]))
    sound[-fall:] *= np.linspace(1, 0, len(sound[-fall:]))
    return sound


def bark(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    """`pitch` 1 is a middling dog's."""
    times = clock(0.22 / pitch**0.5, rate)
    rise = np.minimum(times / 0.03, 1)
    voice = tone(
        pitch * (260 + 240 * rise * np.exp(-times / 0.09)),
        times,
        rate,
        (0.6, 1, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2),
    )
    breath = noise(len(times), rng, rate, 500 * pitch, 3500 * pitch) * 0.25
    return faded((voice + breath) * np.exp(-times / 0.09), rate, 0.008, 0.03)


def bell(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    """`pitch` is the strike note in hertz. Its partials: hum, prime, tierce, quint, nominal, two above."""
    times = clock(1.6, rate)
    partials = (
        (0.5, 0.5, 1.6),
        (1, 0.9, 1.0),
        (1.2, 0.7, 0.8),
        (1.5, 0.4, 0.6),
        (2, 1, 0.7),
        (2.66, 0.5, 0.4),
        (4, 0.3, 0.2),
    )
    ring = sum(
        strength * np.sin(2 * np.pi * pitch * ratio * times + rng.uniform(0, 6)) * np.exp(-times / decay)
        for ratio, strength, decay in partials
    )
    return faded(np.asarray(ring) / 2.5, rate, 0.002, 0.1)


def tick(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    times = clock(0.06, rate)
    click = noise(len(times), rng, rate, 1500, 9000) * 0.5 + tone(2600 * pitch, times, rate)
    return faded(click * np.exp(-times / 0.008), rate, 0.0005, 0.01)


def telephone(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    """One second of a clapper between two gongs."""
    times = clock(1.0, rate)
    beats = 0.35 + 0.65 * np.exp(-((times * 22) % 1) / 0.35)
    gongs = tone(1250 * pitch, times, rate, (1, 0, 0.4)) + tone(1570 * pitch, times, rate, (1, 0.3))
    return faded(0.5 * gongs * beats, rate, 0.01, 0.08)


def chirp(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    times = clock(rng.uniform(0.07, 0.13), rate)
    share = times / times[-1]
    bend = rng.choice((-1.0, 1.0)) * 0.35
    sweep = pitch * 3600 * (1 + bend * (share - 0.5) + 0.04 * np.sin(2 * np.pi * 45 * times))
    return faded(tone(sweep, times, rate, (1, 0.15)) * np.sin(np.pi * share) ** 0.7, rate, 0.005, 0.01)


def drum(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    times = clock(0.4, rate)
    skin = tone(pitch * (75 + 80 * np.exp(-times / 0.04)), times, rate, (1, 0.3)) * np.exp(-times / 0.13)
    stick = noise(len(times), rng, rate, 800, 7000) * np.exp(-times / 0.012) * 0.35
    return faded(skin + stick, rate, 0.001, 0.05)


def whistle(pitch: float, rng: np.random.Generator, rate: int, seconds: float) -> Curve:
    """`pitch` in hertz."""
    times = clock(seconds, rate)
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * 5.5 * times) - 0.08 * np.exp(-times / 0.03)
    breath = noise(len(times), rng, rate, pitch * 0.8, pitch * 1.25) * 0.06
    return faded(0.7 * tone(pitch * vibrato, times, rate, (1, 0.05)) + breath, rate, 0.03, 0.06)


def thunder(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    times = clock(2.6, rate)
    crack = noise(len(times), rng, rate, 80, 6000, -1) * np.exp(-times / 0.09) * 0.5
    claps = 1 + sum(
        rng.uniform(0.3, 0.9) * np.exp(-(((times - at) / 0.12) ** 2)) for at in rng.uniform(0.2, 1.6, 4)
    )
    rumble = noise(len(times), rng, rate, 25, 260 * pitch, -1) * claps * np.exp(-times / 0.8) * 0.35
    return faded(crack + rumble, rate, 0.004, 0.3)


def bounce(pitch: float, rng: np.random.Generator, rate: int) -> Curve:
    times = clock(0.28, rate)
    thump = tone(pitch * (85 + 60 * np.exp(-times / 0.02)), times, rate, (1, 0.4)) * np.exp(-times / 0.05)
    ring = tone(pitch * 620, times, rate, (1, 0.5)) * np.exp(-times / 0.035) * 0.4
    slap = noise(len(times), rng, rate, 600, 5000) * np.exp(-times / 0.006) * 0.3
    return faded(thump + ring + slap, rate, 0.001, 0.03)


def siren(sweep: Curve, rate: int) -> Curve:
    """`sweep` is the pitch in hertz at each sample."""
    return 0.5 * tone(sweep, sweep, rate, (1, 0, 0.45, 0, 0.25, 0, 0.12))


def rain(gust: Curve, rng: np.random.Generator, rate: int) -> Curve:
    """`gust` is how hard it rains at each sample, in [0, 1]."""
    hiss = noise(len(gust), rng, rate, 600, 14000, -0.6) * 0.16 * (0.3 + gust)
    drops = np.zeros(len(gust))
    at = rng.integers(0, max(1, len(gust) - 1), int(len(gust) / rate * 60))
    drops[at] = rng.uniform(0.2, 1, len(at)) * (0.3 + gust[at])
    times = clock(0.02, rate)
    patter = np.convolve(drops, np.sin(2 * np.pi * 2300 * times) * np.exp(-times / 0.004))[: len(gust)]
    return hiss + 0.35 * patter


def engine(speed: Curve, rng: np.random.Generator, rate: int) -> Curve:
    """`speed` is the firing frequency in hertz at each sample."""
    voice = tone(speed, speed, rate, (0.8, 1, 0.7, 0.6, 0.35, 0.4, 0.2, 0.25, 0.1, 0.1))
    firing = 0.5 + 0.5 * np.sin(np.pi * np.cumsum(speed) / rate) ** 2
    return 0.75 * voice + noise(len(speed), rng, rate, 60, 2500, -1) * 0.1 * firing


Strike = Callable[[float, np.random.Generator, int], Curve]
