"""`trichord crossval`: official folds, one after another, and what they come to."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import Exit, fail
from flows.tables import show_table

if TYPE_CHECKING:
    from trainer.crossval import CrossvalResult, FoldResult, Summary
    from trainer.run_request import Outcome

_SHOWN = "classification/"  # of what an encoder is measured by: all of it is in crossval.json

# torch takes seconds to import: a command imports the trainer when it runs, so that --help answers at once


def crossval(
    recipe: Annotated[str, typer.Argument(help="A name, or FILE.py:NAME.", metavar="RECIPE")],
    data: Annotated[
        str, typer.Option("--data", help="Shards whose splits are folds: a folder, or s3://bucket/prefix.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder with a run for each fold [default: runs/crossval-RECIPE-DATA]."),
    ] = None,
    start_run: Annotated[
        str,
        typer.Option("--from", help="Every fold starts from this run or weights file.", metavar="RUN"),
    ] = "",
    folds: Annotated[
        str, typer.Option("--folds", help="Which are judged, such as 1,2 [default: all].", metavar="NUMBERS")
    ] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Another value, as for train.", metavar="PATH=VALUE")
    ] = None,
    select_on_test: Annotated[
        bool,
        typer.Option(
            "--select-on-test",
            help="Best epoch by the judged fold, as often published; every number's name says so.",
        ),
    ] = False,
    seconds: Annotated[
        float,
        typer.Option("--seconds", help="Of sound that is heard when judging [default: the recipe's]."),
    ] = 0.0,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """For each official fold: train on the others, judge on it. Mean and spread over folds.

    Examples:

        trichord crossval audioclip.finetune_esc50 --from runs/a3 --data data/esc50

        trichord crossval debug.finetune_esc50_standalone --data data/esc50 --out runs/toy --folds 1,2

    The last epoch counts: the judged fold chooses nothing, unless --select-on-test. Killed or stopped, the
    same command goes on; a finished fold is not trained again. Numbers go to RUN/crossval.json and
    RUN/results.jsonl.

    Exit code 0: all folds are judged; 2: something given is wrong; 3: a run had to stop, and says why; 75:
    asked to stop, saved; 130: interrupted, saved.
    """
    from trainer.crossval import CrossvalRequest, cross_validate
    from trainer.run_request import RunError

    try:
        request = CrossvalRequest(
            recipe=recipe,
            data=data,
            out=out or _default_out(recipe, data),
            start_run=start_run,
            folds=_numbers(folds),
            overrides=tuple(overrides or ()),
            select_on_test=select_on_test,
            seconds=seconds,
            device=device,
        )
        result = cross_validate(request, say=lambda line: typer.echo(line, err=True))
    except RunError as error:
        raise fail(error, Exit(int(error.code))) from None
    if result.left or result.folds:
        _show(result, as_json=as_json)
    raise typer.Exit(_code(result.outcome))


def _default_out(recipe: str, data: str) -> Path:
    name = recipe.rpartition("/")[-1].replace(":", "-")
    return Path("runs") / f"crossval-{name}-{data.rstrip('/').rpartition('/')[-1]}"


def _numbers(folds: str) -> tuple[int, ...]:
    try:
        return tuple(int(word.removeprefix("fold")) for word in folds.split(",") if word.strip())
    except ValueError:
        raise fail(f"--folds is {folds!r}; expected numbers with commas between, such as 1,2") from None


def _code(outcome: "Outcome") -> int:
    from trainer.run_request import RunResult

    return int(RunResult(outcome=outcome, out=Path(), step=0).exit_code)


def _show(result: "CrossvalResult", *, as_json: bool) -> None:
    if as_json:
        return typer.echo(json.dumps(json.loads((result.out / "crossval.json").read_text()), indent=2))
    metrics = [name for name in result.folds[0].values if name.startswith(_SHOWN)]
    rows = [_fold_row(fold, metrics) for fold in result.folds]
    means = [summary for summary in result.summaries if summary.metric.startswith(_SHOWN)]
    show_table(("fold", "n", *metrics), [*rows, _mean_row(means)])
    if result.left:
        typer.echo(f"not judged: {', '.join(result.left)}; the mean is over the others")
    if result.partial:
        typer.echo(f"the data set is partial: {result.partial}")
    typer.echo(f"in percent; ± is the standard deviation over folds; everything is in {result.out}", err=True)


def _fold_row(fold: "FoldResult", metrics: list[str]) -> tuple[str, ...]:
    return (fold.fold, str(fold.n), *(_value(fold.values[name]) for name in metrics))


def _mean_row(summaries: "list[Summary]") -> tuple[str, ...]:
    cells = (
        _value(each.mean) + ("" if each.spread is None else f" ± {_value(each.spread)}") for each in summaries
    )
    return ("mean", str(summaries[0].n), *cells)


def _value(value: float) -> str:
    return f"{100 * value:.2f}"
