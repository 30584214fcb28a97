"""What the flow train-stage starts and how it tells what came of it; test_prefect_deployment.py runs it."""

from pathlib import Path

import pytest
from prefect.states import State

from flows.train_stage import Ended, StageFailed, _check_absolute, _result, command


def test_one_process_is_started_as_it_is_and_several_by_torchrun() -> None:
    assert command(["debug.full", "--out=/runs/a"], 1)[1:] == [
        "-m",
        "trainer",
        "train",
        "debug.full",
        "--out=/runs/a",
    ]
    several = command(["debug.full"], 8)
    assert several[1:3] == ["-m", "torch.distributed.run"]
    assert several[-5:] == ["--nproc_per_node=8", "-m", "trainer", "train", "debug.full"]


def test_a_process_that_was_asked_to_stop_makes_a_state_that_says_so() -> None:
    state = _result(Ended(code=75, step="1,200", last=()), Path("/runs/a"))
    assert isinstance(state, State)
    assert (state.name, state.is_cancelled()) == ("Preempted", True)
    assert "after step 1,200, and saved" in str(state.message)


def test_a_process_that_failed_shows_its_last_lines() -> None:
    with pytest.raises(
        StageFailed, match="ended with code 2; its last lines:\nstep 3\ntrichord: no such thing"
    ):
        _result(Ended(code=2, step="3", last=("step 3", "trichord: no such thing")), Path("/runs/a"))


@pytest.mark.parametrize("name", ["data", "out", "start_run", "recipe", "objective"])
def test_a_relative_path_is_answered_with_the_absolute_one(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} is 'some/file.py': .* expected an absolute path, such as /"
    ):
        _check_absolute(**{name: "some/file.py"})


def test_names_and_addresses_are_no_paths() -> None:
    _check_absolute(
        recipe="audioclip.full", data="s3://bucket/data", start_run="audioclip-full", out="/runs/a"
    )
