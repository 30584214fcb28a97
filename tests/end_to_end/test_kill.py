"""Killed at any moment by the hardest signal: what is finished stays, the end is the same to the byte."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from ingestions import ROOT, Videos, ingest_arguments

from pipeline.demo_site import DemoSite

Trichord = Callable[..., "CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
JOBS = 3
KILLS = 20
PATIENCE_S = 300.0  # what takes seconds may take minutes on a machine that has much else to do


@pytest.fixture(scope="module")
def start(videos: Videos, environment: dict[str, str]) -> Start:
    """Begins an ingestion, in a process group of its own."""

    def start(site: DemoSite, out: Path, *more: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "flows.cli", *ingest_arguments(videos, site, out, *more)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True
        )

    return start


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def asked_twice(site: DemoSite, videos: Videos) -> int:
    """Fetches beyond the first of each video."""
    return sum(max(0, site.traffic.requests(ytid, "page") - 1) for ytid in videos.ytids)


@pytest.fixture(scope="module")
def uninterrupted(videos: Videos, start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    site = DemoSite(videos.folder)
    out = tmp_path_factory.mktemp("uninterrupted")
    assert start(site, out).wait(timeout=PATIENCE_S) == 0
    site.close()
    return tars(out)


def test_twenty_kills_cost_only_what_was_in_flight(
    videos: Videos,
    trichord: Trichord,
    start: Start,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    site, out, dice = DemoSite(videos.folder, delay_s=0.15), tmp_path / "out", random.Random(5)
    kills = 0
    for _ in range(KILLS):
        process = start(site, out, "--jobs", JOBS)
        try:
            process.wait(timeout=dice.uniform(0.9, 2.2))
            break  # it finished in spite of us
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    twice = asked_twice(site, videos)
    assert start(site, out, "--jobs", JOBS).wait(timeout=PATIENCE_S) == 0
    assert kills >= KILLS // 2
    assert twice <= kills * JOBS
    assert tars(out) == uninterrupted
    assert trichord("verify", out, "--deep").returncode == 0
    leftovers = [path for path in out.rglob("*") if ".partial" in path.name or path.match("_work/*")]
    assert leftovers == []
    assert not list((out / "_state" / "claims").glob("*"))
    site.close()


def test_two_processes_on_one_output_do_each_segment_once(
    videos: Videos,
    trichord: Trichord,
    start: Start,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    site, out = DemoSite(videos.folder), tmp_path / "out"
    processes = [start(site, out) for _ in range(2)]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0, 0]
    assert tars(out) == uninterrupted
    assert asked_twice(site, videos) == 0
    assert trichord("verify", out, "--deep").returncode == 0
    site.close()


def test_a_polite_signal_ends_soon_and_loses_nothing(
    videos: Videos, start: Start, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    site, out = DemoSite(videos.folder, delay_s=0.2), tmp_path / "out"
    process = start(site, out)
    until = time.monotonic() + PATIENCE_S
    while len(list(out.glob("_work/*/*.json"))) < 5:
        assert time.monotonic() < until, "no segment is finished"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == 130
    assert start(site, out).wait(timeout=PATIENCE_S) == 0
    assert tars(out) == uninterrupted
    assert asked_twice(site, videos) <= 2 * (os.cpu_count() or 2) * 4
    site.close()
