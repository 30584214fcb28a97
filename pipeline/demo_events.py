"""A dozen of AudioSet's classes as events that are drawn and synthesised: what is heard can be seen."""

import colorsys
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import demo_pictures as pictures
from pipeline import demo_script as script_of
from pipeline import demo_sounds as sounds
from pipeline.demo_canvas import Canvas, Colour, Plane, gradient, mix
from pipeline.demo_script import Rhythm, Script

WINDOW_S = 10.0
FLOOR = 0.84  # where the ground begins, in picture heights from the top

Curve = NDArray[np.float64]
Performed = Callable[[Script, np.random.Generator, Curve, int], Curve]  # (…, times, rate) → (T,) sound


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A class and how it is performed."""

    mid: str
    name: str
    draw: Callable[[Canvas, Script, float], None]
    perform: Performed
    rhythm: Rhythm = script_of.none
    period: tuple[float, float] = (1.0, 2.0)  # seconds, the shortest and the longest
    dark: bool = False  # happens under a dark sky
    aloft: bool = False  # does not stand on the ground


def _struck(strike: sounds.Strike, pitch: float = 1.0) -> Performed:
    """The sum of what each hit sounds like."""

    def perform(script: Script, rng: np.random.Generator, times: Curve, rate: int) -> Curve:
        total = np.zeros(len(times))
        for hit in script.hits:
            sound = strike(pitch * script.pitch * hit.pitch, rng, rate) * hit.strength
            _add(total, sound, round(hit.at * rate))
        return total

    return perform


def _whistled(script: Script, rng: np.random.Generator, times: Curve, rate: int) -> Curve:
    total = np.zeros(len(times))
    for hit in script.hits:
        sound = sounds.whistle(1000 * script.pitch * hit.pitch, rng, rate, hit.seconds)
        _add(total, sound, round(hit.at * rate))
    return total


def _siren(script: Script, rng: np.random.Generator, times: Curve, rate: int) -> Curve:
    return sounds.siren(script.pitch * (520 + 620 * script_of.sweep(script, times)), rate)


def _rain(script: Script, rng: np.random.Generator, times: Curve, rate: int) -> Curve:
    return sounds.rain(script_of.gust(script, times), rng, rate)


def _engine(script: Script, rng: np.random.Generator, times: Curve, rate: int) -> Curve:
    return sounds.engine(script.pitch * (32 + 95 * script_of.throttle(script, times)), rng, rate)


def _add(total: Curve, sound: Curve, start: int) -> None:
    part = total[start : start + len(sound)]
    part += sound[: len(part)]


EVENTS = (
    Event(
        mid="/m/0bt9lr",
        name="Dog",
        draw=pictures.dog,
        perform=_struck(sounds.bark),
        rhythm=script_of.bursts,
        period=(0.32, 0.5),
    ),
    Event(
        mid="/m/0395lw",
        name="Bell",
        draw=pictures.bell,
        perform=_struck(sounds.bell, 560),
        rhythm=script_of.steady,
        period=(0.7, 1.2),
        aloft=True,
    ),
    Event(
        mid="/m/03kmc9",
        name="Siren",
        draw=pictures.siren,
        perform=_siren,
        period=(0.6, 3.0),
        dark=True,
    ),
    Event(mid="/m/06mb1", name="Rain", draw=pictures.rain, perform=_rain, dark=True, aloft=True),
    Event(
        mid="/m/07qjznt",
        name="Tick",
        draw=pictures.tick,
        perform=_struck(sounds.tick),
        rhythm=script_of.steady,
        period=(0.35, 1.0),
        aloft=True,
    ),
    Event(
        mid="/m/07pp8cl",
        name="Telephone bell ringing",
        draw=pictures.telephone,
        perform=_struck(sounds.telephone),
        rhythm=script_of.rings,
        period=(1.7, 2.6),
    ),
    Event(mid="/m/02mk9", name="Engine", draw=pictures.engine, perform=_engine),
    Event(
        mid="/m/015p6",
        name="Bird",
        draw=pictures.bird,
        perform=_struck(sounds.chirp),
        rhythm=script_of.bursts,
        period=(0.16, 0.28),
        aloft=True,
    ),
    Event(
        mid="/m/026t6",
        name="Drum",
        draw=pictures.drum,
        perform=_struck(sounds.drum),
        rhythm=script_of.pattern,
        period=(0.18, 0.32),
    ),
    Event(
        mid="/m/01w250",
        name="Whistling",
        draw=pictures.whistling,
        perform=_whistled,
        rhythm=script_of.melody,
        period=(0.22, 0.45),
    ),
    Event(
        mid="/m/0ngt1",
        name="Thunder",
        draw=pictures.thunder,
        perform=_struck(sounds.thunder),
        rhythm=script_of.strikes,
        dark=True,
        aloft=True,
    ),
    Event(
        mid="/m/018w8",
        name="Basketball bounce",
        draw=pictures.bounce,
        perform=_struck(sounds.bounce),
        rhythm=script_of.steady,
        period=(0.45, 0.8),
    ),
)
BY_MID = {event.mid: event for event in EVENTS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One or two events at one place; the seed decides everything else about it."""

    events: tuple[Event, ...]
    seed: int
    seconds: float = WINDOW_S


