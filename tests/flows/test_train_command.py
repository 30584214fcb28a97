"""`trichord recipe …` and what `trichord train` says before it starts anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from ingestions import ROOT
from typer.testing import CliRunner

from flows.train_command import train_app
from trainer import command_line
from trainer.recipes import RECIPES
from trainer.run_request import RunRequest
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


# -- train


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("audioclip.ful",), "did you mean audioclip.full"),
        (("audioclip.cooperative",), "it goes on from a run of audioclip.standalone; expected --from RUN"),
        (("debug.full", "--set", "epochs=0"), "epochs is 0; expected at least 1"),
        (("debug.full", "--objective", "nowhere.py:Loss"), "no file 'nowhere.py'"),
        (("debug.full", "--device", "gpu"), "device 'gpu' is not available"),
    ],
)
def test_what_cannot_be_trained_is_one_line(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    code, said, errors = trichord("train", *words, "--data", tmp_path, "--out", tmp_path / "run")
    assert (code, said) == (2, "")
    assert expected in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_options_become_a_request(tmp_path: Path) -> None:
    seen: list[RunRequest] = []
    app = typer.Typer()
    app.command()(command_line.train)
    with pytest.MonkeyPatch.context() as patch:  # what comes after is the loop's own tests
        patch.setattr(command_line, "executed", lambda request: seen.append(request) or 0)
        words = [
            *("debug.full", "--data", "s3://bucket/data", "--out", "runs/a", "--from", "runs/b"),
            *("--where", "not still", "--annotation", "a.parquet", "--annotation", "b.parquet"),
            *("--text", "caption", "--set", "epochs=2", "--set", "data.channels=2", "--resume", "never"),
            *("--objective", "mine.py:Mine", "--device", "cpu", "--dry-run", "--profile", "--wandb"),
        ]
        assert CliRunner().invoke(app, words).exit_code == 0
    told = ("data.annotations=a.parquet,b.parquet", "data.text=caption", "epochs=2", "data.channels=2")
    assert seen == [
        RunRequest(
            recipe="debug.full",
            data="s3://bucket/data",
            out=Path("runs/a"),
            overrides=told,
            start_run="runs/b",
            where="not still",
            objective="mine.py:Mine",
            resume="never",
            dry_run=True,
            profile=True,
            device="cpu",
            wandb=True,
        )
    ]


def test_torchrun_s_processes_take_the_same_options_and_tell_their_exit_code(tmp_path: Path) -> None:
    words = ["train", "debug.full", "--data", "nowhere", "--out", str(tmp_path / "run"), "--set", "epochs=0"]
    environment = {**os.environ, command_line.EXIT_CODE_FILE: str(tmp_path / "code")}
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert (done.returncode, (tmp_path / "code").read_text()) == (2, "2\n")
    assert done.stderr == "trichord: debug.full: epochs is 0; expected at least 1\n"
