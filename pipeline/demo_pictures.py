"""What the demo's events look like: one small drawing each, moved by the script that also makes the sound."""

import itertools
import math

import numpy as np

from pipeline.demo_canvas import Canvas, Colour, mix
from pipeline.demo_script import Script, gust, revolutions, sweep, throttle

BLACK: Colour = (0.08, 0.08, 0.1)
WHITE: Colour = (0.97, 0.96, 0.93)
GREY: Colour = (0.5, 0.52, 0.55)
BRASS: Colour = (0.93, 0.72, 0.25)
SKIN = ((0.98, 0.83, 0.7), (0.87, 0.66, 0.48), (0.62, 0.42, 0.28), (0.4, 0.26, 0.18))
FUR = ((0.72, 0.48, 0.25), (0.45, 0.3, 0.2), (0.86, 0.75, 0.58), (0.33, 0.32, 0.33))


def dog(canvas: Canvas, script: Script, t: float) -> None:
    """A head that jerks up and opens its mouth at every bark."""
    open_mouth = _plateau(script, t, 0.16)
    fur = FUR[script.seed % 4]
    dark = mix(fur, BLACK, 0.45)
    canvas = canvas.placed(0, -0.12 * open_mouth)
    canvas.ellipse(0, 0.95, 0.5, 0.5, fur)
    canvas.ellipse(0, 0, 0.62, 0.58, fur)
    for side in (-1, 1):
        canvas.ellipse(
            side * 0.62, -0.05 - 0.1 * open_mouth, 0.2, 0.48, dark, turn=-side * (0.25 + 0.35 * open_mouth)
        )
        canvas.ellipse(side * 0.25, -0.18, 0.1, 0.12, WHITE)
        canvas.disc(side * 0.25, -0.16, 0.065, BLACK)
    canvas.ellipse(0, 0.3 + 0.1 * open_mouth, 0.36, 0.3 + 0.1 * open_mouth, mix(fur, WHITE, 0.6))
    canvas.ellipse(0, 0.42 + 0.1 * open_mouth, 0.22, 0.03 + 0.2 * open_mouth, (0.45, 0.08, 0.1))
    if open_mouth > 0.3:
        canvas.ellipse(0, 0.5 + 0.14 * open_mouth, 0.12, 0.12 * open_mouth, (0.95, 0.45, 0.5))
    canvas.ellipse(0, 0.16, 0.14, 0.1, BLACK)
    _sound_marks(canvas.placed(0.95, 0.35), open_mouth, script.accent)


def bell(canvas: Canvas, script: Script, t: float) -> None:
    """It swings from its yoke; the clapper meets the rim at the end of each swing."""
    angle = _swing(script, t) * 0.5
    canvas.line((-0.8, -0.92), (0.8, -0.92), 0.14, (0.4, 0.26, 0.15))
    colour = mix(BRASS, script.colour, 0.2)
    clapper = _turned([(0.0, -0.9), (0.0, 0.62)], -0.15 * angle)
    canvas.line(clapper[0], clapper[1], 0.07, BLACK)
    canvas.disc(*clapper[1], 0.15, BLACK)
    outline = [(-0.16, -0.75), (0.16, -0.75), (0.34, -0.5), (0.4, 0.0), (0.52, 0.3), (0.72, 0.5)]
    outline += [(-0.72, 0.5), (-0.52, 0.3), (-0.4, 0.0), (-0.34, -0.5)]
    canvas.polygon(_turned(outline, angle), mix(colour, WHITE, 0.5 * script.pulse(t, 0.15)))
    rim = _turned([(-0.66, 0.45), (0.66, 0.45)], angle)
    canvas.line(rim[0], rim[1], 0.14, mix(colour, BLACK, 0.25))
    shine = _turned([(-0.2, -0.4), (-0.28, 0.25)], angle)
    canvas.line(shine[0], shine[1], 0.07, mix(colour, WHITE, 0.6))
    for radius in (0.95, 1.15):
        canvas.ring(
            0, 0, radius + 0.2 * min(script.since(t), 1), 0.04, script.accent, 0.7 * script.pulse(t, 0.25)
        )