@dataclass(frozen=True, kw_only=True, slots=True)
class _Staged:
    """A scene with its scripts written and its places taken."""

    scripts: tuple[Script, ...]
    places: tuple[tuple[float, float, float], ...]  # (x, y, half size) in picture heights
    sky: Colour
    ground: Colour
    loudness: tuple[float, ...]
    noise: float  # RMS of what is always heard


def seed_of(ytid: str) -> int:
    """The same on every machine."""
    return int.from_bytes(hashlib.sha256(ytid.encode()).digest()[:6], "big")


@functools.lru_cache(maxsize=64)
def _staged(scene: Scene) -> _Staged:
    rng = np.random.default_rng(scene.seed)
    dark = any(event.dark for event in scene.events)
    sky = colorsys.hsv_to_rgb(
        rng.random(), rng.uniform(0.12, 0.4), rng.uniform(0.2, 0.34) if dark else rng.uniform(0.75, 0.95)
    )
    return _Staged(
        scripts=tuple(
            script_of.write_script(event.rhythm, event.period, scene.seed + number, scene.seconds)
            for number, event in enumerate(scene.events)
        ),
        places=tuple(
            _place(event, number, len(scene.events), rng) for number, event in enumerate(scene.events)
        ),
        sky=sky,
        ground=mix(sky, colorsys.hsv_to_rgb(rng.random(), 0.35, 0.3), rng.uniform(0.4, 0.8)),
        loudness=tuple(float(10 ** (rng.uniform(-9, -3) / 20)) for _ in scene.events),
        noise=float(10 ** (rng.uniform(-56, -40) / 20)),
    )


def _place(event: Event, number: int, count: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Alone near the middle, or side by side; on the ground, which begins at FLOOR, or above it."""
    x = 2 / 3 + rng.uniform(-0.14, 0.14) if count == 1 else 0.36 + 0.62 * number + rng.uniform(-0.03, 0.03)
    half = rng.uniform(0.3, 0.38) if count == 1 else rng.uniform(0.23, 0.27)
    y = rng.uniform(0.42, 0.5) if event.aloft else FLOOR + rng.uniform(0.02, 0.06) - 0.85 * half
    return x, y, half


def render_audio(scene: Scene, rate: int) -> NDArray[np.float32]:
    """(T,) sound of the whole scene in [-1, 1] at `rate` hertz; the same scene gives the same samples."""
    staged = _staged(scene)
    rng = np.random.default_rng([scene.seed, 1])
    times = sounds.clock(scene.seconds, rate)
    total = sounds.noise(len(times), rng, rate, 50, 9000, -1) * staged.noise
    for event, script, loudness in zip(scene.events, staged.scripts, staged.loudness, strict=True):
        performed = event.perform(script, rng, times, rate)
        total += loudness * performed / max(1e-3, float(np.abs(performed).max()))
    return np.clip(total, -1, 1).astype(np.float32)


def render_frame(scene: Scene, t: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) picture `t` seconds into the scene; `size` is (width, height)."""
    width, height = size
    staged = _staged(scene)
    pixels = _background(staged.sky, staged.ground, height, width).copy()
    for event, script, (x, y, half) in zip(scene.events, staged.scripts, staged.places, strict=True):
        event.draw(Canvas(pixels=pixels, x=x * height, y=y * height, scale=half * height), script, t)
    return np.clip(pixels * 255, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _background(sky: Colour, ground: Colour, height: int, width: int) -> Plane:
    pixels = gradient(height, width, mix(sky, (1.0, 1.0, 1.0), 0.15), sky)
    floor = round(height * FLOOR)
    pixels[floor:] = gradient(height - floor, width, ground, mix(ground, (0.0, 0.0, 0.0), 0.3))
    return pixels


def onsets(scene: Scene) -> Sequence[tuple[float, ...]]:
    """When each event's hits are heard and seen, in seconds; empty for one that never stops."""
    return [tuple(hit.at for hit in script.hits) for script in _staged(scene).scripts]
