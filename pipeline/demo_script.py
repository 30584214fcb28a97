"""What happens when in one of the demo's events: sound and picture both follow it, so they agree in time."""

import colorsys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo_canvas import Colour

NEVER = 1e6  # seconds since a hit that has not come yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One strike, bark, chirp or note."""

    at: float  # seconds from the window's start
    pitch: float = 1.0  # relative to the script's
    strength: float = 1.0
    seconds: float = 0.0  # how long it is held, where that varies


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One performance of an event: its hits, and how it differs from other performances of the same event."""

    hits: tuple[Hit, ...]
    pitch: float
    period: float  # seconds, of what repeats
    phase: float  # in [0, 1)
    colour: Colour
    accent: Colour
    seed: int

    def last(self, t: float) -> Hit | None:
        """The hit under way or just over."""
        index = bisect_right(self.hits, t, key=lambda hit: hit.at)
        return self.hits[index - 1] if index else None

    def since(self, t: float) -> float:
        """Seconds since the last hit."""
        last = self.last(t)
        return t - last.at if last else NEVER

    def until(self, t: float) -> float:
        """Seconds until the next hit."""
        index = bisect_right(self.hits, t, key=lambda hit: hit.at)
        return self.hits[index].at - t if index < len(self.hits) else NEVER

    def count(self, t: float) -> int:
        """Hits so far."""
        return bisect_right(self.hits, t, key=lambda hit: hit.at)

    def pulse(self, t: float, decay: float) -> float:
        """1 at a hit of full strength, falling by e every `decay` seconds."""
        last = self.last(t)
        return last.strength * float(np.exp(-(t - last.at) / decay)) if last else 0.0

    def held(self, t: float) -> Hit | None:
        """The note that sounds now."""
        last = self.last(t)
        return last if last and t < last.at + last.seconds else None


Curve = NDArray[np.float64]
Rhythm = Callable[[np.random.Generator, float, float], tuple[Hit, ...]]  # (generator, period, seconds) → hits


def none(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """What never stops has no hits."""
    return ()


def steady(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """One hit every `period`."""
    times = np.arange(rng.uniform(0.15, 0.9) * period + 0.1, seconds - 0.1, period)
    return tuple(Hit(at=float(at), strength=float(rng.uniform(0.8, 1))) for at in times)


def bursts(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """One to four hits, `period` apart, then a pause."""
    hits = []
    at = rng.uniform(0.1, 0.8)
    while at < seconds - 0.4:
        for _ in range(rng.integers(1, 5)):
            hits.append(Hit(at=at, pitch=rng.uniform(0.93, 1.07), strength=rng.uniform(0.7, 1)))
            at += period * rng.uniform(0.9, 1.15)
        at += rng.uniform(0.4, 1.3)
    return tuple(hit for hit in hits if hit.at < seconds - 0.3)


def pattern(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """A bar of eighths, played again and again."""
    bar = rng.random(8) < 0.6
    bar[0] = True
    first = rng.uniform(0.1, 0.5)
    steps = int((seconds - first - 0.2) / period)
    return tuple(
        Hit(
            at=first + step * period,
            strength=1.0 if step % 4 == 0 else 0.7,
            pitch=1.0 if step % 4 == 0 else 1.3,
        )
        for step in range(steps)
        if bar[step % 8]
    )


def melody(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """Notes of a pentatonic scale with breaths between."""
    scale = 2 ** (np.array([0, 2, 4, 7, 9, 12, 14]) / 12)
    hits, at, place = [], rng.uniform(0.1, 0.6), 3
    while at < seconds - 0.5:
        length = period * rng.choice((1, 1, 2))
        place = int(np.clip(place + rng.integers(-2, 3), 0, 6))
        hits.append(Hit(at=at, pitch=float(scale[place]), seconds=length * 0.92))
        at += length + (rng.uniform(0.3, 0.8) if rng.random() < 0.2 else 0)
    return tuple(hits)


def rings(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """A second of ringing every `period`."""
    times = np.arange(rng.uniform(0.1, 1.0), seconds - 0.5, period)
    return tuple(Hit(at=float(at), seconds=1.0) for at in times)


def strikes(rng: np.random.Generator, period: float, seconds: float) -> tuple[Hit, ...]:
    """Lightning: now and then, never twice within a second and a half."""
    hits, at = [], rng.uniform(0.3, 1.8)
    while at < seconds - 0.8:
        hits.append(Hit(at=at, strength=rng.uniform(0.75, 1)))
        at += rng.uniform(1.6, 3.2)
    return tuple(hits)


def sweep(script: Script, t: Curve | float) -> Curve:
    """How high a siren is, in [0, 1]."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.asarray(t) / script.period + script.phase)))


def gust(script: Script, t: Curve | float) -> Curve:
    """How hard it rains, in [0, 1]."""
    turns = np.asarray(t) / (3 * script.period) + script.phase
    return np.asarray(0.55 + 0.3 * np.sin(2 * np.pi * turns) + 0.15 * np.sin(2 * np.pi * 2.3 * turns))


def throttle(script: Script, t: Curve | float) -> Curve:
    """How fast an engine turns, in [0, 1]: idle, and a rev in every period."""
    turns = np.asarray(t) / (2 * script.period) + script.phase
    return np.asarray(0.2 + 0.8 * np.maximum(0, np.sin(2 * np.pi * turns)) ** 1.5)


def revolutions(script: Script, t: float) -> float:
    """How far a wheel has turned by then: the integral of the throttle."""
    times = np.linspace(0, max(t, 1e-3), 64)
    return float(np.trapezoid(throttle(script, times), times))


def write_script(rhythm: Rhythm, period: tuple[float, float], seed: int, seconds: float) -> Script:
    """Draw one performance; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    hue = rng.random()
    beat = rng.uniform(*period)
    return Script(
        hits=rhythm(rng, beat, seconds),
        pitch=float(2 ** rng.uniform(-0.45, 0.45)),
        period=beat,
        phase=float(rng.random()),
        colour=colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.8), rng.uniform(0.65, 0.95)),
        accent=colorsys.hsv_to_rgb((hue + rng.uniform(0.3, 0.6)) % 1, 0.7, 0.9),
        seed=seed,
    )
