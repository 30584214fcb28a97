"""What runs have left in their folders, read for people who compare them; also while they go."""

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.run_folder import RunFolder
from trainer.run_log import read_log

LAST_STEPS = 20  # over which loss and speed are averaged
SILENT_AFTER_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run."""

    path: Path
    recipe: str
    state: (
        str  # running, finished, preempted, interrupted, failed; silent: it said it runs, and nothing since
    )
    step: int
    steps: int
    changes: tuple[str, ...]  # what its recipe was given: "optim.lr=3e-4"
    data: str  # eight digits of the hash over its samples' keys
    loss: float | None  # of the last steps
    samples_per_s: float | None
    best: tuple[str, float] | None
    metrics: Mapping[str, float]  # of the last evaluation
    curves: Mapping[str, Sequence[tuple[int, float]]]  # by measure: (step, value)


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs in `folder`, at any depth, or itself; in the order of their names."""
    return sorted(facts.parent for facts in folder.rglob(RunFolder(folder).facts.name))


def read_run(path: Path) -> RunView:
    """What is known of a run. Raises ValueError for a folder whose files are not a run's."""
    folder = RunFolder(path)
    facts, status = _json(folder.facts), _json(folder.status) if folder.status.exists() else {}
    try:
        stage, data = facts["stage"], facts["data"]
        return RunView(
            path=path,
            recipe=str(stage["name"]),
            state=_state(folder, status),
            changes=tuple(facts.get("overrides", ())),
            data=str(data.get("key_list_sha256", ""))[:8],
            steps=int(status.get("steps", 0)),
            best=_best(stage, status),
            metrics=dict(status.get("metrics", {})),
            **_logged(folder, int(status.get("step", 0))),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder.facts} is no run's: {error!r}; expected a folder that `train` made"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not readable: {error}; expected a file that `train` wrote") from None


def _state(folder: RunFolder, status: Mapping[str, Any]) -> str:
    """A killed run cannot say so: its process is gone, or on another machine and silent."""
    state = str(status.get("outcome", "running"))
    if state != "running" or _alive(folder.path / "lock"):
        return state
    signs = [path.stat().st_mtime for path in (folder.log, folder.status) if path.exists()]
    return "running" if signs and time.time() - max(signs) < SILENT_AFTER_S else "silent"


def _alive(lock: Path) -> bool:
    try:
        os.kill(int(lock.read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _best(stage: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, float] | None:
    name, value = stage["values"].get("best", ""), status.get("best")
    return (str(name), float(value)) if name and value is not None else None


def _logged(folder: RunFolder, step: int) -> dict[str, Any]:
    lines = list(read_log(folder.log))
    curves = _curves(lines)
    speeds = [value for _, value in curves.get("speed/samples_per_s", ())[-LAST_STEPS:]]
    losses = [value for _, value in curves.get("train/loss", ())[-LAST_STEPS:]]
    return {
        "step": max([step, *(int(line["step"]) for line in lines[-1:])]),
        "loss": statistics.fmean(losses) if losses else None,
        "samples_per_s": statistics.median(speeds) if speeds else None,
        "curves": curves,
    }


def _curves(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "epoch") and isinstance(value, int | float):
                curves.setdefault(name, []).append((int(line["step"]), float(value)))
    return curves
