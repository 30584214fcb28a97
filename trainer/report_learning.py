"""How a run learned: its loss, its pace and what it measured on the way, as charts of a page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from shards.page import Content, Markup, tag
from trainer.report_charts import Curve, curves_figure

SHOWN_CURVES = 8  # in one picture
FIRST_MEASURES = ("accuracy", "mAP", "R@1", "R@10", "MRR")  # of those that were evaluated on the way

Curves = Mapping[str, Sequence[tuple[float, float]]]  # by measure: (step, value)
_Pictures = Iterator[tuple[str, list[Curve]]]  # title, what is drawn


def learning_section(curves: Curves, unit: float) -> Iterator[Content]:
    """All that was logged, by measure; `unit` is how many steps make an epoch, 0 where nobody knows."""
    if not curves:
        yield tag("p", "Nothing is logged yet.", class_="soft")
        return
    yield tag("div", *_figures(unit, _training_pictures(curves)), class_="curves")
    evaluated = [name for name in curves if not name.startswith(("train/", "speed/"))]
    if not evaluated:
        yield tag("p", "The stage evaluates nothing while it learns: --set evaluations=…", class_="soft")
        return
    first = [name for name in evaluated if name.rsplit("/", 1)[-1] in FIRST_MEASURES]
    yield tag("h3", "On dev")
    yield tag("div", *_figures(unit, _dev_pictures(curves, first or evaluated)), class_="curves")
    if rest := [name for name in evaluated if first and name not in first]:
        pictures = tag("div", *_figures(unit, _dev_pictures(curves, rest)), class_="curves")
        yield tag("details", tag("summary", f"{len(rest)} more measures on dev"), pictures)


def _figures(unit: float, pictures: _Pictures) -> Iterator[Markup]:
    """Over epochs where it is known how many steps make one."""
    for title, curves in pictures:
        scaled = [
            Curve(name=curve.name, points=_over(curve.points, unit), floor=_over(curve.floor, unit))
            for curve in curves
        ]
        yield curves_figure(title, scaled, across="epoch" if unit else "step")


def _over(points: Sequence[tuple[float, float]], unit: float) -> list[tuple[float, float]]:
    return [(step / unit if unit else step, value) for step, value in points]


def _training_pictures(curves: Curves) -> _Pictures:
    if "train/loss" in curves:
        yield "loss", [Curve(name="", points=curves["train/loss"])]
    for name, points in curves.items():
        if name.startswith("train/loss/"):
            term = name.removeprefix("train/loss/")
            floor = curves.get(f"train/floor/{term}", ())
            low = floor if any(value > 0 for _, value in floor) else ()
            yield f"loss: {term}", [Curve(name="", points=points, floor=low)]
    scales = [name for name in curves if name.startswith("train/scale/")]
    if scales:
        yield (
            "scales",
            [Curve(name=name.removeprefix("train/scale/"), points=curves[name]) for name in scales],
        )
    for name, title in _SINGLE.items():
        if any(value for _, value in curves.get(name, ())):
            yield title, [Curve(name="", points=curves[name])]


_SINGLE = {
    "train/lr": "learning rate",
    "train/gradient_norm": "gradient norm",
    "speed/samples_per_s": "samples per second",
    "speed/waited_share": "share of time spent waiting for data",
    "speed/samples_replaced": "samples that did not decode",
}


def _dev_pictures(curves: Curves, names: Iterable[str]) -> _Pictures:
    """A picture for each group and measure, a curve for each subject."""
    together: dict[tuple[str, str], list[Curve]] = {}
    for name in names:
        group, _, rest = name.partition("/")
        subject, _, measure = rest.rpartition("/")
        curve = Curve(name=subject.replace("_to_", " → "), points=curves[name])
        together.setdefault((group, measure), []).append(curve)
    for (group, measure), found in together.items():
        for at in range(0, len(found), SHOWN_CURVES):
            yield f"{group.replace('_', '-')}: {measure}", found[at : at + SHOWN_CURVES]
