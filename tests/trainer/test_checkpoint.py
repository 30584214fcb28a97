"""Checkpoints are whole or not there, whatever comes between; what `--resume` takes."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import CheckpointWriter, Snapshot, find_checkpoint, read_checkpoint
from trainer.run_folder import RunFolder
from trainer.run_request import ExitCode, RunFailed


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def snapshot(step: int, *, numbers: int = 8) -> Snapshot:
    weights = {"w": torch.full((numbers,), float(step))}
    return Snapshot(step=step, weights=weights, config={"step": step}, state={"format": 1, "step": step})


def write(writer: CheckpointWriter, *steps: int, numbers: int = 8) -> None:
    for step in steps:
        writer.write(snapshot(step, numbers=numbers), publish=True)
    writer.wait()


def steps(folder: RunFolder) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in folder.whole_checkpoints()]


def test_a_run_that_goes_on_from_an_earlier_step_drops_later_ones_and_writes_them_again(
    folder: RunFolder,
) -> None:
    write(CheckpointWriter(folder), 1, 2, 3)
    again = CheckpointWriter(folder, after=1)
    assert steps(folder) == [1]
    write(again, 2, 2)  # also one that is there
    assert steps(folder) == [1, 2]
    weights, state = read_checkpoint(folder.checkpoint(2))
    assert (weights["w"][0], state["step"]) == (2, 2)
    assert not list(folder.checkpoints.glob("*.partial"))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to write on, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_leaves_the_last_checkpoint_whole_and_nothing_beside_it(
    folder: RunFolder,
) -> None:
    writer = CheckpointWriter(folder)
    write(writer, 1)
    with files_no_larger_than(10_000), pytest.raises(RunFailed) as failed:
        write(writer, 2, numbers=10_000)
    assert f"the last whole one is {folder.checkpoint(1)}. Once there is room, the same" in str(failed.value)
    assert failed.value.code is ExitCode.FAILED
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000001"]
    assert read_checkpoint(folder.checkpoint(1))[1]["step"] == 1
    write(writer, 3)
    assert steps(folder) == [1, 3]


def test_whoever_finds_a_checkpoint_finds_what_was_to_be_published_with_it(folder: RunFolder) -> None:
    writer = CheckpointWriter(folder)
    (folder.path / "model.safetensors").mkdir(parents=True)  # in the way
    with pytest.raises(RunFailed):
        write(writer, 1)
    assert steps(folder) == []


def test_a_folder_that_went_on_from_another_run_goes_on_from_its_own(
    folder: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "other")
    write(CheckpointWriter(other), 4, 5)
    assert find_checkpoint(str(other.path), folder) == other.checkpoint(5)
    assert find_checkpoint(str(other.checkpoint(4)), folder) == other.checkpoint(4)
    write(CheckpointWriter(folder), 6, 7)
    assert find_checkpoint(str(other.path), folder) == folder.checkpoint(7)
    assert find_checkpoint(str(folder.checkpoint(6)), folder) == folder.checkpoint(6)  # back, on purpose
