"""Carrying out a plan of reproduction: what is missing is done in a process of its own, with a receipt."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.reproduce_plan import Plan, Step
from pipeline.demo_downstream import write_demo_esc50, write_demo_imagenet, write_demo_us8k
from pipeline.demo_videos import SPLITS, write_demo_dataset
from pipeline.ingest import ingest
from pipeline.rebuild import RebuildSettings, rebuild
from pipeline.settings import IngestSettings
from shards.whole_file import appearing
from trainer.results import latest, read_results
from trainer.results_page import tables_page
from trainer.run_folder import RunFolder
from trainer.run_request import RunError, RunFailed

TOY_VIDEOS = 36
TOY_FOLDS, TOY_EACH = 3, 2
LAST_LINES = 12
STOP_WITHIN_S = 300.0
_REQUEUE, _INTERRUPTED = 75, 130

Say = Callable[[str], None]


class StepStopped(Exception):
    """A step was asked to stop and has saved; the same command goes on. `code` is its exit code."""

    def __init__(self, step: Step, code: int) -> None:
        super().__init__(f"{step.name} was asked to stop and has saved: the same command goes on from there")
        self.code = code


def run_step(plan: Plan, step: Step, *, say: Say = lambda line: None) -> None:
    """Do it, unless it is done, and leave its receipt. Raises RunError, RunFailed or StepStopped."""
    if plan.done(step):
        return say(f"{step.name}: done before")
    begun = time.monotonic()
    _ACTIONS.get(step.kind, _command)(plan, step)
    seconds = time.monotonic() - begun
    RunFolder(plan.out).write(plan.receipt(step), {"did": plan.did(step), "seconds": round(seconds, 1)})
    say(f"{step.name}: {seconds:.0f} s; {step.output}")


def missing_data(plan: Plan) -> list[Step]:
    """Data that are not there and that this command does not make."""
    if plan.request.scale == "toy":
        return [
            s for s in plan.steps if s.kind == "data" and _name(s) in plan.request.data and not plan.done(s)
        ]
    return [step for step in plan.steps if step.kind == "data" and not plan.done(step)]


def check_data(plan: Plan) -> None:
    """Raises RunError with what each lacking data set takes."""
    if lacking := missing_data(plan):
        told = "; ".join(f"{_name(step)} at {step.output}: {step.how or 'no shards'}" for step in lacking)
        raise RunError(f"data are missing: {told}. Make them, or say where they are: --data NAME=SHARDS")


def _name(step: Step) -> str:
    return step.name.partition("-")[2]


# -- a command


def _command(plan: Plan, step: Step) -> None:
    log = plan.out / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        code = _ended(plan, step, file)
    if code in (_REQUEUE, _INTERRUPTED):
        raise StepStopped(step, code)
    if code:
        with log.open(encoding="utf-8", errors="replace") as lines:
            last = "".join(deque(lines, LAST_LINES)).strip()
        error = RunError if code == 2 else RunFailed
        raise error(f"{step.name} ended with code {code}; its last lines, all of them in {log}:\n{last}")


def _ended(plan: Plan, step: Step, file: Any) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *step.command],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env=_environment(plan),
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    try:
        return process.wait()
    except BaseException:  # interrupted or cancelled: let it save
        process.terminate()
        try:
            process.wait(timeout=STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with_parent() -> None:
    """Whoever kills this command, also by SIGKILL, stops the step in work, which saves first."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment(plan: Plan) -> Mapping[str, str]:
    """Toys are so small that threads wait for one another longer than they compute."""
    return {**os.environ, "OMP_NUM_THREADS": "1"} if plan.request.scale == "toy" else os.environ


# -- toy data


def _data(plan: Plan, step: Step) -> None:
    """Made-up data in the form of the published ones; at full scale nobody's command can fetch them."""
    name = _name(step)
    if plan.request.scale != "toy" or name in plan.request.data:
        check_data(plan)
        return
    raw = plan.out / "raw" / name
    if name == "audioset":
        _demo_audioset(raw, step.output)
    else:
        _REBUILT[name](raw)
        rebuild(
            RebuildSettings(
                dataset={"us8k": "urbansound8k", "imagenet": "imagenet-val"}.get(name, name),
                root=str(raw),
                out=step.output,
                allow_partial=True,
                min_free=200 << 20,
            )
        )


_REBUILT: Mapping[str, Callable[[Path], None]] = {
    "esc50": lambda root: write_demo_esc50(root, folds=TOY_FOLDS, each=TOY_EACH),
    "us8k": lambda root: write_demo_us8k(root, folds=TOY_FOLDS, each=TOY_EACH),
    "imagenet": lambda root: write_demo_imagenet(root, each=2 * TOY_EACH),
}


def _demo_audioset(raw: Path, out: str) -> None:
    demo = write_demo_dataset(raw, count=TOY_VIDEOS, jobs=os.cpu_count() or 2)
    for split in SPLITS:
        summary = ingest(
            IngestSettings(
                segments=str(demo.segments(split)),
                out=out,
                split=split,
                media=str(demo.media),
                media_pattern="{ytid}.*",
                segments_per_shard=12,
                min_free=200 << 20,
            )
        )
        if summary.stopped is not None:
            raise RunFailed(f"{split} stopped: {summary.stopped}; the same command goes on from there")


# -- tables


def _tables(plan: Plan, step: Step) -> None:
    page = tables_page(measured(plan), tables=plan.request.tables, head=_head(plan))
    with appearing(Path(step.output)) as partial:
        partial.write_text(page, encoding="utf-8")


def measured(plan: Plan) -> list[dict[str, Any]]:
    """Rows of all evaluations, with their recipes as the tables name them."""
    return [
        {**row, "recipe": step.recipe}
        for step in plan.steps
        if step.kind in ("evaluation", "crossval")
        for row in latest(read_results(Path(step.output)))
    ]


def _head(plan: Plan) -> str:
    return _TOY_HEAD if plan.request.scale == "toy" else _FULL_HEAD


_TOY_HEAD = """# Toy results

**These numbers mean nothing**: a toy model, seconds of training, made-up sounds and pictures. They show that
every cell can be filled, each beside the published number that it will stand beside.
"""
_FULL_HEAD = """# Results of this reproduction

Published numbers, and beside them those of the runs in this folder.
"""
_ACTIONS: Mapping[str, Callable[[Plan, Step], None]] = {"data": _data, "tables": _tables}
