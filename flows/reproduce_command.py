"""`trichord reproduce`: a paper's tables from data to numbers: planned, shown, and what is missing done."""

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli import Exit, fail
from flows.tables import show_table

if TYPE_CHECKING:
    from flows.reproduce_plan import Plan, ReproduceRequest, Step

reproduce_app = typer.Typer(no_args_is_help=True, help="Reproduce a paper's tables, resumable at every step.")


@reproduce_app.callback()
def _words() -> None:
    """So that the paper's name stays a word to be typed."""


@reproduce_app.command("audioclip")
def audioclip(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.", metavar="FOLDER")] = Path(
        "reproduction"
    ),
    tables: Annotated[str, typer.Option("--tables", help="Which of the paper's.")] = "1,2,3,4",
    scale: Annotated[str, typer.Option("--scale", help="toy or full.", metavar="toy|full")] = "toy",
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="Shards that are there: audioset, esc50, us8k or imagenet. May be repeated.",
            metavar="NAME=SHARDS",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it costs.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
) -> None:
    """AudioCLIP's Tables 1 to 4: data, stages, evaluations, cross-validations, tables.

    Examples:

        trichord reproduce audioclip --out repro --scale full --data audioset=s3://bucket/audioset --dry-run

        trichord reproduce audioclip --out toy --scale toy

    Toy scale makes its data, needs no network, and ends in minutes. Full scale wants the data as shards.
    Stopped anywhere, the same command goes on: a finished step leaves a receipt and is not repeated.

    Exit code 0: all tables are rendered; 2: something given is wrong, or data are missing; 3: a step
    failed, and says why; 75: asked to stop, saved; 130: interrupted.
    """
    from flows.reproduce_plan import make_plan
    from flows.reproduce_run import StepStopped, check_data, run_step
    from trainer.run_request import RunError

    try:
        plan = make_plan(request_of(out, tables, scale, data or (), device))
        if dry_run:
            return show_plan(plan)
        check_data(plan)
        with _stopped_by_sigterm():
            for place, step in enumerate(plan.steps, start=1):
                typer.echo(f"[{place}/{len(plan.steps)}] {step.name}", err=True)
                run_step(plan, step, say=lambda line: typer.echo(f"    {line}", err=True))
    except RunError as error:
        raise fail(error, Exit(int(error.code))) from None
    except StepStopped as stopped:
        raise fail(stopped, Exit(stopped.code)) from None
    typer.echo(plan.steps[-1].output)


def request_of(
    out: Path, tables: str, scale: str, data: Sequence[str], device: str = "auto"
) -> "ReproduceRequest":
    """The options as a request. Raises RunError."""
    from flows.reproduce_plan import ReproduceRequest
    from trainer.run_request import RunError

    if scale not in ("toy", "full"):
        raise RunError(f"--scale is {scale!r}; expected toy or full")
    pairs = [text.partition("=") for text in data]
    if wrong := [name for name, equals, address in pairs if not equals or not address]:
        raise RunError(f"--data {wrong[0]}: expected NAME=SHARDS, such as esc50=data/esc50")
    named: Mapping[str, str] = {name: address for name, _, address in pairs}
    chosen: Literal["toy", "full"] = "toy" if scale == "toy" else "full"
    wanted = tuple(word.strip() for word in tables.split(",") if word.strip())
    return ReproduceRequest(out=out, tables=wanted, scale=chosen, data=named, device=device)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """As Ctrl-C: the step in work saves."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_plan(plan: "Plan") -> None:
    """Each step: whether it is done, what it costs and by whose word, and the command."""
    from flows.reproduce_plan import cost_of

    show_table(
        ("step", "state", "disk GB", _unit(plan), "by", "command"), [_row(plan, s) for s in plan.steps]
    )
    left = [cost_of(step, plan) for step in plan.steps if not plan.done(step)]
    disk, hours = sum(cost.disk_gb for cost in left), sum(cost.hours for cost in left)
    typer.echo(f"{len(left)} of {len(plan.steps)} steps are left: {disk:,.1f} GB, {hours:,.1f} {_unit(plan)}")
    if plan.request.scale == "full":
        typer.echo("assumed: 800 samples/s in training, 1,500 in evaluation on one H200, derived from FLOPs")


def _unit(plan: "Plan") -> str:
    return "core hours" if plan.request.scale == "toy" else "GPU hours"


def _row(plan: "Plan", step: "Step") -> tuple[str, ...]:
    from flows.reproduce_plan import command_line, cost_of

    cost, by_name = cost_of(step, plan), {each.name: each for each in plan.steps}
    waits = [name for name in step.needs if not plan.done(by_name[name])]
    state = "done" if plan.done(step) else f"waits for {len(waits)}" if waits else "missing"
    hours = f"{cost.hours:,.2f}" if cost.hours else ""
    return (step.name, state, f"{cost.disk_gb:,.2f}", hours, cost.source, command_line(step))
