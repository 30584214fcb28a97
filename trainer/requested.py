"""What a request comes to: its stage with everything applied, and the user's code in it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data_classes import with_classes_of
from trainer.overrides import apply_overrides
from trainer.recipes import resolve, stage_from
from trainer.run_folder import RunFolder
from trainer.run_request import RunRequest
from trainer.stage import Stage, derive
from trainer.stage_checks import check_stage
from trainer.user_code import Role, UserCode, UserCodeError, kept, load_user_code, names_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Requested:
    """A stage that can be run, and what has to be kept with it."""

    stage: Stage
    code: tuple[UserCode, ...] = ()  # for `trainer.user_code.keep`
    notes: tuple[str, ...] = ()  # lines for the run's header


def requested(request: RunRequest, *, ranks: int = 1) -> Requested:
    """The request's stage, checked for `ranks` processes.

    A run that goes on uses the code that it was begun with; a classifier of the data's classes has their
    number. Raises RunError, one line.
    """
    recipe = _code(request, "recipe", request.recipe)
    objective = _code(request, "objective", request.objective)
    stage = stage_from(recipe) if recipe else resolve(request.recipe)
    if objective:
        stage = derive(stage, f"--objective {objective.reference}", objective=objective_from(objective))
    stage = _with_options(stage, request)
    check_stage(stage, ranks=ranks)
    stage = with_classes_of(stage, request.data)
    code = tuple(each for each in (recipe, objective) if each)
    return Requested(stage=stage, code=code, notes=tuple(filter(None, map(_note, code))))


def _with_options(stage: Stage, request: RunRequest) -> Stage:
    if request.start_run:
        stage = derive(stage, "--from", start__run=request.start_run)
    if request.where:
        stage = derive(stage, "--where", data__where=request.where)
    return apply_overrides(stage, request.overrides)


def _code(request: RunRequest, role: Role, reference: str) -> UserCode | None:
    if not names_file(reference):
        return None
    for run in _begun(request):
        if code := kept(run, role):
            return code
    return load_user_code(reference, role)


def _begun(request: RunRequest) -> list[Path]:
    """The run that this request goes on with, if there is one."""
    if request.resume == "never":
        return []
    own = [request.out] if RunFolder(request.out).whole_checkpoints() else []
    if request.resume != "auto":
        path = Path(request.resume)
        return [*own, path, path.parent.parent]  # a run, or a checkpoint of one
    return own


def _note(code: UserCode) -> str:
    """Where a file is no longer what the run was begun with."""
    file = code.reference.rpartition(":")[0] or code.reference
    try:
        now = load_user_code(code.reference, code.role).sha256 if os.path.exists(file) else code.sha256
    except UserCodeError:
        now = "broken"
    return "" if now == code.sha256 else f"{file} has changed since; the run goes on with its own copy"


def with_objective(stage: Stage, reference: str) -> Stage:
    """`stage` with the objective that `FILE.py:NAME` names, if it names one. Raises RunError."""
    if not reference:
        return stage
    code = load_user_code(reference, "objective")
    return derive(stage, f"--objective {reference}", objective=objective_from(code))


def objective_from(code: UserCode) -> Any:
    """The callable: an instance, a function, or a class that needs no arguments. Raises UserCodeError."""
    value = code.value
    if isinstance(value, type):
        try:
            value = value()
        except TypeError as error:
            raise UserCodeError(
                f"{code.reference}: {error}; expected a class whose fields all have defaults, or an instance"
            ) from None
    if not callable(value):
        raise UserCodeError(
            f"{code.reference} is {type(value).__name__}; expected a callable "
            "(embeddings, batch, scales) -> dict of losses"
        )
    return value
