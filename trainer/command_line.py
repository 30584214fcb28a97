"""What a person types to train: the same options for `trichord train` and for `torchrun -m trainer train`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trainer.run_request import RunRequest

# torchrun has exit codes of its own: where this names a file, the first process's goes there
EXIT_CODE_FILE = "TRICHORD_EXIT_CODE_FILE"

# torch takes seconds to import: what needs it is imported when a command runs, so that --help answers at once

_WHAT = "What is trained"
_DATA = "On what"
_CODE = "Your own code"
_RUNNING = "Running"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A name that `trichord recipe list` shows, or FILE.py:NAME.",
            metavar="RECIPE",
            rich_help_panel=_WHAT,
        ),
    ],
    data: Annotated[
        str,
        _option(
            "--data", help="The shards: a folder, or s3://bucket/prefix.", panel=_DATA, metavar="DATASET"
        ),
    ],
    out: Annotated[
        Path, _option("--out", help="The run's folder; made if need be.", panel=_RUNNING, metavar="RUN")
    ],
    start_run: Annotated[
        str,
        _option(
            "--from",
            help="Start from a run, a weights file or published weights.",
            panel=_WHAT,
            metavar="RUN",
        ),
    ] = "",
    overrides: Annotated[
        list[str] | None,
        _option(
            "--set",
            help="Another value of the recipe: optim.lr=3e-4. May be repeated.",
            panel=_WHAT,
            metavar="PATH=VALUE",
        ),
    ] = None,
    where: Annotated[
        str,
        _option("--where", help="SQL over the samples, which selects some.", panel=_DATA, metavar="SQL"),
    ] = "",
    annotation: Annotated[
        list[str] | None,
        _option(
            "--annotation",
            help="Parquet keyed by sample, whose columns --where and --text may name. May be repeated.",
            panel=_DATA,
            metavar="FILE",
        ),
    ] = None,
    text: Annotated[
        str,
        _option(
            "--text",
            help="Column of an annotation that is a sample's text [default: its class names].",
            panel=_DATA,
            metavar="COLUMN",
        ),
    ] = "",
    objective: Annotated[
        str,
        _option(
            "--objective", help="A loss of your own, kept with the run.", panel=_CODE, metavar="FILE.py:NAME"
        ),
    ] = "",
    resume: Annotated[
        str,
        _option(
            "--resume",
            help="auto: go on where RUN was; never: refuse if it was begun; or another run or checkpoint.",
            panel=_RUNNING,
            metavar="auto|never|PATH",
        ),
    ] = "auto",
    device: Annotated[str, _option("--device", help="auto, cuda, mps or cpu.", panel=_RUNNING)] = "auto",
    dry_run: Annotated[
        bool, _option("--dry-run", help="One step, to see that all fits; nothing is saved.", panel=_RUNNING)
    ] = False,
    profile: Annotated[
        bool,
        _option(
            "--profile", help="Some steps under the profiler, and what bounds the speed.", panel=_RUNNING
        ),
    ] = False,
    wandb: Annotated[bool, _option("--wandb", help="Log to Weights & Biases, too.", panel=_RUNNING)] = False,
) -> None:
    """Train a stage; killed or stopped, the same command goes on to the bit.

    Examples:

        trichord train audioclip.standalone --data data/audioset --out runs/a1

        trichord train audioclip.cooperative --from runs/a1 --data data/audioset --out runs/a2

        trichord train audioclip.full --from runs/a2 --data s3://bucket/audioset --out runs/a3 --dry-run

        trichord train debug.full --data data/audioset --out runs/toy --set epochs=1

        torchrun --nproc_per_node=8 -m trainer train audioclip.full --from runs/a2 --data … --out runs/a3

    Exit code 0: trained to the end; 2: something given is wrong; 3: it had to stop, and says why; 75: asked
    to stop, saved, and wants to be started again; 130: interrupted, saved.
    """
    request = request_of(
        recipe=recipe,
        data=data,
        out=out,
        start_run=start_run,
        overrides=tuple(overrides or ()),
        where=where,
        annotations=tuple(annotation or ()),
        text=text,
        objective=objective,
        resume=resume,
        device=device,
        dry_run=dry_run,
        profile=profile,
        wandb=wandb,
    )
    raise typer.Exit(executed(request))


def request_of(
    *, annotations: tuple[str, ...], text: str, overrides: tuple[str, ...], **given: Any
) -> "RunRequest":
    """The options as a request; annotations and text are values of the recipe like others."""
    from trainer.run_request import RunRequest

    told = [f"data.annotations={','.join(annotations)}"] if annotations else []
    told += [f"data.text={text}"] if text else []
    return RunRequest(overrides=(*told, *overrides), **given)


def executed(request: "RunRequest") -> int:
    """Runs it and gives the exit code; what users cause is one line on standard error."""
    from trainer.requested import requested
    from trainer.run_request import ExitCode, RunError

    rank = int(os.environ.get("RANK", "0"))
    try:
        requested(
            request, ranks=int(os.environ.get("WORLD_SIZE", "1"))
        )  # before what takes seconds to import
        from trainer.run import run

        code = int(run(request).exit_code)
    except RunError as error:
        code = int(error.code)
        print(f"trichord: {f'process {rank}: ' if rank else ''}{error}", file=sys.stderr)
    except KeyboardInterrupt:  # the second one: the first lets the step end and saves
        code = int(ExitCode.INTERRUPTED)
        print("trichord: interrupted; the last checkpoint stays, the same command goes on", file=sys.stderr)
    if rank == 0 and (told := os.environ.get(EXIT_CODE_FILE)):
        Path(told).write_text(f"{code}\n")
    return code


def main() -> None:
    """`python -m trainer`, which torchrun starts in each process."""
    app = typer.Typer(
        name="trainer",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # so that `train` stays a word to be typed
    app.command("train")(train)
    app()
