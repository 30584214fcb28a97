import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from toy_run import toy_run
from toy_training import one_thread  # noqa: F401  # a fixture

TESTS = Path(__file__).parents[1]
STEPS = 8
SETTINGS = ("ema=0.9", "epochs=2")


def launch(out: Path, pause_s: float = 0.0) -> subprocess.Popen[str]:
    words = [sys.executable, str(TESTS / "toy_run.py"), str(out), "FULL", str(pause_s), *SETTINGS]
    return subprocess.Popen(words, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> int:
    _, said = process.communicate(timeout=120)
    assert process.returncode in (0, 75, -9), said
    return process.returncode


def logged(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if not name.startswith("speed/")} for line in lines]


def stop_at(out: Path, step: int, number: signal.Signals, *, saved: bool) -> int:
    """Launches, waits until `step` is logged (and some checkpoint written), and sends the signal."""
    process = launch(out, pause_s=0.3)
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        log = out / "log.jsonl"
        reached = log.is_file() and log.read_text().count("\n") >= step
        if reached and (not saved or list((out / "checkpoints").glob("step-????????"))):
            break
        time.sleep(0.02)
    process.send_signal(number)
    return finished(process)


def test_a_run_killed_and_stopped_at_random_steps_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first, second = random.randint(1, 3), random.randint(4, 6)
    print(f"killed after step {first}, stopped after step {second}")

    assert stop_at(broken, first, signal.SIGKILL, saved=True) == -9
    assert stop_at(broken, second, signal.SIGTERM, saved=True) == 75
    assert json.loads((broken / "status.json").read_text())["outcome"] == "preempted"
    toy_run(broken, "FULL", *SETTINGS)
    toy_run(whole, "FULL", *SETTINGS)

    assert [line["step"] for line in logged(whole)] == list(range(1, STEPS + 1))
    assert logged(broken) == logged(whole)
    name = f"checkpoints/step-{STEPS:08d}"
    for file in ("model.safetensors", f"{name}/model.safetensors"):
        ours, theirs = (safetensors.torch.load_file(run / file) for run in (broken, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours)
    assert_same(*(torch.load(run / name / "state.pt", weights_only=True) for run in (broken, whole)))


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
