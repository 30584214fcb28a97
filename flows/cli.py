"""The `trichord` command: what a person types, what they see, and how each command ends."""

import os
import sys
from enum import IntEnum
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

PANELS = ("Data", "Models", "Training", "Evaluation")  # as one comes to need them


class _ByPanel(TyperGroup):
    """Commands in the order of their panels."""

    def list_commands(self, ctx: Any) -> list[str]:  # its type is Typer's own copy of click's
        return sorted(super().list_commands(ctx), key=lambda name: PANELS.index(self._panel(name)))

    def _panel(self, name: str) -> str:
        return str(getattr(self.commands[name], "rich_help_panel", ""))


app = typer.Typer(
    name="trichord",
    cls=_ByPanel,
    help="AudioSet from CSV rows to verified shards with a manifest in SQL, and models that hear it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Exit(IntEnum):
    """How a command ended; documented in docs/operations.md."""

    OK = 0  # done, and nothing is left to retry
    BUG = 1  # a surprise of our own
    USAGE = 2  # something typed or given is wrong
    FAILED = 3  # done, but some segments failed in a way that trying again may mend
    BLOCKED = 4  # stopped, or segments are left, because the site blocks us
    NO_ROOM = 5  # the disk is full
    BROKEN = 6  # `verify` found something
    REQUEUE = 75  # training was asked to stop and has saved: the same command goes on
    INTERRUPTED = 130


def fail(message: object, code: Exit = Exit.USAGE) -> typer.Exit:
    """One line on standard error; raise what is returned."""
    print(f"trichord: {message}", file=sys.stderr)
    return typer.Exit(code)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"trichord {version('trichord')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """What goes before any command."""


def main() -> None:
    """The console script: what users can cause is one line, everything else a traceback."""
    from flows.ingest_command import ingest

    app.command("ingest", rich_help_panel="Data")(ingest)
    _mount()
    try:
        app()
    except KeyboardInterrupt:
        print("trichord: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # `trichord … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)


def _mount() -> None:
    import flows.dataset_commands as dataset_commands
    from flows.cli_models import models_app
    from flows.crossval_command import crossval
    from flows.evaluate_command import evaluate_app
    from flows.rebuild_command import rebuild_app
    from flows.report_command import report
    from flows.reproduce_command import reproduce_app
    from flows.search_command import search_app
    from flows.train_command import train_app

    app.command("status", rich_help_panel="Data")(dataset_commands.status)
    app.command("verify", rich_help_panel="Data")(dataset_commands.verify)
    app.command("manifest", rich_help_panel="Data")(dataset_commands.manifest)
    app.command("sheet", rich_help_panel="Data")(dataset_commands.sheet)
    app.add_typer(rebuild_app, rich_help_panel="Data")
    app.add_typer(models_app)
    app.add_typer(search_app)
    app.add_typer(train_app)
    app.add_typer(evaluate_app)
    app.command("crossval", rich_help_panel="Evaluation")(crossval)
    app.add_typer(reproduce_app, name="reproduce", rich_help_panel="Evaluation")
    app.command("report", rich_help_panel="Evaluation")(report)


if __name__ == "__main__":
    main()