def siren(canvas: Canvas, script: Script, t: float) -> None:
    """A beacon whose light is as bright as its pitch is high."""
    height = float(sweep(script, t))
    colour = ((1.0, 0.12, 0.1), (0.15, 0.35, 1.0), (1.0, 0.55, 0.05))[script.seed % 3]
    canvas.glow(0, -0.1, 0.6 + 2.2 * height, colour, 0.15 + 0.75 * height)
    beam = 2 * math.pi * t / script.period
    for side in (0, math.pi):
        reach = [
            (math.cos(beam + side + off) * 2.2, -0.1 + math.sin(beam + side + off) * 0.9)
            for off in (-0.16, 0.16)
        ]
        canvas.polygon([(0, -0.1), *reach], mix(colour, WHITE, 0.4), 0.15 + 0.3 * height)
    lamp = mix(mix(colour, BLACK, 0.55), mix(colour, WHITE, 0.35), height)
    canvas.ellipse(0, -0.05, 0.42, 0.62, lamp)
    canvas.polygon([(-0.42, -0.05), (0.42, -0.05), (0.42, 0.4), (-0.42, 0.4)], lamp)
    canvas.ellipse(-0.14, -0.3, 0.07, 0.18, WHITE, turn=0.3, alpha=0.7)
    canvas.polygon([(-0.6, 0.38), (0.6, 0.38), (0.72, 0.75), (-0.72, 0.75)], BLACK)
    canvas.line((-0.58, 0.42), (0.58, 0.42), 0.06, GREY)


def rain(canvas: Canvas, script: Script, t: float) -> None:
    """Streaks over the whole picture, more of them the harder it rains, and an umbrella."""
    hard = float(gust(script, t))
    _umbrella(canvas, script)
    rng = np.random.default_rng(script.seed)
    height, width = canvas.pixels.shape[:2]
    count = int(60 + 200 * hard)
    x, y = rng.uniform(0, width * 1.2, 260)[:count], rng.uniform(0, height, 260)[:count]
    y = (y + t * height * rng.uniform(1.6, 2.4, 260)[:count]) % (height * 1.1)
    length = round(height * (0.05 + 0.05 * hard))
    for step in range(length):
        rows, columns = (y - step).astype(int), (x - 0.25 * y + 0.25 * step).astype(int)
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        canvas.pixels[rows[seen], columns[seen]] += np.float32(0.35 * (1 - step / length))
    for _ in range(int(10 + 14 * hard)):
        age = (t * 3 + rng.random()) % 1
        canvas.ellipse(
            rng.uniform(-1.6, 1.6),
            rng.uniform(0.95, 1.15),
            0.14 * age,
            0.035 * age,
            (0.8, 0.87, 0.95),
            alpha=0.5 * (1 - age),
        )


def _umbrella(canvas: Canvas, script: Script) -> None:
    canvas.line((0, -0.1), (0, 0.75), 0.05, BLACK)
    canvas.ring(0.1, 0.75, 0.1, 0.05, BLACK)
    arch = [(math.cos(a) * 0.8, 0.05 - math.sin(a) * 0.62) for a in np.linspace(0, math.pi, 13)]
    canvas.polygon(
        [*arch, (-0.53, -0.06), (-0.27, 0.05), (0, -0.06), (0.27, 0.05), (0.53, -0.06)], script.colour
    )
    canvas.polygon([(0, -0.57), (0.27, 0.05), (0, -0.06), (-0.27, 0.05)], script.accent)
    canvas.line((0, -0.72), (0, -0.57), 0.05, BLACK)


def tick(canvas: Canvas, script: Script, t: float) -> None:
    """A clock whose red hand jumps at every tick, with a pendulum below."""
    canvas.line((0, 0.3), (0.4 * _swing(script, t), 1.12), 0.05, BRASS)
    canvas.disc(0.4 * _swing(script, t), 1.12, 0.14, BRASS)
    canvas.disc(0, -0.1, 0.86, mix(script.colour, BLACK, 0.25))
    canvas.disc(0, -0.1, 0.74, mix(WHITE, script.accent, 0.35 * script.pulse(t, 0.06)))
    for hour in range(12):
        angle = hour * math.pi / 6
        canvas.line(_hand(angle, 0.58), _hand(angle, 0.67), 0.07 if hour % 3 == 0 else 0.04, BLACK)
    canvas.line((0, -0.1), _hand(2 * math.pi * script.phase, 0.36), 0.09, BLACK)
    canvas.line((0, -0.1), _hand(2 * math.pi * 7 * script.phase, 0.54), 0.06, BLACK)
    jump = 0.25 * script.pulse(t, 0.04)
    canvas.line((0, -0.1), _hand((script.count(t) + jump) * math.pi / 15, 0.62), 0.035, (0.85, 0.1, 0.1))
    canvas.disc(0, -0.1, 0.06, (0.85, 0.1, 0.1))


def _hand(angle: float, reach: float) -> tuple[float, float]:
    return math.sin(angle) * reach, -0.1 - math.cos(angle) * reach


