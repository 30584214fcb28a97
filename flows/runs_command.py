"""`trichord runs`: runs side by side, as a table and as curves."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import fail
from flows.tables import show_table

if TYPE_CHECKING:
    from trainer.run_view import RunView

_DRAWN = ("train/loss", "train/lr", "speed/samples_per_s")  # and whatever was evaluated


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Runs, or folders of them [default: runs].", metavar="FOLDER")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the learning curves, too.", metavar="FILE.html|FILE.svg"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Draw every measure, not only accuracy, mAP and R@1.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare runs, also while they go: state, losses, the best metric, speed, data, what was changed.

    Examples:

        trichord runs

        trichord runs runs/a1 runs/a2 --plot curves.html

    A run is running, finished, preempted, interrupted or failed; silent: it said that it runs, its process is
    not here, and nothing was heard of it for ten minutes.
    """
    views = _found(folders or [Path("runs")])
    if as_json:
        typer.echo(json.dumps([_plain(view) for view in views], indent=2))
    else:
        show_table(
            ("run", "recipe", "state", "step", "loss", "best", "samples/s", "data", "changed"),
            [_row(view) for view in views],
        )
    if plot is not None:
        _draw(plot, views, every=every)


def _found(folders: Sequence[Path]) -> "list[RunView]":
    from trainer.run_view import find_runs, read_run

    paths = list(dict.fromkeys(path for folder in folders for path in find_runs(folder)))
    if not paths:
        told = ", ".join(map(str, folders))
        raise fail(
            f"no runs in {told}; expected the folder of `trichord train --out`, or one that holds such"
        )
    try:
        return [read_run(path) for path in paths]
    except ValueError as error:
        raise fail(error) from None


def _row(view: "RunView") -> tuple[str, ...]:
    best = "" if view.best is None else f"{view.best[0]} {view.best[1]:.4g}"
    return (
        str(view.path),
        view.recipe,
        view.state,
        f"{view.step:,}/{view.steps:,}",
        _number(view.loss),
        best or ", ".join(f"{name} {value:.4g}" for name, value in list(view.metrics.items())[:1]),
        _number(view.samples_per_s),
        view.data,
        " ".join(view.changes),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _plain(view: "RunView") -> dict[str, Any]:
    return {
        **{"path": str(view.path), "recipe": view.recipe, "state": view.state},
        **{"step": view.step, "steps": view.steps, "loss": view.loss},
        **{"samples_per_s": view.samples_per_s, "best": view.best, "metrics": dict(view.metrics)},
        **{"data": view.data, "changes": list(view.changes)},
    }


def _draw(plot: Path, views: "list[RunView]", *, every: bool) -> None:
    from flows.curves import Chart, write_curves

    names = dict.fromkeys(name for view in views for name in view.curves)
    measured = _evaluated if every else _telling
    drawn = [name for name in names if name in _DRAWN or name.startswith("train/loss/") or measured(name)]
    charts = [
        Chart(title=name, lines={str(view.path): view.curves[name] for view in views if name in view.curves})
        for name in sorted(drawn, key=_order)
    ]
    try:
        write_curves(plot, charts, title="Learning curves")
    except ValueError as error:
        raise fail(error) from None
    typer.echo(f"{plot}: {len(charts)} charts of {len(views)} runs", err=True)


def _telling(name: str) -> bool:
    return _evaluated(name) and name.rsplit("/", 1)[-1] in ("accuracy", "mAP", "R@1")


def _evaluated(name: str) -> bool:
    return not name.startswith(("train/", "speed/"))


def _order(name: str) -> tuple[float, str]:
    """Losses first, then what was evaluated, then the rest."""
    return (0 if name.startswith("train/loss") else math.inf if name in _DRAWN else 1), name
