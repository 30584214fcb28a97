"""The Prefect flow of a training stage: it launches the same process as the command line and follows it."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.states import Cancelled

from trainer.command_line import EXIT_CODE_FILE
from trainer.run_folder import RunFolder
from trainer.run_log import read_log
from trainer.run_request import ExitCode

LAST_LINES = 20  # of the process, for who reads why it failed
UPDATE_EVERY_S = 5.0
STOP_WITHIN_S = 300.0  # for a step and a checkpoint
_STEP = re.compile(r"step ([\d,]+)/([\d,]+) ")  # as trainer.run_log's live line begins


class StageFailed(RuntimeError):
    """The process ended in a way that another launch would not mend."""


@flow(name="train-stage")
def train_stage(
    recipe: str,
    data: str,
    out: str,
    start_run: str | None = None,
    where: str | None = None,
    annotations: list[str] | None = None,
    text: str | None = None,
    objective: str | None = None,
    overrides: list[str] | None = None,
    resume: str = "auto",
    device: str = "auto",
    processes: int = 1,
    relaunches: int = 0,
) -> Any:
    """Train a stage in processes of its own, as `trichord train` does.

    Args:
        recipe: a name that `trichord recipe list` shows, or /absolute/file.py:name.
        data: the shards: an absolute folder, or s3://bucket/prefix.
        out: the run's absolute folder; a run that was begun there goes on.
        start_run: where to start from: a run's absolute folder, a weights file, or published weights.
        where: SQL over the samples, which selects some.
        annotations: absolute paths of Parquet files keyed by sample.
        text: column of an annotation that is a sample's text.
        objective: /absolute/file.py:Name of a loss of one's own.
        overrides: values of the recipe, such as ["optim.lr=3e-4"].
        resume: auto, never, or a run or checkpoint to go on from.
        device: auto, cuda, mps or cpu.
        processes: that train together on this machine, one for each GPU.
        relaunches: how often a run that was asked to stop is launched again.
    """
    _check_absolute(data=data, out=out, start_run=start_run, recipe=recipe, objective=objective)
    options = {
        **{"--data": data, "--out": out, "--from": start_run, "--where": where, "--text": text},
        **{"--objective": objective, "--resume": resume, "--device": device},
    }
    many = {"--annotation": annotations, "--set": overrides}
    words = [recipe, *_options(options, many)]
    for launch in range(relaunches + 1):
        end = _follow(command(words, processes))
        if end.code != ExitCode.REQUEUE or launch == relaunches:
            return _result(end, Path(out))
        get_run_logger().info("asked to stop after step %s; launching it again", end.step)
    raise AssertionError("unreachable")


def command(words: Sequence[str], processes: int) -> list[str]:
    """The process that a person would start: one, or torchrun's."""
    launcher = [sys.executable, "-m", "trainer"]
    if processes > 1:
        together = ["--standalone", f"--nproc_per_node={processes}"]
        launcher = [sys.executable, "-m", "torch.distributed.run", *together, "-m", "trainer"]
    return [*launcher, "train", *words]


def _options(options: dict[str, str | None], many: dict[str, list[str] | None]) -> Iterator[str]:
    for name, value in options.items():
        if value:
            yield f"{name}={value}"
    for name, values in many.items():
        yield from (f"{name}={value}" for value in values or ())


def _check_absolute(**paths: str | None) -> None:
    """A worker runs in a folder of its own, so that a relative path would be another one there."""
    for name, path in paths.items():
        file = "/" in path or ".py" in path if path else False
        if path and (file or name in ("data", "out")) and "://" not in path and not Path(path).is_absolute():
            raise ValueError(
                f"{name} is {path!r}: a worker runs in a folder of its own; expected an absolute path, "
                f"such as {Path(path).absolute()}"
            )


# -- the process


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a launch ended."""

    code: int
    step: str  # the last that it told of
    last: tuple[str, ...]  # lines


def _follow(words: Sequence[str]) -> Ended:
    """The process to its end: its lines are the flow's log, its steps an artifact."""
    log, progress = get_run_logger(), _Progress()
    log.info("%s", shlex.join(words))
    last: deque[str] = deque(maxlen=LAST_LINES)
    with TemporaryDirectory() as folder, _started(words, Path(folder) / "code") as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            log.info("%s", line.rstrip())
            progress.see(line)
        process.wait()
        told = Path(folder) / "code"
        code = int(told.read_text()) if told.exists() else process.returncode
    progress.publish()
    return Ended(code=code, step=progress.step, last=tuple(last))


@contextlib.contextmanager
def _started(words: Sequence[str], code_file: Path) -> Iterator["subprocess.Popen[str]"]:
    """In a session of its own, so that whoever kills the flow's process does not interrupt a checkpoint."""
    process = subprocess.Popen(
        words,
        env={**os.environ, EXIT_CODE_FILE: str(code_file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:  # a cancelled flow run: Prefect raises in the middle of whatever goes on
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[str]") -> None:
    """Asks for a checkpoint, and waits for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Progress:
    """The artifact that follows the steps."""

    def __init__(self) -> None:
        created = create_progress_artifact(progress=0.0, key="train-progress", description="steps done")
        assert isinstance(created, UUID)
        self._artifact = created
        self._share, self._published_at = 0.0, 0.0
        self.step = "0"

    def see(self, line: str) -> None:
        if found := _STEP.match(line):
            done, total = (int(number.replace(",", "")) for number in found.groups())
            self.step, self._share = found[1], done / max(total, 1)
            if time.monotonic() - self._published_at >= UPDATE_EVERY_S:
                self.publish()

    def publish(self) -> None:
        self._published_at = time.monotonic()
        update_progress_artifact(self._artifact, progress=100.0 * self._share)


# -- how it ended


def _result(end: Ended, out: Path) -> Any:
    """What the flow gives back, or the state that says what happened."""
    if end.code == ExitCode.OK:
        _publish(out)
        return {"out": str(out), "step": end.step}
    if end.code == ExitCode.REQUEUE:
        return Cancelled(
            name="Preempted",
            message=f"asked to stop after step {end.step}, and saved: run again, it goes on from there",
        )
    lines = "\n".join(end.last)
    raise StageFailed(f"the process ended with code {end.code}; its last lines:\n{lines}")


def _publish(out: Path) -> None:
    """The last evaluation, where a person looks."""
    numbers: dict[str, float] = {}
    for line in read_log(RunFolder(out).log):
        numbers |= {name: value for name, value in line.items() if name not in ("step", "epoch")}
    rows = [f"| {name} | {value:.6g} |" for name, value in sorted(numbers.items())]
    table = ["| measure | last |", "|---|---|", *rows]
    create_markdown_artifact("\n".join([f"# {out}", "", *table]), key="train-result")
