"""`trichord rebuild` as a person types it: what it says, how it ends, and that it can be killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from click.testing import Result
from ingestions import ROOT
from small_datasets import tone, write_esc50, write_table
from typer.testing import CliRunner

from flows.cli import Exit
from flows.rebuild_command import rebuild_app
from shards.ledger import read_attempts
from shards.profile import read_dataset
from shards.store import open_store

MISSING = f"{__file__}/missing"  # below a file there is nothing, whoever works on this machine
HEAVY = {"torch", "prefect", "dask", "yt_dlp", "duckdb", "webdataset", "pyarrow", "numpy", "soundfile"}
LOADED = """
import sys
from flows.cli import main
sys.argv[0] = "trichord"
try:
    main()
except SystemExit:
    print(*sys.modules, sep="\\n")
"""
COMMAND = (sys.executable, "-m", "flows.cli", "rebuild")
ENVIRONMENT = {**os.environ, "COLUMNS": "120"}


def trichord(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner(env={"COLUMNS": "120"}).invoke(rebuild_app, [str(argument) for argument in arguments])


def tars(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.tar"))}


def write_folder(root: Path, count: int) -> list[object]:
    """Sounds that each take some resampling; what to type for them."""
    root.mkdir()
    rows = [{"file": f"{number:03d}.wav", "label": "tone", "fold": number % 2} for number in range(count)]
    for number, row in enumerate(rows):
        soundfile.write(root / str(row["file"]), tone(100 + number, 1.0, 22_050), 22_050)
    write_table(root / "t.csv", rows)
    return ["folder", "--root", root, "--table", root / "t.csv", "--min-free", 0]


@pytest.mark.parametrize("arguments", [("rebuild", "--help"), ("rebuild", "folder", "--help")])
def test_help_shows_examples_and_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=ENVIRONMENT)
    loaded = set(done.stdout.splitlines())
    assert "flows.rebuild_command" in loaded
    assert loaded & HEAVY == set()
    assert "trichord rebuild folder --root" in done.stdout or "imagenet-val" in done.stdout


def test_it_says_what_was_done_and_what_to_do_next(tmp_path: Path) -> None:
    arguments = [*write_folder(tmp_path / "in", 6), "--out", tmp_path / "out"]
    done = trichord(*arguments)
    assert (done.exit_code, done.stderr) == (Exit.OK, "")
    assert "6 files in " in done.stdout
    assert ": ok 6, 2 shards" in done.stdout
    assert f"trichord verify {tmp_path / 'out'} --deep" in done.stdout
    again = trichord(*arguments)
    assert again.exit_code == Exit.OK
    assert "nothing to do: all 6 files have been tried" in again.stdout


def test_files_that_are_missing_end_it_in_one_line_and_files_that_are_broken_with_their_names(
    tmp_path: Path,
) -> None:
    root = tmp_path / "in"
    arguments = [*write_folder(root, 4), "--out", tmp_path / "out"]
    (root / "001.wav").rename(tmp_path / "kept.wav")
    done = trichord(*arguments)
    assert done.exit_code == Exit.USAGE
    assert done.stderr.count("\n") == 1
    assert "missing: the table names 001.wav (1 in all)" in done.stderr
    assert "--allow-partial" in done.stderr
    assert not (tmp_path / "out").exists()
    (root / "001.wav").write_bytes((tmp_path / "kept.wav").read_bytes()[:1000])
    done = trichord(*arguments)
    assert done.exit_code == Exit.FAILED
    assert "no sample of 001: 001.wav: cut short" in done.stdout
    assert "mend or replace these files" in done.stdout
    allowed = trichord(*arguments, "--allow-partial")
    assert allowed.exit_code == Exit.OK
    assert "partial: 4 of 4 rows, 1 failed" in allowed.stdout
    assert (read_dataset(open_store(tmp_path / "out")).partial or {})["names"] == ["001"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("esc50", "--root", MISSING), "no such folder"),
        (("esc50",), "expected either --root FOLDER or --archive FILE"),
        (("esc50", "--root", "/", "--audio-rate", "5"), "sample_rate is 5; expected 8000 to 192000 Hz"),
        (("esc50", "--archive", f"{MISSING}.zip"), "no such file"),
        (("folder", "--root", "/tmp", "--table", f"{MISSING}.csv"), "cannot be read as a table"),
        (("esc50", "--root", "/", "--ffmpeg", MISSING), "no program"),
    ],
)
def test_what_is_typed_wrong_is_one_line_with_code_2(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = trichord(*arguments, "--out", tmp_path / "out")
    assert (done.exit_code, done.stderr.count("\n")) == (Exit.USAGE, 1), done.stderr
    assert said in done.stderr


def test_a_rebuild_of_a_small_part_of_esc50_is_refused_and_with_leave_marked(tmp_path: Path) -> None:
    write_esc50(tmp_path / "in")
    arguments = ("esc50", "--root", tmp_path / "in", "--out", tmp_path / "out", "--min-free", 0)
    assert trichord(*arguments).exit_code == Exit.USAGE
    done = trichord(*arguments, "--allow-partial")
    assert done.exit_code == Exit.OK
    assert "partial: 6 of 2,000 rows" in done.stdout
    assert "fold3 has 0 rows, published 400" in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, Exit.INTERRUPTED)]
)
def test_killed_or_interrupted_the_same_command_goes_on_and_the_bytes_are_the_same(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    out, per_shard = tmp_path / "out", ("--samples-per-shard", "20")
    arguments = [*map(str, write_folder(tmp_path / "in", 80)), *per_shard]
    command = [*COMMAND, *arguments, "--jobs", "1", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not any(out.glob("_work/*/*.json")) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == code
    kept = len([*out.glob("_work/*/*.json")])
    assert kept > 0
    assert (read_dataset(open_store(out)).partial or {})["unbuilt"] > 0
    done = trichord(*arguments, "--out", out)
    assert done.exit_code == Exit.OK, done.output
    assert read_dataset(open_store(out)).partial is None
    rows = [row for ledger in out.glob("folder-*.parquet") for row in read_attempts(ledger, ["run"])]
    runs = sorted(Counter(row["run"] for row in rows).values())
    assert (len(rows), len(runs)) == (80, 2)  # what the first run had finished is its own
    assert trichord(*arguments, "--out", tmp_path / "whole").exit_code == Exit.OK
    assert tars(out) == tars(tmp_path / "whole")
    assert len(tars(out)) == 4
