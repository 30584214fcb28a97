"""What a launch comes to: recipe, options and a user's own code, also when a run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest

from trainer.requested import Requested, requested
from trainer.run_folder import RunFolder
from trainer.run_request import RunError, RunRequest
from trainer.stage_view import leaves, source_of
from trainer.user_code import keep

LOSS = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    margin: float = 0.2

    def __call__(self, embeddings, batch, scales):
        return {}
"""
RECIPE = """
from trainer.recipes import RECIPES
from trainer.stage import derive

recipe = derive(RECIPES["debug.full"], "mine", epochs=7)
"""


@pytest.fixture
def request_of_mine(tmp_path: Path) -> RunRequest:
    (tmp_path / "loss.py").write_text(LOSS)
    (tmp_path / "recipe.py").write_text(RECIPE)
    return RunRequest(
        recipe=f"{tmp_path}/recipe.py:recipe",
        data="nowhere",
        out=tmp_path / "run",
        objective=f"{tmp_path}/loss.py:Mine",
        overrides=("objective.margin=0.5", "optim.lr=1"),
        start_run="before",
        where="not still",
    )


def values(asked: Requested) -> dict[str, object]:
    return {leaf.path: leaf.value for leaf in leaves(asked.stage)}


def test_options_and_overrides_are_applied_and_each_says_where_it_is_from(
    request_of_mine: RunRequest,
) -> None:
    asked = requested(request_of_mine)
    expected = {
        "epochs": (7, "mine"),
        "objective": ("Mine", f"--objective {request_of_mine.objective}"),
        "objective.margin": (0.5, "--set"),
        "optim.lr": (1.0, "--set"),
        "start.run": ("before", "--from"),
        "data.where": ("not still", "--where"),
    }
    assert {path: (values(asked)[path], source_of(asked.stage, path)) for path in expected} == expected
    assert [code.role for code in asked.code] == ["recipe", "objective"]


def test_a_run_that_goes_on_has_the_code_that_it_began_with(
    request_of_mine: RunRequest, tmp_path: Path
) -> None:
    for code in requested(request_of_mine).code:
        keep(code, request_of_mine.out)
    (tmp_path / "loss.py").write_text(LOSS.replace("0.2", "0.9"))
    (tmp_path / "recipe.py").write_text(RECIPE.replace("7", "8"))
    plain = replace(request_of_mine, overrides=())
    not_begun = requested(plain)
    assert (values(not_begun)["objective.margin"], not_begun.stage.epochs) == (0.9, 8)

    RunFolder(plain.out).checkpoint(3).mkdir(parents=True)
    for resume in ("auto", str(plain.out), str(RunFolder(plain.out).checkpoint(3))):
        going_on = requested(replace(plain, resume=resume))
        assert (values(going_on)["objective.margin"], going_on.stage.epochs) == (0.2, 7)
        assert [note.split()[1:4] for note in going_on.notes] == [["has", "changed", "since;"]] * 2
    (tmp_path / "loss.py").write_text(LOSS)
    (tmp_path / "recipe.py").unlink()
    assert requested(plain).notes == ()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "class Mine:\n    def __init__(self, margin): ...\n",
            "expected a class whose fields all have defaults",
        ),
        ("Mine = 3\n", "is int; expected a callable"),
    ],
)
def test_an_objective_that_is_none_is_one_line(
    request_of_mine: RunRequest, tmp_path: Path, code: str, expected: str
) -> None:
    (tmp_path / "loss.py").write_text(code)
    with pytest.raises(RunError, match=expected) as caught:
        requested(replace(request_of_mine, overrides=()))
    assert "\n" not in str(caught.value)
