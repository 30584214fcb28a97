"""Everything a run needs to go on as if it had never stopped, written in the background, whole or not."""

import errno
import json
import os
import random
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from shards.whole_file import appearing
from trainer.run_folder import RunFolder, step_of
from trainer.run_request import RunError, RunFailed
from trainer.weights import CONFIG, WEIGHTS

STATE = "state.pt"
FORMAT = 1
KEEP = 3  # last checkpoints
NO_ROOM = 1 << 20  # bytes that a full disk may have left


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A run at the end of a step, copied off the device, so that training can go on while it is written."""

    step: int
    weights: Mapping[str, Tensor]  # what a person wants of it: averaged weights where there are any
    config: Mapping[str, Any]  # what rebuilds the model
    state: Mapping[str, Any]  # all else; plain values and tensors only


def copied(value: Any) -> Any:
    """The value with every tensor in it copied to the CPU, strides kept."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, (list, tuple)) else value


class CheckpointWriter:
    """Writes one snapshot at a time in a thread of its own; an error there is raised by the next call.

    The interpreter waits for that thread when it ends: one that it stopped in the midst of writing would take
    the process with it.
    """

    def __init__(self, folder: RunFolder, *, after: int | None = None, keep: int = KEEP) -> None:
        """A run that goes on `after` a step drops what was written beyond it, and will be written again."""
        self._folder, self._keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        for left in folder.checkpoints.glob("*.partial"):
            shutil.rmtree(left)  # of a process that was killed while it wrote
        for path in folder.whole_checkpoints():
            if after is not None and (step_of(path) or 0) > after:
                _remove(path)
        self.last: Path | None = next(reversed(folder.whole_checkpoints()), None)

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def write(self, snapshot: Snapshot, *, best_step: int | None = None, publish: bool = False) -> None:
        """Begins to write, once the last one is done. The checkpoint of `best_step` is never removed.

        `publish` copies the weights to the run's folder itself, where `load_model` finds them; whoever finds
        the checkpoint finds these.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, best_step, publish), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun is written. Raises RunFailed for what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            kept = f"the last whole one is {self.last}" if self.last else "there is none yet"
            raise RunFailed(
                f"{self._folder.path}: no checkpoint could be written: {error}; {kept}. Once there is room, "
                "the same command goes on from there"
            ) from error

    def _write(self, snapshot: Snapshot, best_step: int | None, publish: bool) -> None:
        try:
            self.last = write_checkpoint(snapshot, self._folder, publish=publish)
            remove_old(self._folder, keep=self._keep, best_step=best_step)
        except BaseException as error:
            self._error = error


def write_checkpoint(snapshot: Snapshot, folder: RunFolder, *, publish: bool = False) -> Path:
    """The checkpoint's folder; it appears by a rename, after all of it has reached the disk.

    With `publish` the run's own weights are replaced just before. What fails takes its half away again.
    """
    partial = folder.checkpoint(snapshot.step).with_suffix(".partial")
    try:
        return _written(snapshot, folder, partial, publish)
    except Exception as error:
        full = shutil.disk_usage(folder.path).free < NO_ROOM
        shutil.rmtree(partial, ignore_errors=True)  # a full disk has no room for it
        if full:  # torch.save tells it as `unexpected pos`
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def _written(snapshot: Snapshot, folder: RunFolder, partial: Path, publish: bool) -> Path:
    target = folder.checkpoint(snapshot.step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / CONFIG).write_text(json.dumps(dict(snapshot.config), indent=2, sort_keys=True) + "\n")
    weights = {name: tensor.contiguous() for name, tensor in snapshot.weights.items()}
    safetensors.torch.save_file(weights, partial / WEIGHTS)
    torch.save(dict(snapshot.state), partial / STATE)
    for file in partial.iterdir():
        _flush(file)
    _flush(partial)
    if publish:
        publish_weights(partial, folder.path)
    _remove(target)  # one of the same step, from before a resume
    partial.rename(target)
    _flush(target.parent)
    return target


def publish_weights(checkpoint: Path, run: Path) -> None:
    """Copies weights and config beside each other into the run's folder; each appears whole."""
    for name in (CONFIG, WEIGHTS):
        with appearing(run / name) as partial:
            shutil.copyfile(checkpoint / name, partial)
            _flush(partial)


def remove_old(folder: RunFolder, *, keep: int, best_step: int | None) -> None:
    """All but the last `keep` and the best."""
    for path in folder.whole_checkpoints()[:-keep]:
        if step_of(path) != best_step:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """By a rename first: nobody must find half of it."""
    if checkpoint.exists():
        doomed = checkpoint.with_name(f"{checkpoint.name}.removed.partial")
        checkpoint.rename(doomed)
        shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading


def find_checkpoint(resume: str, folder: RunFolder) -> Path | None:
    """What `--resume` means here: the newest whole checkpoint, the one that was named, or None.

    A folder that has gone on from another run goes on from its own checkpoints, so that the same command may
    be given again. Raises RunError for `never` in a folder that holds a run, and for a path without a
    checkpoint.
    """
    own = folder.whole_checkpoints()
    if resume == "auto" or (resume != "never" and own and not _within(resume, folder)):
        return own[-1] if own else None
    if resume == "never":
        if own:
            raise RunError(
                f"{folder.path} holds a run at step {step_of(own[-1])}; expected an empty --out with "
                "--resume never: choose another, or leave --resume out to go on"
            )
        return None
    path = Path(resume).expanduser()
    found = [path] if (path / STATE).is_file() else RunFolder(path).whole_checkpoints()
    if not found:
        raise RunError(f"--resume {resume}: no checkpoint there; expected auto, never, a run or a checkpoint")
    return found[-1]


def _within(resume: str, folder: RunFolder) -> bool:
    return Path(resume).expanduser().resolve().is_relative_to(folder.path.resolve())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and state. Nothing in the files is executed. Raises RunError for what is no checkpoint."""
    try:
        weights = safetensors.torch.load_file(path / WEIGHTS)
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # a file cut short fails in a dozen ways
        raise RunError(
            f"{path} is no readable checkpoint: {error}; remove it to go on from the one before"
        ) from None
    if state.get("format") != FORMAT:
        raise RunError(f"{path} has format {state.get('format')}; expected {FORMAT}: use the code it is from")
    return weights, state


# -- random states


def random_states(device: torch.device) -> dict[str, Any]:
    """Of every global generator. Training reads none of them, but a user's objective may."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
