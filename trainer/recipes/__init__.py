"""Every recipe by its name, and those of a user's own files."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from trainer.recipes.audioclip import RELEASED_STAGES, STAGES
from trainer.recipes.debug import TOY_STAGES
from trainer.run_request import RunError
from trainer.stage import Stage
from trainer.user_code import UserCode, UserCodeError, load_user_code, names_file

RECIPES: Mapping[str, Stage] = MappingProxyType(
    {stage.name: stage for stage in (*STAGES, *RELEASED_STAGES, *TOY_STAGES)}
)


class RecipeError(RunError):
    """No recipe has this name."""


def resolve(reference: str) -> Stage:
    """The recipe of this name, or the one that `FILE.py:NAME` names. Raises RunError."""
    if names_file(reference):
        return stage_from(load_user_code(reference, "recipe"))
    if reference not in RECIPES:
        raise RecipeError(f"no recipe is named {reference!r}; {_hint(reference)}")
    return RECIPES[reference]


def _hint(reference: str) -> str:
    last = {name.partition(".")[2]: name for name in RECIPES}
    if reference in last:
        return f"did you mean {' or '.join(name for name in RECIPES if name.endswith(f'.{reference}'))}?"
    near = difflib.get_close_matches(reference, RECIPES, n=2)
    near = near or [last[name] for name in difflib.get_close_matches(reference, last, n=2)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "expected one that `trichord recipe list` shows, or FILE.py:NAME"


def stage_from(code: UserCode) -> Stage:
    """The stage that a user's file gives, as a value or from a function. Raises UserCodeError."""
    value = code.value() if callable(code.value) and not isinstance(code.value, Stage) else code.value
    if not isinstance(value, Stage):
        raise UserCodeError(
            f"{code.reference} is {type(value).__name__}; expected a trainer.stage.Stage, such as "
            "derive(trainer.recipes.RECIPES['audioclip.full'], 'mine', epochs=3)"
        )
    return value
