"""docs/stages.md shows the values that the recipes have, and a recipe that can be derived."""

import re

from ingestions import ROOT

from trainer.recipes import RECIPES
from trainer.stage import Stage
from trainer.stage_view import leaves, shown, source_of

PAGE = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
COLUMNS = ("standalone", "cooperative", "full", "finetune_esc50", "finetune_us8k")
PATHS = (
    "optim.name",
    "optim.lr",
    "schedule.gamma",
    "optim.momentum",
    "optim.weight_decay",
    "epochs",
    "batch_size",
    "trainable",
    "data.seconds",
    "augment.time_scaling",
    "augment.inversion",
    "augment.noise",
    "augment.noise_snr_db",
    "filter_norm",
    "negatives",
)


def rendered() -> list[str]:
    """The table of docs/stages.md."""
    stages = [RECIPES[f"audioclip.{name}"] for name in COLUMNS]
    head = f"| value | {' | '.join(COLUMNS)} | source |"
    return [head, "|---" * (len(COLUMNS) + 2) + "|", *(_row(path, stages) for path in PATHS)]


def _row(path: str, stages: list[Stage]) -> str:
    values = [next(shown(leaf.value) for leaf in leaves(stage) if leaf.path == path) for stage in stages]
    sources = list(dict.fromkeys(source_of(stage, path) for stage in stages))
    cells = [f"`{path}`", *(f"`{value}`" for value in values), " / ".join(sources)]
    return f"| {' | '.join(cells)} |"


def test_the_table_of_values_is_the_recipes() -> None:
    expected = "\n".join(rendered())
    assert expected in PAGE, f"docs/stages.md should hold\n{expected}"


def test_every_recipe_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\b(?:audioclip|debug)\.[a-z][a-z0-9_]*(?:@released)?", PAGE)) - {"audioclip.py"}
    assert named
    assert named <= set(RECIPES)


def test_the_recipe_that_the_page_derives_is_one() -> None:
    names: dict[str, object] = {}
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(program, names)
    recipe = names["recipe"]
    assert isinstance(recipe, Stage)
    assert (recipe.epochs, source_of(recipe, "epochs")) == (10, "my idea of 3 May")


def test_every_recipe_at_full_size_is_on_the_page() -> None:
    missing = [
        each for each in RECIPES if each.startswith("audioclip.") and "@" not in each and each not in PAGE
    ]
    assert missing == []
