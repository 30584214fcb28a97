"""`trichord evaluate`, `compare` and `split freeze` as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluating import toy_model, two_folds
from typer.testing import CliRunner, Result

from flows.evaluate_command import evaluate_app

pytestmark = pytest.mark.usefixtures("one_thread")
runner = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_folds(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return toy_model(folder / "a"), toy_model(folder / "b", seed=1)


def trichord(*words: object) -> Result:
    return runner.invoke(evaluate_app, [str(word) for word in words])


def test_two_models_are_evaluated_and_compared(data: Path, models: tuple[Path, Path]) -> None:
    for model in models:
        done = trichord(
            "evaluate", model, "--data", data, "--task", "zero-shot", "--task", "query", "--device", "cpu",
            "--resamples", 50,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "retrieval/text_to_audio/R@1\t0." in done.stdout
        assert f"rows added to {model}" in done.stderr
    done = trichord("compare", *models, "--json")
    assert done.exit_code == 0, done.output
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    row = found["retrieval/audio_to_text/MRR"]
    assert row["low"] <= row["second"] - row["first"] <= row["high"]
    assert row["n"] == 17


def test_a_frozen_list_is_what_only_reads(data: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    listed = tmp_path / "fold2.txt"
    done = trichord("split", "freeze", data, "--split", "fold2", "--out", listed)
    assert done.exit_code == 0, done.output
    assert "6 keys" in done.stderr
    lines = listed.read_text().splitlines()
    assert sum(not line.startswith("#") for line in lines) == 6
    done = trichord(
        "evaluate", models[0], "--data", data, "--task", "query", "--only", listed, "--out", tmp_path,
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["split"] for row in rows} == {"fold2"}
    assert lines[1].endswith(rows[0]["key_list_sha256"])


def test_a_model_chosen_on_the_test_data_says_so_in_every_name(
    data: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    done = trichord(
        "evaluate", models[0], "--data", data, "--task", "zero-shot", "--prompt", "a sound of {}",
        "--select-on-test", "--out", tmp_path, "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(row["metric"].endswith("_selected_on_test") for row in rows)
    assert {row["setting"].split(";")[0] for row in rows} == {"prompt=a sound of {}"}


def test_a_second_evaluation_reads_the_embeddings_of_the_first_unless_it_is_not_to(
    data: Path, models: tuple[Path, Path], cache: Path, tmp_path: Path
) -> None:
    words = ("evaluate", models[1], "--data", data, "--split", "fold2", "--device", "cpu", "--out", tmp_path)
    tasks = (("zero-shot",), ("query",), ("query", "--no-cache"))
    first, second, third = (trichord(*words, "--resamples", 20, "--task", *task) for task in tasks)
    assert "embeddings of" not in first.stderr + third.stderr
    assert f"embeddings of 6 samples read from {cache}/embeddings/" in second.stderr
    assert "; --no-cache embeds anew\n" in second.stderr
    assert second.stdout == third.stdout != first.stdout


def test_a_wrong_task_is_one_line_and_a_code(data: Path, models: tuple[Path, Path]) -> None:
    done = trichord("evaluate", models[0], "--data", data, "--task", "zeroshot")
    assert done.exit_code == 2
    assert done.stderr == (
        "trichord: no task 'zeroshot'; expected one of zero-shot, classification, query, linear-probe\n"
    )


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, typer.testing, flows.evaluate_command as command\n"
        "typer.testing.CliRunner().invoke(command.evaluate_app, ['evaluate', '--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
