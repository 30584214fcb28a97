"""A run's folder: what lies where, and that one process at a time writes there."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.whole_file import appearing
from trainer.run_request import RunError

STEP_DIGITS = 8


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names within one run's folder; the folder itself holds `model.safetensors` and `config.json`, too."""

    path: Path

    @property
    def log(self) -> Path:
        """One JSON object a line: steps and evaluations."""
        return self.path / "log.jsonl"

    @property
    def facts(self) -> Path:
        """What was run: the stage, its overrides, data, versions."""
        return self.path / "run.json"

    @property
    def status(self) -> Path:
        """How far it is and how it ended."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:0{STEP_DIGITS}d}"

    def whole_checkpoints(self) -> list[Path]:
        """Those that were written to their end, oldest first."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(path for path in self.checkpoints.iterdir() if step_of(path) is not None)

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """JSON that appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as partial:
            partial.write_text(json.dumps(facts, indent=2) + "\n")


def step_of(checkpoint: Path) -> int | None:
    """The step that a checkpoint's folder is named after; None for another name."""
    prefix, _, digits = checkpoint.name.partition("-")
    return int(digits) if prefix == "step" and digits.isdecimal() else None


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Makes the folder and holds it for this process; the kernel frees the lock of one that dies.

    Raises RunError when another process holds it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(
                f"{folder.path} is in use by process {owner}; wait for it, end it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
