"""`trichord runs` on what the real loop leaves, with made-up batches in the place of shards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from toy_training import STANDALONE, ToyFeed
from typer.testing import CliRunner

from flows.curves import round_values, thinned
from flows.train_command import train_app
from trainer.run import run
from trainer.run_request import RunRequest

torch.set_num_threads(1)
RECIPE = "import toy_training\nrecipe = toy_training.STANDALONE\n"


@dataclass(frozen=True)
class Made:
    """Data from nothing, evaluated by nothing in particular."""

    feed: ToyFeed
    facts: dict[str, Any]

    def evaluate(self, learner: object) -> dict[str, float]:
        return {"dev/classes/accuracy": 0.25}


@contextmanager
def made(request: object, stage: Any, learner: object, ranks: object) -> Iterator[Made]:
    yield Made(ToyFeed(stage), {"samples": 24, "query": "", "key_list_sha256": "0123456789abcdef"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one that was trained to its end, one that says it runs and was killed long ago."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.py").write_text(RECIPE)
    for name, overrides in (("a", ()), ("b", ("optim.lr=0.01", "epochs=1"))):
        request = RunRequest(
            recipe=f"{folder}/mine.py:recipe",
            data="nowhere",
            out=folder / name,
            overrides=overrides,
            device="cpu",
        )
        run(request, open_data=made)
    status = json.loads((folder / "b" / "status.json").read_text())
    (folder / "b" / "status.json").write_text(json.dumps({**status, "outcome": "running"}))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / "b" / "lock").write_text(str(gone.pid))
    for file in ("status.json", "log.jsonl"):
        os.utime(folder / "b" / file, (0, 0))
    return folder


def trichord(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(train_app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_runs_are_compared_by_what_they_left(folder: Path) -> None:
    code, said, _ = trichord("runs", folder)
    assert code == 0
    head, first, second = (line.split("\t") for line in said.splitlines())
    rows = [dict(zip(head, row, strict=True)) for row in (first, second)]
    assert [(Path(row["run"]).name, row["state"], row["step"]) for row in rows] == [
        ("a", "finished", "8/8"),
        ("b", "silent", "4/4"),
    ]
    assert {row["recipe"] for row in rows} == {STANDALONE.name}
    assert [row["changed"] for row in rows] == ["", "optim.lr=0.01 epochs=1"]
    assert {row["data"] for row in rows} == {"01234567"}
    told = json.loads(trichord("runs", folder, "--json")[1])
    logged = [json.loads(line) for line in (folder / "a" / "log.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in logged if "train/loss" in line]
    assert told[0]["loss"] == pytest.approx(sum(losses) / len(losses))
    assert told[0]["metrics"] == {"dev/classes/accuracy": 0.25}


def test_a_run_whose_process_is_alive_runs(folder: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    gone = (folder / "b" / "lock").read_text()
    try:
        (folder / "b" / "lock").write_text(str(sleeper.pid))
        assert "\trunning\t" in trichord("runs", folder / "b")[1]
    finally:
        (folder / "b" / "lock").write_text(gone)
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()


def test_curves_are_drawn_for_every_run_and_measure(folder: Path) -> None:
    for name in ("curves.svg", "curves.html"):
        code, _, errors = trichord("runs", folder, "--plot", folder / name)
        assert code == 0
        assert "of 2 runs" in errors
    drawn = ElementTree.parse(folder / "curves.svg")
    titles = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"train/loss", "train/loss/classes", "train/lr", "dev/classes/accuracy"} <= set(titles)
    lines = list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2 * sum(title in titles for title in set(titles) if title and "/" in title)
    page = (folder / "curves.html").read_text()
    assert page.count("<polyline") == len(lines)
    assert "Content-Security-Policy" in page


def test_another_kind_of_plot_and_a_folder_without_runs_are_one_line(folder: Path, tmp_path: Path) -> None:
    code, _, errors = trichord("runs", folder, "--plot", folder / "curves.png")
    assert (code, "ends in .html or .svg" in errors) == (2, True)
    code, _, errors = trichord("runs", tmp_path)
    assert (code, "no runs in" in errors) == (2, True)
    (tmp_path / "run.json").write_text("{}")
    code, _, errors = trichord("runs", tmp_path)
    assert (code, "is no run's" in errors, errors.count("\n")) == (2, True, 1)


def test_ticks_are_round_and_within() -> None:
    assert round_values(0.03, 1.02) == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_values(-3.0, 17.0) == [0.0, 5.0, 10.0, 15.0]


def test_long_curves_are_averaged_and_what_is_no_number_is_left_out() -> None:
    points = [(step, float("nan") if step == 3 else 1.0) for step in range(1000)]
    line = thinned(points)
    assert len(line) <= 300
    assert {value for _, value in line} == {1.0}
