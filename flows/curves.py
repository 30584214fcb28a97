"""Learning curves of runs, drawn as SVG: in one HTML page, or one file that any program shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.page import Markup, facts, tag, write_page
from shards.whole_file import appearing
from trainer.report_charts import Scale, round_values, scale_of, thinned

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 34
MOST_POINTS = 300  # of a line; more are averaged
ROOM = 0.04  # of a chart's range, beside the lines
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#9b2c2c", "#6b46c1", "#b7791f", "#0f766e", "#be185d")
STYLE = """
svg.chart { max-width: 100%; height: auto; }
svg.chart text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One measure over the steps, a line for each run."""

    title: str
    lines: Mapping[str, Points]  # by the run's name: (step, value), in the order of steps


def write_curves(target: Path, charts: Sequence[Chart], *, title: str) -> None:
    """`target` by its suffix: .html or .svg. Raises ValueError for another."""
    if target.suffix == ".html":
        names = list(dict.fromkeys(name for chart in charts for name in chart.lines))
        key = facts({name: tag("span", "■", style=f"color: {_colour(names, name)}") for name in names})
        drawn = (tag("div", _drawn(chart, names), class_="card") for chart in charts)
        write_page(target, key, tag("div", *drawn, class_="grid"), title=title, style=STYLE)
    elif target.suffix == ".svg":
        _write_svg(target, charts)
    else:
        raise ValueError(f"--plot {target}: expected a name that ends in .html or .svg")


def _write_svg(target: Path, charts: Sequence[Chart]) -> None:
    names = list(dict.fromkeys(name for chart in charts for name in chart.lines))
    parts = [_drawn(chart, names, y=index * HEIGHT).text for index, chart in enumerate(charts)]
    height = HEIGHT * max(len(charts), 1)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    style = "<style>text { font: 12px system-ui, sans-serif; fill: #1d1f24; }</style>"
    with appearing(target) as partial:
        partial.write_text(f"{head}{style}{ground}{''.join(parts)}</svg>\n", encoding="utf-8")


def _drawn(chart: Chart, names: Sequence[str], *, y: int = 0) -> Markup:
    lines = {name: thinned(points, MOST_POINTS) for name, points in chart.lines.items()}
    points = [point for line in lines.values() for point in line]
    across = scale_of([step for step, _ in points], LEFT, WIDTH - RIGHT, room=ROOM)
    up = scale_of([value for _, value in points], HEIGHT - BOTTOM, TOP, room=ROOM)
    drawn = [_line(line, across, up, _colour(names, name), name) for name, line in lines.items()]
    box = f"0 0 {WIDTH} {HEIGHT}"
    head = tag("text", chart.title, x=LEFT, y=20, font_weight="bold")
    marks = [*_ticks_up(up), *_ticks_across(across)]
    return tag(
        "svg", head, *marks, *drawn, viewBox=box, width=WIDTH, height=HEIGHT, y=y, class_="chart", role="img"
    )


def _line(line: Points, across: Scale, up: Scale, colour: str, name: str) -> Markup:
    path = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in line)
    return tag(
        "polyline",
        tag("title", name),
        points=path,
        fill="none",
        stroke=colour,
        stroke_width=1.6,
        stroke_linejoin="round",
    )


def _ticks_up(up: Scale) -> list[Markup]:
    found = []
    for value in round_values(up.low, up.high):
        y = f"{up(value):.1f}"
        ends = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke="currentColor", stroke_opacity=0.15)
        found.append(ends)
        found.append(tag("text", f"{value:g}", x=LEFT - 8, y=y, text_anchor="end", dy="0.35em"))
    return found


def _ticks_across(across: Scale) -> list[Markup]:
    return [
        tag("text", f"{value:g}", x=f"{across(value):.1f}", y=HEIGHT - 12, text_anchor="middle")
        for value in round_values(across.low, across.high)
    ]


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[list(names).index(name) % len(COLOURS)]
