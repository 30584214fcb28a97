"""Reproducing a paper: what its tables take, in which order, what is there, and going on after a stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ingestions import ROOT
from shard_folders import shard_folder

from flows.reproduce import reproduce
from flows.reproduce_command import request_of
from flows.reproduce_plan import Plan, ReproduceRequest, Step, command_line, cost_of, make_plan
from flows.reproduce_run import check_data, measured, run_step
from trainer.run_request import RunError


def _plan(out: Path, tables: str = "1,2,3,4", scale: str = "toy", data: tuple[str, ...] = ()) -> Plan:
    return make_plan(request_of(out, tables, scale, data, "cpu"))


def _step(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


def _command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "reproduce", "audioclip", "--out", str(out), *words]


def test_each_number_of_ours_has_a_step_that_measures_it(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    measured_by = {(step.recipe, step.needs[0].removeprefix("data-")) for step in plan.steps if step.needs}
    for row in plan.rows():
        assert (row["our_recipe"], row["our_dataset"]) in measured_by


def test_a_step_comes_after_what_it_needs(tmp_path: Path) -> None:
    done: set[str] = set()
    for step in _plan(tmp_path).steps:
        assert set(step.needs) <= done
        done.add(step.name)


def test_table_1_takes_no_model_of_three_towers(tmp_path: Path) -> None:
    names = [step.name for step in _plan(tmp_path, tables="1").steps]
    assert "crossval-finetune_esc50_standalone-from-standalone_5_epochs" in names
    assert not [name for name in names if "cooperative" in name or "imagenet" in name]


def test_commands_of_a_plan_are_those_of_the_command_line(tmp_path: Path) -> None:
    plan = _plan(tmp_path, scale="full", data=("audioset=s3://bucket/audioset",))
    told = command_line(_step(plan, "stage-full"))
    assert told.startswith(f"trichord train audioclip.full --from {tmp_path}/runs/cooperative")
    assert "--data s3://bucket/audioset" in told


def test_costs_are_assumed_until_a_run_has_measured_them(tmp_path: Path) -> None:
    plan = _plan(tmp_path, scale="full")
    stage = _step(plan, "stage-standalone")
    before = cost_of(stage, plan)
    assert (before.source, round(before.hours, 1)) == ("assumed", 21.5)
    _pretend_run(Path(stage.output), samples_per_s=1_600.0)
    after = cost_of(_step(plan, "stage-cooperative"), plan)
    assert (after.source, round(after.hours, 1)) == ("measured", 10.7)


def _pretend_run(folder: Path, *, samples_per_s: float) -> None:
    folder.mkdir(parents=True)
    facts = {"stage": {"name": "audioclip.standalone", "values": {"best": ""}}, "data": {}}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "log.jsonl").write_text(json.dumps({"step": 1, "speed/samples_per_s": samples_per_s}) + "\n")


def test_data_that_are_missing_are_named_with_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"esc50 at .*: trichord rebuild esc50 .*--data NAME=SHARDS"):
        check_data(_plan(tmp_path, tables="1", scale="full"))


def test_a_finished_step_is_not_repeated_and_a_lost_output_is_made_again(tmp_path: Path) -> None:
    plan, lines = _plan(tmp_path), list[str]()
    step = _step(plan, "data-esc50")
    run_step(plan, step)
    assert plan.done(step)
    sound = next((tmp_path / "data" / "esc50").rglob("*.tar"))
    written = sound.stat().st_mtime_ns
    run_step(plan, step, say=lines.append)
    assert lines == ["data-esc50: done before"]
    assert sound.stat().st_mtime_ns == written
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert not plan.done(step)


def test_toy_data_do_not_count_at_full_scale(tmp_path: Path) -> None:
    toy = _plan(tmp_path)
    run_step(toy, _step(toy, "data-imagenet"))
    full = _plan(tmp_path, scale="full")
    assert toy.done(_step(toy, "data-imagenet"))
    assert _json_of(toy, "data-imagenet") != full.did(_step(full, "data-imagenet"))


def _json_of(plan: Plan, name: str) -> object:
    return json.loads(plan.receipt(_step(plan, name)).read_text())["did"]


def test_tables_are_rendered_with_what_is_there_and_name_what_is_not(tmp_path: Path) -> None:
    plan = _plan(tmp_path, tables="1")
    assert measured(plan) == []
    run_step(plan, plan.steps[-1])
    page = (tmp_path / "results.md").read_text()
    assert page.startswith("# Toy results")
    assert "waits for audioclip.standalone on audioset" in page


def test_a_killed_reproduction_goes_on_with_what_was_not_done(tmp_path: Path) -> None:
    shard_folder(tmp_path / "audioset", (4,), seconds=0.2)
    out, given = tmp_path / "out", f"audioset={tmp_path / 'audioset'}"
    first = subprocess.Popen(
        _command(out, "--device", "cpu", "--data", given),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (out / "steps" / "data-us8k.json").exists() and first.poll() is None:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    plan, lines = _plan(out, data=(given,)), list[str]()
    for name in ("data-audioset", "data-us8k", "data-esc50", "data-imagenet"):
        run_step(plan, _step(plan, name), say=lines.append)
        assert plan.done(_step(plan, name))
    assert lines[:2] == ["data-audioset: done before", "data-us8k: done before"]
    assert lines[-1].startswith("data-imagenet: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": "1,5"}, "--tables names 5; expected some of 1,2,3,4"),
        ({"tables": ""}, "--tables names none"),
        ({"scale": "big"}, "--scale is 'big'; expected toy or full"),
        ({"data": ("esc10=x",)}, "--data names 'esc10'"),
        ({"data": ("esc50",)}, "expected NAME=SHARDS"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        _plan(tmp_path, **options)  # type: ignore[arg-type]


def test_the_flow_wants_an_absolute_folder() -> None:
    with pytest.raises(ValueError, match=r"out is 'repro': .* expected an absolute path"):
        reproduce.fn(out="repro")


def test_a_dry_run_shows_the_plan_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = subprocess.run(
        _command(out, "--dry-run"), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "27 of 27 steps are left" in told
    assert not out.exists()


@pytest.mark.long
def test_every_toy_table_is_filled_from_nothing(tmp_path: Path) -> None:
    subprocess.run(_command(tmp_path, "--device", "cpu"), cwd=ROOT, check=True)
    page = (tmp_path / "results.md").read_text()
    assert "waits for" not in page
    assert "24 of 2,000 rows" in page
    plan = make_plan(ReproduceRequest(out=tmp_path, device="cpu"))
    assert all(plan.done(step) for step in plan.steps)
