"""Commands of a person who trains: recipes to look at, `trichord train`, runs to compare."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import Exit, fail
from flows.runs_command import runs
from flows.tables import show_table
from trainer.command_line import train

if TYPE_CHECKING:
    from trainer.stage import Stage

# torch takes seconds to import: a command imports the trainer when it runs, so that --help answers at once

_PANEL = "Training"
train_app = typer.Typer(no_args_is_help=True, help="Training: recipes, stages, runs.")
recipe_app = typer.Typer(no_args_is_help=True, help="Recipes: what each stage does, value by value.")
train_app.command("train", rich_help_panel=_PANEL)(train)
train_app.command("runs", rich_help_panel=_PANEL)(runs)
train_app.add_typer(recipe_app, name="recipe", rich_help_panel=_PANEL)

Recipe = Annotated[str, typer.Argument(help="A name, or FILE.py:NAME.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Another value, as for train.", metavar="PATH=VALUE")
]
Objective = Annotated[
    str, typer.Option("--objective", help="FILE.py:NAME, as for train.", metavar="FILE:NAME")
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@recipe_app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """Every recipe with what it is about."""
    from trainer.recipes import RECIPES
    from trainer.stage_view import objective_name, shown

    if as_json:
        return typer.echo(json.dumps({stage.name: stage.about for stage in RECIPES.values()}, indent=2))
    rows = (
        (stage.name, stage.about, objective_name(stage.objective), *map(shown, _numbers(stage)))
        for stage in RECIPES.values()
    )
    show_table(("recipe", "about", "objective", "epochs", "batch", "rate"), rows)


def _numbers(stage: "Stage") -> tuple[float, ...]:
    return stage.epochs, stage.batch_size, stage.optim.lr


@recipe_app.command("show")
def show_recipe(
    recipe: Recipe, overrides: Overrides = None, objective: Objective = "", as_json: AsJson = False
) -> None:
    """Every value of a recipe, and where it is from: a paper's section, a released file, or us.

    Examples:

        trichord recipe show audioclip.full

        trichord recipe show audioclip.finetune_esc50@released --set optim.lr=1e-5 --json
    """
    from trainer.stage_view import describe, stage_to_json

    stage = _stage(recipe, overrides, objective)
    if as_json:
        return typer.echo(json.dumps(stage_to_json(stage), indent=2))
    typer.echo(f"{stage.name}: {stage.about}")
    show_table(("path", "value", "source"), ((row.path, row.value, row.source) for row in describe(stage)))


@recipe_app.command("diff")
def compare_recipes(left: Recipe, right: Recipe, as_json: AsJson = False) -> None:
    """What two recipes do differently.

    Example:

        trichord recipe diff audioclip.finetune_esc50 audioclip.finetune_esc50@released
    """
    from trainer.stage_view import differences, shown, source_of, stage_to_json

    stages = _stage(left, None, ""), _stage(right, None, "")
    found = differences(*map(stage_to_json, stages))
    if as_json:
        return typer.echo(json.dumps({path: [ours, theirs] for path, ours, theirs in found}, indent=2))
    rows = (
        (path, *("" if value is None else shown(value) for value in values), source_of(stages[1], path))
        for path, *values in found
    )
    show_table(("path", stages[0].name, stages[1].name, f"source in {stages[1].name}"), rows)


def _stage(recipe: str, overrides: list[str] | None, objective: str) -> "Stage":
    """A recipe with what was asked for. What cannot be is one line."""
    from trainer.overrides import apply_overrides
    from trainer.recipes import resolve
    from trainer.requested import with_objective
    from trainer.run_request import RunError

    try:
        return apply_overrides(with_objective(resolve(recipe), objective), overrides or ())
    except RunError as error:
        raise fail(error, Exit(error.code)) from None