def telephone(canvas: Canvas, script: Script, t: float) -> None:
    """A dial telephone; the handset shakes on its cradle while it rings."""
    ringing = script.held(t) is not None
    shake = 0.06 * math.sin(2 * math.pi * 9.3 * t) if ringing else 0.0
    colour = script.colour
    canvas.polygon([(-0.35, -0.25), (0.35, -0.25), (0.85, 0.75), (-0.85, 0.75)], colour)
    canvas.line((-0.8, 0.75), (0.8, 0.75), 0.16, mix(colour, BLACK, 0.3))
    canvas.disc(0, 0.28, 0.36, mix(colour, BLACK, 0.35))
    for hole in range(10):
        angle = 0.6 + hole * 0.52
        canvas.disc(0.26 * math.cos(angle), 0.28 + 0.26 * math.sin(angle), 0.06, WHITE)
    canvas.disc(0, 0.28, 0.12, WHITE)
    handset = canvas.placed(shake, -0.5 - abs(shake) * 1.5)
    handset.line((-0.75, -0.02), (0.75, -0.02), 0.2, mix(colour, BLACK, 0.15))
    for side in (-1, 1):
        handset.ellipse(side * 0.72, 0.12, 0.22, 0.2, mix(colour, BLACK, 0.15))
        handset.ellipse(side * 0.72, 0.25, 0.2, 0.1, mix(colour, BLACK, 0.5))
        if ringing:
            for radius in (0.3, 0.48):
                canvas.ring(side * 0.95, -0.7, radius, 0.045, script.accent, 0.9)


def engine(canvas: Canvas, script: Script, t: float) -> None:
    """A car that trembles and puffs; its wheels turn with the engine."""
    speed = float(throttle(script, t))
    turned = 9 * revolutions(script, t)
    puffs = canvas
    canvas = canvas.placed(0, 0.1 + 0.02 * (0.4 + speed) * math.sin(2 * math.pi * 11 * t), 1.15)
    for puff in range(5):
        age = (t * (1 + 1.5 * speed) + puff / 5) % 1
        puffs.disc(-1.25 - 0.6 * age, 0.38 - 0.35 * age, 0.08 + 0.2 * age, GREY, 0.75 * speed * (1 - age))
    canvas.polygon(
        [(-0.6, -0.05), (-0.38, -0.45), (0.3, -0.45), (0.58, -0.05)], mix(script.colour, BLACK, 0.15)
    )
    canvas.polygon([(-0.48, -0.07), (-0.32, -0.37), (-0.06, -0.37), (-0.06, -0.07)], (0.75, 0.88, 0.95))
    canvas.polygon([(0.02, -0.07), (0.02, -0.37), (0.25, -0.37), (0.45, -0.07)], (0.75, 0.88, 0.95))
    canvas.polygon([(-1.02, -0.05), (0.85, -0.05), (1.05, 0.08), (1.05, 0.36), (-1.02, 0.36)], script.colour)
    canvas.line((-1.0, 0.36), (1.03, 0.36), 0.07, BLACK)
    canvas.disc(0.98, 0.12, 0.08, (1.0, 0.95, 0.6))
    for wheel in (-0.58, 0.6):
        canvas.disc(wheel, 0.4, 0.26, BLACK)
        canvas.disc(wheel, 0.4, 0.15, (0.8, 0.8, 0.82))
        for spoke in range(3):
            angle = turned + spoke * math.pi / 3
            dx, dy = 0.14 * math.cos(angle), 0.14 * math.sin(angle)
            canvas.line((wheel - dx, 0.4 - dy), (wheel + dx, 0.4 + dy), 0.04, BLACK)


def bird(canvas: Canvas, script: Script, t: float) -> None:
    """On a branch; the beak opens and the throat swells with every chirp."""
    song = _plateau(script, t, 0.09)
    canvas.line((-1.3, 0.75), (1.3, 0.62), 0.12, (0.38, 0.25, 0.15))
    canvas.ellipse(0.95, 0.48, 0.2, 0.1, (0.3, 0.6, 0.25), turn=-0.5)
    colour = script.colour
    canvas.polygon([(-0.4, 0.3), (-1.05, 0.62), (-0.98, 0.42), (-0.5, 0.0)], mix(colour, BLACK, 0.3))
    for leg in (-0.1, 0.12):
        canvas.line((leg, 0.5), (leg, 0.72), 0.05, (0.85, 0.5, 0.1))
    canvas.ellipse(-0.05, 0.2, 0.55, 0.42, colour, turn=-0.35)
    canvas.ellipse(0.15, 0.3, 0.3 + 0.05 * song, 0.26 + 0.05 * song, mix(colour, WHITE, 0.65))
    canvas.ellipse(-0.2, 0.15, 0.38, 0.2, mix(colour, BLACK, 0.35), turn=0.3 - 0.35 * song)
    head = canvas.placed(0.36, -0.32 - 0.08 * song)
    head.disc(0, 0, 0.34, colour)
    head.disc(0.12, -0.07, 0.075, WHITE)
    head.disc(0.14, -0.07, 0.045, BLACK)
    gape = 0.02 + 0.2 * song
    head.polygon([(0.26, -0.12), (0.68, -gape), (0.3, 0.04)], (0.98, 0.65, 0.1))
    head.polygon([(0.3, 0.02), (0.64, 0.06 + gape), (0.24, 0.14)], (0.9, 0.5, 0.05))
    _notes(canvas.placed(1.0, -0.5), script, t, song)


