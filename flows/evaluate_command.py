"""Commands that give numbers: `trichord evaluate`, `trichord compare`, `trichord split freeze`."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import Exit, fail
from flows.tables import show_table
from shards.whole_file import appearing

if TYPE_CHECKING:
    from trainer.evaluation_run import EvaluationResult
    from trainer.results import Difference

# torch takes seconds to import: a command imports the trainer when it runs, so that --help answers at once

_PANEL = "Evaluation"
evaluate_app = typer.Typer(no_args_is_help=True, help="Evaluation: numbers with their definitions.")
split_app = typer.Typer(no_args_is_help=True, help="Splits: which samples, as a list that can be published.")
evaluate_app.add_typer(split_app, name="split", rich_help_panel=_PANEL)

Data = Annotated[str, typer.Option("--data", help="Folder or address of the shards.", metavar="SHARDS")]
Splits = Annotated[
    list[str] | None,
    typer.Option("--split", help="A split or fold; may be repeated. All without any.", metavar="NAME"),
]
Where = Annotated[str, typer.Option("--where", help="A condition on samples, in SQL.", metavar="SQL")]
Annotations = Annotated[
    list[str] | None,
    typer.Option("--annotation", help="A Parquet file keyed by sample; may be repeated.", metavar="FILE"),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Embed anew, also what was embedded before, and keep nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@evaluate_app.command("evaluate", rich_help_panel=_PANEL)
def evaluate(
    model: Annotated[str, typer.Argument(help="A run's folder, a weights file, or a published name.")],
    data: Data,
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="zero-shot, classification, query or linear-probe; may be repeated at no cost.",
            metavar="TASK",
        ),
    ],
    split: Splits = None,
    where: Where = "",
    only: Annotated[
        Path | None, typer.Option("--only", help="A file with a sample's key a line.", metavar="FILE")
    ] = None,
    annotation: Annotations = None,
    text: Annotated[
        str, typer.Option("--text", help="labels, or an annotation's column of captions.", metavar="COLUMN")
    ] = "labels",
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A text with {} for the class; several are averaged.", metavar="TEXT"),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A row for each class, too.")] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Of sound to hear; 0: the longest item's, at most 10.")
    ] = 0.0,
    channels: Annotated[int, typer.Option("--channels", min=1, max=2, help="Of sound to hear.")] = 1,
    stretch_amplitude: Annotated[
        bool,
        typer.Option("--stretch-amplitude", help="Each sound to the whole range, as published for US8K."),
    ] = False,
    select_on_test: Annotated[
        bool,
        typer.Option("--select-on-test", help="The model was chosen on these items: every name will say so."),
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items decoded at once.")] = 64,
    max_bad_share: Annotated[
        float, typer.Option("--max-bad-share", min=0, max=1, help="Of items that do not decode.")
    ] = 0.01,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where results.jsonl goes; without it, the run's folder.", metavar="FOLDER"
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    no_cache: NoCache = False,
    as_json: AsJson = False,
) -> None:
    """Numbers of a model on a data set, each with its interval and its denominator.

    Each is a row of `results.jsonl` with its definition and all that it depends on.

    Examples:

        trichord evaluate runs/a3 --task zero-shot --task query --data data/esc50

        trichord evaluate audioclip-full --task classification --data data/audioset --split eval
    """
    from trainer.evaluation_run import EvaluationRequest, run_evaluation
    from trainer.kept_embeddings import EmbeddingCache, cache_folder
    from trainer.measure import Draws

    result = _or_one_line(
        lambda: run_evaluation(
            EvaluationRequest(
                model=model,
                data=data,
                tasks=tuple(task),
                out=out,
                splits=tuple(split or ()),
                where=where,
                only=only,
                annotations=tuple(annotation or ()),
                text=text,
                prompts=tuple(prompt or ()),
                per_class=per_class,
                seconds=seconds,
                channels=channels,
                stretch_amplitude=stretch_amplitude,
                selected_on_test=select_on_test,
                batch_size=batch_size,
                max_bad_share=max_bad_share,
                draws=Draws(resamples=resamples, seed=seed),
                device=device,
                cache=None if no_cache else EmbeddingCache(folder=cache_folder()),
            ),
            functools.partial(typer.echo, err=True),
        )
    )
    if result is not None:
        _show(result, as_json=as_json)


def _show(result: "EvaluationResult", *, as_json: bool) -> None:
    if as_json:
        for row in result.rows:
            typer.echo(json.dumps(row))
        return
    show_table(
        ("metric", "value", "95 % interval", "n", "missing", "fold or class", "setting"), _cells(result)
    )
    first = result.rows[0]
    if first["partial"]:
        typer.echo(f"the data set is not whole: {first['partial']}", err=True)
    if first["shared_with_training"]:
        shared = first["shared_with_training"]
        typer.echo(f"{shared:,} items are in the model's training data, too, by video or by sound", err=True)
    typer.echo(f"{len(result.rows):,} rows added to {result.out / 'results.jsonl'}", err=True)


def _cells(result: "EvaluationResult") -> list[tuple[str, ...]]:
    return [
        (
            row["metric"],
            _decimals(row["value"]),
            f"{_decimals(row['low'])} to {_decimals(row['high'])}",
            f"{row['n']:,}",
            f"{row['missing']:,}",
            row["fold"] or row["class_name"],
            row["setting"],
        )
        for row in result.rows
    ]


def _decimals(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


@evaluate_app.command("compare", rich_help_panel=_PANEL)
def compare(
    first: Annotated[Path, typer.Argument(help="A folder with results.", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Another.", metavar="RUN")],
    as_json: AsJson = False,
) -> None:
    """What the second model does better than the first, on the same items, and how sure that is.

    Example:

        trichord compare runs/a3 runs/b3
    """
    from trainer.results import compare as compared

    differences = _or_one_line(lambda: compared(first, second))
    if as_json:
        return typer.echo(json.dumps([_plain(each) for each in differences], indent=2))
    rows = (
        (
            each.metric,
            _decimals(each.first),
            _decimals(each.second),
            f"{each.difference:+.4f}",
            f"{each.interval.low:+.4f} to {each.interval.high:+.4f}",
            "yes" if each.sure else "no",
            f"{each.n:,}",
            each.setting,
        )
        for each in differences
    )
    heads = ("metric", str(first), str(second), "difference", "95 % interval", "sure", "n", "setting")
    show_table(heads, rows)


def _plain(each: "Difference") -> dict[str, Any]:
    return {
        "metric": each.metric,
        "setting": each.setting,
        "first": each.first,
        "second": each.second,
        "difference": each.difference,
        "low": each.interval.low,
        "high": each.interval.high,
        "n": each.n,
    }


@split_app.command("freeze")
def freeze(
    data: Annotated[str, typer.Argument(help="Folder or address of the shards.", metavar="SHARDS")],
    out: Annotated[Path, typer.Option("--out", help="The list to write.", metavar="FILE")],
    split: Splits = None,
    where: Where = "",
    annotation: Annotations = None,
) -> None:
    """Write which samples there are, a key a line: a list to publish and to evaluate by with --only.

    Example:

        trichord split freeze data/audioset --split eval --out audioset-eval.txt
    """
    from shards.annotations import AnnotationError
    from shards.selection import SelectionError, select_samples
    from shards.store import StoreError, open_store

    try:
        found = select_samples(
            open_store(data), splits=split or (), where=where, annotations=annotation or ()
        )
        with appearing(out) as partial:
            partial.write_text("".join(f"{line}\n" for line in _listed(found)), encoding="utf-8")
    except (SelectionError, AnnotationError, StoreError, OSError, ValueError) as error:
        raise fail(error) from None
    typer.echo(f"{len(found):,} keys in {out}; SHA-256 of the keys {found.key_list_sha256}", err=True)


def _listed(found: Any) -> list[str]:
    """What it is, then the keys in the order they lie in."""
    about = [f"# {len(found):,} samples: {' '.join(found.sql.split())}"]
    return [*about, f"# SHA-256 of the keys, a line feed after each: {found.key_list_sha256}", *found.keys]


def _or_one_line(call: Any) -> Any:
    """What `call` gives; what a person asked wrongly is one line."""
    from trainer.run_request import RunError

    try:
        return call()
    except RunError as error:
        raise fail(error, Exit(error.code)) from None
