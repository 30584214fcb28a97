import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from toy_run import toy_run
from toy_training import one_thread  # noqa: F401  # a fixture

from trainer.run_request import Outcome

TESTS = Path(__file__).parents[1]


def launch_two(out: Path, pause_s: float) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = [str(TESTS / "toy_run.py"), str(out), "STILL_NORMS", str(pause_s)]
    words = [sys.executable, *torchrun, *script]
    return subprocess.Popen(words, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True)


def logged(out: Path) -> list[dict[str, Any]]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(theirs)


def test_two_processes_stop_together_and_one_goes_on_with_the_numbers_of_one_alone(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    pair = launch_two(together, pause_s=0.5)
    toy_run(alone, "STILL_NORMS")
    until = time.monotonic() + 120
    while time.monotonic() < until and len(logged(together)) < 3 and pair.poll() is None:
        time.sleep(0.05)
    pair.send_signal(signal.SIGTERM)
    _, said = pair.communicate(timeout=120)
    assert json.loads((together / "status.json").read_text())["outcome"] == "preempted", said
    assert 3 <= logged(together)[-1]["step"] < 8

    assert toy_run(together, "STILL_NORMS").outcome is Outcome.FINISHED
    assert [line["step"] for line in logged(together)] == list(range(1, 9))
    traces = list(zip(logged(together), logged(alone), strict=True))
    first, whole = traces[0]
    assert apart(first["train/loss"], whole["train/loss"]) < 1e-5
    assert apart(first["train/gradient_norm"], whole["train/gradient_norm"]) < 1e-4
    # later steps amplify what the order of sums left
    assert max(apart(ours["train/loss"], theirs["train/loss"]) for ours, theirs in traces) < 0.02
