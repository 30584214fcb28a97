"""docs/slurm/train.sbatch does what it says, with real torchrun; only what Slurm would do is stood in for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ingestions import ROOT
from prefect_server import wait_until
from shard_folders import shard_folder

SCRIPT = ROOT / "docs" / "slurm" / "train.sbatch"
BIN = Path(sys.executable).parent
REQUEUED = '#!/bin/bash\necho "$@" >> "$REQUEUED"\n'
STEPS = 14  # of two epochs


@pytest.fixture
def submit(tmp_path: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """Starts the script as Slurm would, in a folder with data; `scontrol` writes down what it is told."""
    shard_folder(tmp_path / "data", (11, 17), seconds=0.3)
    stub = tmp_path / "bin" / "scontrol"
    stub.parent.mkdir()
    stub.write_text(REQUEUED)
    stub.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(stub.parent), str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": "42",
        "PROCESSES": "2",
        "OMP_NUM_THREADS": "1",
    }
    words = [
        *("debug.standalone", "--data", "data", "--out", "run", "--device", "cpu"),
        *("--set", "model.classes=4", "--set", "data.seconds=0.3", "--set", "batch_size=4"),
        *("--set", "data.dev_share=0", "--set", "evaluations=", "--set", "best=", "--set", "epochs=2"),
    ]

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def steps(folder: Path) -> list[int]:
    log = folder / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [line["step"] for line in found if "train/loss" in line]


@pytest.mark.slow  # four processes that each import torch
def test_a_job_whose_time_is_over_saves_is_queued_again_and_goes_on(
    submit: Callable[[], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    first = submit()
    wait_until(lambda: len(steps(tmp_path)) >= 2 or first.poll() is not None)
    os.kill(first.pid, signal.SIGTERM)  # --signal=B:TERM@120 tells the script alone
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 75, said
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    done = len(steps(tmp_path))
    assert 2 <= done < STEPS
    assert json.loads((tmp_path / "run" / "status.json").read_text())["outcome"] == "preempted"

    second = submit()
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert f"going on after step {done}" in said
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    assert steps(tmp_path) == list(range(1, STEPS + 1))


def test_a_job_that_was_asked_wrongly_is_not_queued_again(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }
    words = ["bash", str(SCRIPT), "debug.ful", "--data", "data", "--out", "run"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "did you mean debug.full" in done.stderr
