"""Pictures of numbers as inline SVG: learning curves, a confusion matrix, values with their intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.page import Markup, join, tag

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 190  # of a chart of curves, in its own units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
MOST_POINTS = 150  # of a curve; more are averaged
TICKS = 5
COLOURS = 8
NUMBERED = 15  # classes, up to which each cell of a matrix shows its number
BAR = 180  # the width of a bar for 1

STYLE = """
:root { --c0: #2a78d6; --c1: #d9601f; --c2: #12915f; --c3: #b98000; --c4: #cc4f86; --c5: #3f7d12;
  --c6: #5b49bd; --c7: #d13f3e; --heat: 42, 120, 214; --good: #12804f; --bad: #c23934; }
@media (prefers-color-scheme: dark) {
  :root { --c0: #58a2ea; --c1: #e9824c; --c2: #35b283; --c3: #d4a12a; --c4: #e07ba6; --c5: #7cb34a;
    --c6: #9d92ee; --c7: #ec7070; --heat: 110, 172, 240; --good: #4dbb86; --bad: #ee7c77; } }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem .9rem; align-items: baseline; margin: 0 0 .5rem;
  font-size: .82rem; font-variant-numeric: tabular-nums; }
figcaption b { font-size: .95rem; }
.curves { display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.key { color: var(--soft); white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: .9em; height: 0; margin-right: .4em;
  vertical-align: .25em; border-top: 3px solid var(--line); }
.key.dashed::before { border-top-style: dotted; }
.rule { stroke: var(--line); }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.curve.dashed { stroke-dasharray: 2 4; stroke-width: 1.5; }
.dot { fill: var(--ink); fill-opacity: 0; }
.dot:hover { fill-opacity: .8; }
.matrix text.class { fill: var(--ink); }
.matrix text.count { fill: var(--ink); font-size: 10px; text-anchor: middle; }
.matrix .ground { fill: none; stroke: var(--line); }
.matrix .hit { fill: rgb(var(--heat)); }
.matrix .miss { fill: var(--c1); }
.matrix rect:hover { stroke: var(--ink); }
.bar .track { fill: var(--line); fill-opacity: .55; }
.bar .value { fill: var(--c0); fill-opacity: .55; }
.bar.ours .value { fill: var(--c1); fill-opacity: .9; }
.bar .whisker { stroke: var(--ink); stroke-width: 1.5; }
""" + "".join(
    f".s{n} {{ stroke: var(--c{n}); }} .key.s{n}::before {{ border-color: var(--c{n}); }}\n"
    for n in range(COLOURS)
)


# -------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One value as it went."""

    name: str
    points: Points
    floor: Points = ()  # what it cannot fall below, drawn dashed


def curves_figure(title: str, curves: Sequence[Curve], *, across: str) -> Markup:
    """Curves over one axis, with their last values; each point tells its value to who points at it."""
    drawn = [_thin(curve) for curve in curves]
    points = [point for curve in drawn for point in (*curve.points, *curve.floor)]
    along = scale_of([x for x, _ in points], LEFT, WIDTH - RIGHT, room=0.0)
    up = scale_of([y for _, y in points], HEIGHT - BOTTOM, TOP, room=0.06)
    lines = [mark for n, curve in enumerate(drawn) for mark in _marks(curve, n, along, up, across)]
    picture = tag(
        "svg",
        *_rules(along, up, across),
        *lines,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title} over {across}",
    )
    return tag("figure", tag("figcaption", tag("b", title), *_keys(drawn)), picture, class_="card")


def _thin(curve: Curve) -> Curve:
    return Curve(name=curve.name, points=thinned(curve.points), floor=thinned(curve.floor))


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most`: each is the mean of as many neighbours. What is no number is left out."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = math.ceil(len(finite) / most) or 1
    groups = [finite[at : at + size] for at in range(0, len(finite), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _keys(curves: Sequence[Curve]) -> Iterator[Markup]:
    for n, curve in enumerate(curves):
        last = curve.points[-1][1] if curve.points else math.nan
        yield tag("span", f"{curve.name} {brief(last)}".strip(), class_=f"key s{n % COLOURS}")
        if curve.floor:
            yield tag("span", f"floor {brief(curve.floor[-1][1])}", class_=f"key dashed s{n % COLOURS}")


def _marks(curve: Curve, n: int, along: "Scale", up: "Scale", across: str) -> Iterator[Markup]:
    for points, dashed in ((curve.floor, " dashed"), (curve.points, "")):
        if points:
            path = " ".join(f"{along(x):.1f},{up(y):.1f}" for x, y in points)
            yield tag("polyline", points=path, class_=f"curve s{n % COLOURS}{dashed}")
    for x, y in curve.points:
        told = tag("title", f"{curve.name or 'value'} {brief(y)} at {across} {brief(x)}")
        yield tag("circle", told, cx=f"{along(x):.1f}", cy=f"{up(y):.1f}", r=5, class_="dot")


def brief(value: float) -> str:
    """Four digits, as short as they go."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


# ---------------------------------------------------------------------------------------------- axes


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """From values to places in the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def scale_of(values: Sequence[float], start: float, end: float, *, room: float) -> Scale:
    """One that holds all values, and `room` of their range on either side."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high == low:
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    margin = (high - low) * room
    return Scale(low=low - margin, high=high + margin, start=start, end=end)


def round_values(low: float, high: float) -> list[float]:
    """A few values between the two that are easy to read."""
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def _rules(along: Scale, up: Scale, across: str) -> Iterator[Markup]:
    for value in round_values(up.low, up.high):
        y = f"{up(value):.1f}"
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule")
        yield tag("text", brief(value), x=LEFT - 6, y=y, dy="0.35em", text_anchor="end")
    places = round_values(along.low, along.high)
    for value in places:
        x = f"{along(value):.1f}"
        edge = along(value) > WIDTH - RIGHT - 60
        if not edge:  # the axis' own name stands there
            yield tag("text", brief(value), x=x, y=HEIGHT - 7, text_anchor="middle")
    yield tag("text", across, x=WIDTH - RIGHT, y=HEIGHT - 7, text_anchor="end")


# ------------------------------------------------------------------------------------------ confusion


def confusion_figure(counts: NDArray[np.int64], names: Sequence[str]) -> Markup:
    """(K, K) items of each class (down) by the class that they were taken for (across)."""
    side = 26 if len(names) <= NUMBERED else 14
    longest = max(map(len, names), default=1)
    left = top = 16 + round(5.6 * min(longest, 28))
    edge = side * len(names)
    marks = [
        tag("rect", x=left, y=top, width=edge, height=edge, class_="ground"),
        *_names_of_classes(names, side, left, top),
        *(
            mark
            for row, column in zip(*np.nonzero(counts), strict=True)
            for mark in _cell(counts, names, int(row), int(column), side, left, top)
        ),
    ]
    return tag(
        "svg",
        *marks,
        viewBox=f"0 0 {left + edge + 8} {top + edge + 8}",
        width=left + edge + 8,
        role="img",
        aria_label="which classes were taken for which",
        class_="matrix",
    )


def _names_of_classes(names: Sequence[str], side: int, left: int, top: int) -> Iterator[Markup]:
    for place, name in enumerate(names):
        middle = (place + 0.5) * side
        short = name if len(name) <= 28 else name[:27] + "…"
        yield tag("text", short, x=left - 6, y=top + middle, dy="0.35em", text_anchor="end", class_="class")
        yield tag(
            "text",
            short,
            transform=f"translate({left + middle:.0f} {top - 6}) rotate(-90)",
            dy="0.35em",
            class_="class",
        )


def _cell(
    counts: NDArray[np.int64], names: Sequence[str], row: int, column: int, side: int, left: int, top: int
) -> Iterator[Markup]:
    count, of = int(counts[row, column]), int(counts[row].sum())
    told = tag("title", f"{names[row]}, taken for {names[column]}: {count:,} of {of:,}")
    x, y = left + column * side, top + row * side
    shade = 0.12 + 0.88 * count / of
    place = {"x": x + 1, "y": y + 1, "width": side - 2, "height": side - 2, "rx": 2}
    kind = "hit" if row == column else "miss"
    yield tag("rect", told, **place, fill_opacity=f"{shade:.2f}", class_=kind)
    if len(names) <= NUMBERED:
        yield tag("text", count, x=x + side / 2, y=y + side / 2, dy="0.35em", class_="count")


# ----------------------------------------------------------------------------------------------- bars


def bar(value: float, low: float | None = None, high: float | None = None, *, ours: bool = False) -> Markup:
    """A value in [0, 1] as a bar, with its interval."""
    marks = [
        tag("rect", x=0, y=3, width=BAR, height=10, rx=2, class_="track"),
        tag(
            "rect", x=0, y=3, width=f"{BAR * min(max(value, 0.0), 1.0):.1f}", height=10, rx=2, class_="value"
        ),
    ]
    if low is not None and high is not None:
        marks.append(_whisker(BAR * low, BAR * high))
    kind = "bar ours" if ours else "bar"
    return tag("svg", *marks, viewBox=f"0 0 {BAR} 16", width=BAR, height=16, class_=kind, aria_hidden="true")


def _whisker(low: float, high: float) -> Markup:
    ends: Mapping[str, float] = {"low": low, "high": high}
    across = tag("line", x1=f"{low:.1f}", x2=f"{high:.1f}", y1=8, y2=8, class_="whisker")
    caps = (tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=4, y2=12, class_="whisker") for x in ends.values())
    return join([across, *caps])
