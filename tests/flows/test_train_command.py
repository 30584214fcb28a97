"""`trichord recipe …` and what `trichord train` says before it starts anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ingestions import ROOT
from typer.testing import CliRunner

from flows.train_command import train_app
from trainer.recipes import RECIPES
from trainer.stage_view import leaves


def trichord(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(train_app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("words", [("train", "--help"), ("recipe", "--help"), ("recipe", "show", "--help")])
def test_help_needs_no_torch(words: tuple[str, ...]) -> None:
    program = (
        "import sys, flows.train_command, typer.testing\n"
        f"told = typer.testing.CliRunner().invoke(flows.train_command.train_app, {list(words)!r})\n"
        "assert 'Usage' in told.stdout\n"
        "sys.exit(sorted({'torch', 'open_clip', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stderr.strip() == "[]"


# -- recipes


def test_recipes_are_listed_one_a_line_for_other_programs() -> None:
    code, said, _ = trichord("recipe", "list")
    assert code == 0
    assert [line.split("\t")[0] for line in said.splitlines()[1:]] == list(RECIPES)
    assert set(json.loads(trichord("recipe", "list", "--json")[1])) == set(RECIPES)


def test_show_gives_every_value_with_its_source_and_what_was_set() -> None:
    code, said, _ = trichord("recipe", "show", "audioclip.full", "--set", "optim.lr=3e-4")
    assert code == 0
    rows = dict(line.split("\t", 1) for line in said.splitlines()[2:])
    assert list(rows) == [leaf.path for leaf in leaves(RECIPES["audioclip.full"])]
    assert rows["optim.lr"] == "0.0003\t--set"
    assert rows["batch_size"] == "64\tAudioCLIP §4.4"
    told = json.loads(trichord("recipe", "show", "audioclip.full", "--json")[1])
    assert (told["values"]["optim.lr"], told["sources"]["batch_size"]) == (5e-5, "AudioCLIP §4.4")


def test_diff_shows_what_differs_and_nothing_else() -> None:
    code, said, _ = trichord("recipe", "diff", "audioclip.full", "audioclip.full@released")
    assert code == 0
    found = [line.split("\t") for line in said.splitlines()[1:]]
    assert ["negatives", "global", "local"] in [cells[:3] for cells in found]
    assert "optim.lr" not in [cells[0] for cells in found]
    assert trichord("recipe", "diff", "audioclip.full", "audioclip.full")[1].count("\n") == 1


def test_show_takes_an_objective_of_one_s_own_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    margin: float = 0.2\n"
        "    def __call__(self, embeddings, batch, scales):\n        return {}\n"
    )
    words = ("recipe", "show", "debug.full", "--objective", f"{tmp_path}/mine.py:Mine")
    said = trichord(*words, "--set", "objective.margin=0.5")[1]
    assert "objective\tMine\t--objective" in said
    assert "objective.margin\t0.5\t--set" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("recipe", "show", "audioclip.fool"), "did you mean audioclip.full"),
        (("recipe", "show", "debug.full", "--set", "optim.lrr=1"), "did you mean optim.lr?"),
        (("recipe", "diff", "debug.full", "nothing"), "trichord recipe list"),
    ],
)
def test_what_is_not_there_is_one_line(words: tuple[str, ...], expected: str) -> None:
    code, said, errors = trichord(*words)
    assert (code, said) == (2, "")
    assert expected in errors
    assert errors.count("\n") == 1