def drum(canvas: Canvas, script: Script, t: float) -> None:
    """Two sticks in turn; the struck skin flashes."""
    flash = script.pulse(t, 0.08)
    shell = script.colour
    canvas.polygon([(-0.75, 0.0), (0.75, 0.0), (0.7, 0.8), (-0.7, 0.8)], shell)
    canvas.ellipse(0, 0.8, 0.7, 0.2, shell)
    for lug in (-0.55, -0.2, 0.2, 0.55):
        canvas.line((lug, 0.12), (lug * 0.94, 0.88), 0.04, BRASS)
    canvas.ellipse(0, 0, 0.8, 0.27, BRASS)
    canvas.ellipse(0, 0, 0.73, 0.22, mix((0.8, 0.76, 0.68), (1, 1, 0.9), flash))
    canvas.ring(0, 0, 0.25 + 0.5 * (1 - flash), 0.04, script.accent, 0.8 * flash)
    for side in (-1, 1):
        turn = (script.count(t) % 2 == 1) == (side == 1)
        lift = min(1.0, script.since(t) / 0.12) if turn else 1.0
        if not turn:
            lift = min(1.0, script.until(t) / 0.1)
        tip = (side * 0.22, -0.04 - 0.55 * lift)
        canvas.line(tip, (side * (0.95 + 0.1 * lift), -0.55 - 0.45 * lift), 0.07, (0.85, 0.65, 0.4))
        canvas.disc(*tip, 0.08, (0.75, 0.55, 0.3))


def whistling(canvas: Canvas, script: Script, t: float) -> None:
    """A face: cheeks in and lips round while a note lasts; the notes rise with the pitch."""
    note = script.held(t)
    skin = SKIN[script.seed % 4]
    canvas.ellipse(0, 1.15, 0.75, 0.5, script.colour)
    canvas.disc(-0.62, 0.05, 0.13, skin)
    canvas.disc(0.62, 0.05, 0.13, skin)
    canvas.ellipse(0, -0.18, 0.66, 0.62, mix(script.accent, BLACK, 0.75))
    canvas.ellipse(0, 0.08, 0.58, 0.68, skin)
    raised = 0.06 if note else 0.0
    for side in (-1, 1):
        canvas.ellipse(side * 0.23, -0.05, 0.09, 0.1, WHITE)
        canvas.disc(side * 0.23, -0.04, 0.055, BLACK)
        canvas.line((side * 0.14, -0.22 - raised), (side * 0.34, -0.24 - raised), 0.045, BLACK)
    canvas.line((0, 0.05), (0.05, 0.22), 0.05, mix(skin, BLACK, 0.3))
    if note:
        canvas.disc(0, 0.46, 0.13, (0.8, 0.35, 0.35))
        canvas.disc(0, 0.46, 0.07, BLACK)
        _notes(canvas.placed(0.85, 0.45 - 0.55 * (note.pitch - 0.8)), script, t, 1.0)
    else:
        canvas.line((-0.16, 0.46), (0.16, 0.46), 0.06, (0.7, 0.3, 0.3))


def thunder(canvas: Canvas, script: Script, t: float) -> None:
    """A dark cloud; a bolt and a lit sky at every strike."""
    since = script.since(t)
    flash = script.pulse(t, 0.3) * (0.6 + 0.4 * math.cos(40 * since) if since < 0.4 else 1.0)
    if flash > 0.02:
        pixels = canvas.pixels
        pixels += np.float32(0.75 * flash) * (1 - pixels)
    if since < 0.45:
        rng = np.random.default_rng(script.seed + script.count(t))
        x, points = rng.uniform(-0.3, 0.3), []
        for y in np.linspace(0, 1.25, 7):
            points.append((x, float(y)))
            x += rng.uniform(0.08, 0.3) * (-1 if len(points) % 2 else 1)
        for start, end in itertools.pairwise(points):
            canvas.line(start, end, 0.09, (1.0, 0.95, 0.45))
    grey = mix((0.22, 0.23, 0.28), (0.75, 0.76, 0.85), 0.6 * min(1.0, flash))
    for u, v, radius in (
        (-0.75, -0.15, 0.34),
        (-0.35, -0.42, 0.42),
        (0.15, -0.5, 0.46),
        (0.6, -0.25, 0.4),
        (0.9, -0.05, 0.26),
    ):
        canvas.disc(u, v, radius, mix(grey, BLACK, 0.15 if v > -0.3 else 0.0))
    canvas.ellipse(0, -0.02, 0.95, 0.26, grey)


