import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from shard_folders import shard_folder
from toy_training import one_thread as one_thread  # a fixture

from trainer.checkpoint import read_checkpoint
from trainer.run import run
from trainer.run_folder import RunFolder
from trainer.run_request import Outcome, RunRequest

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.train=balanced_train",
    "data.dev_share=0.2",
    "data.seconds=0.5",
    "batch_size=6",
    "epochs=2",
    "ema=0.9",
    "evaluations=retrieval",
    "best=retrieval/audio_to_text/mAP",
    "machine.save_minutes=0",
)


def launch(data: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "trainer", "train", "debug.full", "--data", str(data), "--out", str(out)]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*words, "--device", "cpu"], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=one_thread
    )


def logged(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine's speed."""
    if not (out / "log.jsonl").is_file():
        return []
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().split("\n")[:-1]]
    return [{name: line[name] for name in line if not name.startswith("speed/")} for line in lines]


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in logged(out) if "train/loss" in line]


def stopped_at(data: Path, out: Path, step: int, number: signal.Signals) -> int:
    """Launches, waits until `step` is logged and some checkpoint written, and sends the signal."""
    process = launch(data, out)
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        if step in steps_of(out) and list((out / "checkpoints").glob("step-????????")):
            break
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode in (75, -9), said
    return process.returncode


def test_a_run_killed_and_stopped_at_random_steps_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    data, whole, broken = tmp_path / "data", tmp_path / "whole", tmp_path / "broken"
    shard_folder(data, (13, 11, 14), seconds=0.6)
    request = RunRequest(recipe="debug.full", data=str(data), out=whole, overrides=SETTINGS, device="cpu")
    first, second = random.randint(1, 3), random.randint(5, 7)
    print(f"killed after step {first}, stopped after step {second}")

    assert stopped_at(data, broken, first, signal.SIGKILL) == -9
    assert stopped_at(data, broken, second, signal.SIGTERM) == 75
    assert json.loads((broken / "status.json").read_text())["outcome"] == "preempted"
    resumed_from = json.loads((broken / "status.json").read_text())["step"]
    theirs = RunRequest(recipe="debug.full", data=str(data), out=broken, overrides=SETTINGS, device="cpu")
    assert run(theirs).outcome is Outcome.FINISHED
    result = run(request)

    assert resumed_from < result.step
    assert steps_of(whole) == list(range(1, result.step + 1))
    assert logged(broken) == logged(whole)
    name = f"checkpoints/step-{result.step:08d}"
    for file in ("model.safetensors", f"{name}/model.safetensors"):
        ours, expected = (safetensors.torch.load_file(each / file) for each in (broken, whole))
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[tensor], expected[tensor]) for tensor in ours)
    assert_same(*(torch.load(each / name / "state.pt", weights_only=True) for each in (broken, whole)))


def assert_same(left: Any, right: Any) -> None:
    """Everything of two states, but for the facts of where they were made."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left.keys() - {"facts"}:
            assert_same(left[name], right[name])
    elif isinstance(left, (list, tuple)):
        for ours, theirs in zip(left, right, strict=True):
            assert_same(ours, theirs)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


ENDS_WHILE_IT_WRITES = """
import sys, torch
from pathlib import Path
from trainer.checkpoint import CheckpointWriter, Snapshot
from trainer.run_folder import RunFolder

state = {str(n): torch.zeros(1000) for n in range(200)}
writer = CheckpointWriter(RunFolder(Path(sys.argv[1])))
writer.write(Snapshot(step=1, weights={"w": torch.ones(3)}, config={}, state=state | {"format": 1}))
"""


def test_a_process_that_comes_to_its_end_finishes_the_checkpoint_first(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDS_WHILE_IT_WRITES, str(tmp_path)], cwd=ROOT, check=True)
    [checkpoint] = RunFolder(tmp_path).whole_checkpoints()
    weights, state = read_checkpoint(checkpoint)
    assert weights["w"].tolist() == [1, 1, 1]
    assert len(state) == 201
