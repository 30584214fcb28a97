"""The demo as a person meets it: one command, a dataset that is in order, and nothing done twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ingestions import ROOT

from shards.plan import read_plans
from shards.query import open_manifest, run_query
from shards.status import read_status
from shards.store import open_store
from shards.verify import verify

COUNT = 12
DEAD = {"not_found": 1, "removed": 1, "private": 1, "corrupt": 2}  # as the demo's site has it


def run_demo(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    # somebody's own Prefect server, here one that does not answer, is left alone
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "COLUMNS": "80"}
    command = [sys.executable, "-m", "flows.demo", "--folder", str(folder), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder: Path) -> "subprocess.CompletedProcess[str]":
    return run_demo(folder, "--count", COUNT)


def test_the_demo_ends_well_and_tells_its_story(
    done: "subprocess.CompletedProcess[str]", folder: Path
) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for word in ("rendered", "balanced_train", "all is well", "trichord verify", "duckdb -readonly"):
        assert word in done.stdout


def test_what_is_left_is_a_whole_dataset_with_what_the_site_allows(
    done: "subprocess.CompletedProcess[str]", folder: Path
) -> None:
    store = open_store(folder / "dataset")
    verified = verify(store, deep=True)
    assert verified.findings == ()
    assert verified.samples == COUNT - sum(DEAD.values())
    rows = run_query(open_manifest(store), "select outcome, count(*) from segments group by all").rows()
    assert dict(rows) == {"ok": verified.samples, **DEAD}  # type: ignore[arg-type]
    assert {split.split for split in read_status(store).splits} == {"balanced_train", "eval"}


def test_one_that_failed_for_a_while_was_tried_again_by_a_second_run(
    done: "subprocess.CompletedProcess[str]", folder: Path
) -> None:
    assert "what had failed for a while: 1 segment" in done.stdout
    plans = read_plans(open_store(folder / "dataset"))
    assert [plan.segments for plan in plans if plan.retry] == [1]


def test_the_sheet_shows_what_was_kept(done: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    sheet = (folder / "sheet.html").read_text()
    keys = run_query(
        open_manifest(open_store(folder / "dataset")), "select key from segments where outcome = 'ok'"
    )
    assert sum(str(key) in sheet for (key,) in keys.rows()) >= 5
    assert "<audio" in sheet


def test_a_second_demo_does_nothing_twice(done: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    def files() -> dict[str, int]:
        paths = [*(folder / "dataset").glob("*"), *(folder / "audioset" / "videos").glob("*.mp4")]
        return {path.name: path.stat().st_mtime_ns for path in paths if path.is_file()}

    before = files()
    again = run_demo(folder, "--count", COUNT)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "all there already" in again.stdout
    assert "nothing to do" in again.stdout
    assert files() == before


def test_a_dataset_that_was_damaged_ends_the_demo_with_one_line(
    done: "subprocess.CompletedProcess[str]", folder: Path
) -> None:
    tar = next((folder / "dataset").glob("*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    damaged = run_demo(folder, "--count", COUNT)
    tar.write_bytes(whole)
    assert damaged.returncode == 6
    assert damaged.stderr.count("\n") == 1
    assert tar.name in damaged.stderr


@pytest.mark.parametrize(("count", "word"), [(COUNT + 1, "another --folder"), (3, "at least 12")])
def test_a_count_that_cannot_be_is_answered_with_one_line(
    done: "subprocess.CompletedProcess[str]", folder: Path, count: int, word: str
) -> None:
    refused = run_demo(folder, "--count", count)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert word in refused.stderr