def bounce(canvas: Canvas, script: Script, t: float) -> None:
    """A ball that meets the floor at every hit."""
    since, until = script.since(t), script.until(t)
    period = min(since + until, 1.5)
    share = min(max(min(since, period) / period if since < until else 1 - until / period, 0.0), 1.0)
    height = 4 * share * (1 - share)
    squash = script.pulse(t, 0.04)
    canvas.ellipse(0, 1.02, 0.42 - 0.2 * height, 0.05, BLACK, alpha=0.6 - 0.4 * height)
    ball = canvas.placed(0, 0.58 - 1.25 * height)
    across, along = 0.42 * (1 + 0.18 * squash), 0.42 * (1 - 0.2 * squash)
    ball.ellipse(0, 0.42 - along, across, along, (0.93, 0.48, 0.12))
    ball = ball.placed(0, 0.42 - along)
    spin = 3 * t + script.phase
    for angle in (spin, spin + math.pi / 2):
        dx, dy = across * math.cos(angle), along * math.sin(angle)
        ball.line((-dx, -dy), (dx, dy), 0.035, BLACK)
    for side in (-1, 1):  # the curved seams: arcs on which the ball's edge ends
        arc = [_seam(spin, side, share, across, along) for share in np.linspace(-1, 1, 9)]
        for start, end in itertools.pairwise(arc):
            ball.line(start, end, 0.035, BLACK)
    ball.ring(0, 0, 0.42, 0.035, BLACK, 1 - min(1.0, 2 * squash))
    for side in (-1, 1):
        _sound_marks(canvas.placed(side * 0.55, 0.85), script.pulse(t, 0.1), script.accent, side)


def _seam(spin: float, side: int, share: float, across: float, along: float) -> tuple[float, float]:
    u, v = side * (0.45 + 0.35 * share * share), 0.6 * share
    return (
        across * (u * math.cos(spin) - v * math.sin(spin)),
        along * (u * math.sin(spin) + v * math.cos(spin)),
    )


def _swing(script: Script, t: float) -> float:
    """A pendulum that reaches an end, -1 or 1, at each hit."""
    since, until = script.since(t), script.until(t)
    side = 1 if script.count(t) % 2 else -1
    period = min(since + until, script.period)
    share = min(since, period) / period if since < until else 1 - min(until, period) / period
    return side * math.cos(math.pi * share)


def _plateau(script: Script, t: float, seconds: float) -> float:
    """1 for `seconds` after a hit, then down within half as long."""
    last = script.last(t)
    if last is None:
        return 0.0
    return last.strength * min(1.0, max(0.0, 1 - (t - last.at - seconds) / (seconds / 2)))


def _turned(points: list[tuple[float, float]], angle: float) -> list[tuple[float, float]]:
    """Turned about a pivot at the top."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return [(u * cosine - (v + 0.9) * sine, -0.9 + u * sine + (v + 0.9) * cosine) for u, v in points]


def _sound_marks(canvas: Canvas, strength: float, colour: Colour, side: int = 1) -> None:
    """Three strokes that leave a source to the right, or to the left for a side of -1."""
    if strength > 0.1:
        for slope in (-0.5, 0.0, 0.5):
            canvas.line(
                (side * 0.05, 0.1 * slope),
                (side * (0.05 + 0.3 * strength), 0.6 * slope),
                0.06,
                colour,
                strength,
            )


def _notes(canvas: Canvas, script: Script, t: float, strength: float) -> None:
    """A quaver beside the singer while it sounds."""
    if strength > 0.2:
        rise = 0.3 * min(1.0, script.since(t))
        canvas.ellipse(0.1, 0.2 - rise, 0.13, 0.1, BLACK, turn=-0.4, alpha=strength)
        canvas.line((0.21, 0.17 - rise), (0.21, -0.25 - rise), 0.05, BLACK, strength)
        canvas.line((0.21, -0.25 - rise), (0.38, -0.08 - rise), 0.06, BLACK, strength)
