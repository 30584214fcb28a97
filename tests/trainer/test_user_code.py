import sys
from pathlib import Path

import pytest

from trainer.user_code import UserCodeError, keep, kept, load_user_code, names_file

LOSS = """
from __future__ import annotations

import dataclasses

import torch
from my_words import WORD


@dataclasses.dataclass(frozen=True)
class MyLoss:
    margin: float = 0.2
    word: str = WORD

    def __call__(self, embeddings, batch, scales):
        return {"margin": torch.tensor(self.margin)}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "my_loss.py").write_text(LOSS)
    (home / "my_words.py").write_text("WORD = 'first'\n")
    yield home
    sys.modules.pop("my_words", None)


def test_a_name_in_a_file_is_loaded_and_what_lies_beside_it_can_be_imported(folder: Path) -> None:
    code = load_user_code(f"{folder}/my_loss.py:MyLoss", "objective")
    assert code.value().word == "first"
    assert list(code.files) == ["my_loss.py", "my_words.py"]
    assert str(folder) not in sys.path


def test_kept_code_is_what_the_run_began_with_however_the_file_changes(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = load_user_code(f"{folder}/my_loss.py:MyLoss", "objective")
    keep(code, run)
    (folder / "my_loss.py").write_text(LOSS.replace("0.2", "0.9"))
    assert load_user_code(f"{folder}/my_loss.py:MyLoss", "objective").value().margin == 0.9
    again = kept(run, "objective")
    assert again is not None
    assert again.value().margin == 0.2
    assert (again.sha256, again.reference) == (code.sha256, code.reference)
    assert kept(run, "recipe") is None
    assert not list(run.rglob("*.partial"))


def test_kept_code_that_somebody_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    keep(load_user_code(f"{folder}/my_loss.py:MyLoss", "objective"), tmp_path)
    (tmp_path / "code" / "objective" / "my_loss.py").write_text(LOSS.replace("0.2", "0.9"))
    with pytest.raises(UserCodeError, match="was changed since the run began"):
        kept(tmp_path, "objective")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("my_loss.py", "no name; expected my_loss.py:NAME, one of .*MyLoss"),
        ("my_loss.py:MyLos", "has no 'MyLos' for an objective; did you mean MyLoss?"),
        ("your_loss.py:MyLoss", "no file '.*your_loss.py'; expected FILE.py:NAME"),
        ("torn.py:MyLoss", r"torn.py does not run: SyntaxError: .* \(line 2\)"),
        ("falling.py:MyLoss", r"falling.py does not run: ZeroDivisionError: division by zero \(line 3\)"),
    ],
)
def test_what_a_file_does_not_give_is_one_line(folder: Path, reference: str, expected: str) -> None:
    (folder / "torn.py").write_text("x = 1\ny = (\n")
    (folder / "falling.py").write_text("def f():\n    pass\nx = 1 / 0\n")
    with pytest.raises(UserCodeError, match=expected) as caught:
        load_user_code(f"{folder}/{reference}", "objective")
    assert "\n" not in str(caught.value)


def test_names_of_ours_are_not_files() -> None:
    assert not names_file("audioclip.full")
    assert names_file("my_recipe.py:recipe")
    assert names_file("recipes/mine.py")
