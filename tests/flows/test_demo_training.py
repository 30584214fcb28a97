"""The demo's training: what it holds a run to, and that a person may stop it and go on."""

import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ingestions import ROOT
from shard_folders import shard_folder

from flows.demo_story import Story
from flows.demo_training import (
    Lab,
    StageRun,
    TrainingError,
    carry_out,
    chance,
    check_beats_chance,
    loss_ends,
    train_road,
)

SMALL = ("data.seconds=0.1", "evaluations=", "best=", "data.dev_share=0")
BRIEF = StageRun(recipe="debug.standalone", epochs=10, others=SMALL)
GO = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
from test_demo_training import BRIEF, lab
from flows.demo_training import train_road
try:
    train_road(lab(Path(sys.argv[1])), [BRIEF])
except KeyboardInterrupt:
    sys.exit(130)
"""


def lab(folder: Path) -> Lab:
    return Lab(dataset=folder / "dataset", folder=folder, story=Story(io.StringIO()))


def average_precision(order: tuple[int, ...], relevant: int) -> float:
    places = [place for place, item in enumerate(order, start=1) if item < relevant]
    return statistics.fmean(number / place for number, place in enumerate(places, start=1))


@pytest.mark.parametrize("relevant", [1, 2, 5])
def test_chance_is_the_mean_over_every_order_that_there_is(relevant: int) -> None:
    orders = list(itertools.permutations(range(5)))
    brute = statistics.fmean(average_precision(order, relevant) for order in orders)
    recall = statistics.fmean((order[0] < relevant) / relevant for order in orders)
    found = chance([relevant], 5)
    assert found.average_precision == pytest.approx(brute)
    assert found.recall_at_1 == pytest.approx(recall)


def test_chance_over_queries_is_their_mean() -> None:
    apart = [chance([relevant], 30).average_precision for relevant in (1, 2, 3)]
    assert chance([1, 2, 3], 30).average_precision == pytest.approx(statistics.fmean(apart))


def run_with(folder: Path, losses: list[float]) -> Path:
    """A run's files, of which only the log matters here."""
    folder.mkdir(parents=True)
    stage = {"name": BRIEF.recipe, "values": {}}
    overrides = BRIEF.overrides
    (folder / "run.json").write_text(json.dumps({"stage": stage, "data": {}, "overrides": overrides}))
    (folder / "status.json").write_text(json.dumps({"outcome": "finished", "steps": len(losses)}))
    lines = [{"step": step, "epoch": 0, "train/loss": loss} for step, loss in enumerate(losses, start=1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_runs_losses_are_means_over_a_fifth_of_its_steps(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", [5.0, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 2.0, 1.0])
    assert loss_ends(run) == (4.0, 1.5)


def test_a_run_of_one_step_cannot_show_that_its_loss_falls(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 steps; expected at least two"):
        loss_ends(run_with(tmp_path / "run", [5.0]))


def test_a_loss_that_does_not_fall_ends_the_road(tmp_path: Path) -> None:
    shard_folder(tmp_path / "dataset")
    run_with(tmp_path / "runs" / BRIEF.name, [1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(TrainingError, match=r"from 1\.000 to 5\.000; expected it to fall"):
        train_road(lab(tmp_path), [BRIEF])


def test_a_measure_no_better_than_chance_is_refused() -> None:
    measured = {"metric": "retrieval/text_to_audio/mAP", "value": 0.4, "low": 0.16, "high": 0.6}
    check_beats_chance(measured, 0.399)
    with pytest.raises(TrainingError, match=r"is 0\.400; expected more than 0\.401, which is chance"):
        check_beats_chance(measured, 0.401)


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"exit code 2 of trichord runs .*nowhere: trichord: no runs in"):
        carry_out(["runs", str(tmp_path / "nowhere")], aloud=False)


def test_a_stage_that_was_interrupted_goes_on_and_is_not_trained_twice(tmp_path: Path) -> None:
    shard_folder(tmp_path / "dataset")
    run = tmp_path / "runs" / BRIEF.name
    paths = (ROOT, ROOT / "tests", Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    begun = subprocess.Popen([sys.executable, "-c", GO, str(tmp_path)], env=environment, cwd=tmp_path)
    while not (run / "log.jsonl").exists() or len(steps(run)) < 3:
        assert begun.poll() is None
        time.sleep(0.05)
    begun.send_signal(signal.SIGINT)
    assert begun.wait(timeout=120) == 130
    before = len(steps(run))

    assert train_road(lab(tmp_path), [BRIEF]) == run
    after = steps(run)
    assert after == list(range(1, len(after) + 1))
    assert 3 <= before < len(after)

    log = (run / "log.jsonl").stat().st_mtime_ns
    train_road(lab(tmp_path), [BRIEF])
    assert (run / "log.jsonl").stat().st_mtime_ns == log


def steps(run: Path) -> list[int]:
    """Those that its log tells of; a line that is being written is left out."""
    whole = (run / "log.jsonl").read_text().rpartition("\n")[0].splitlines()
    return [line["step"] for line in map(json.loads, whole) if "train/loss" in line]
