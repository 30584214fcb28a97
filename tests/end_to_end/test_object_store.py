"""A dataset in a bucket: the whole job against a real S3 server, side by side and through a kill."""

import json
import os
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
from shards.layout import CLAIMS
from shards.plan import planned_keys, read_plans
from shards.query import open_manifest, run_query
from shards.store import Store, open_store

Trichord = Callable[..., "CompletedProcess[str]"]
PLANNED = 30


@pytest.fixture
def environment(s3_server: object, tmp_path: Path) -> dict[str, str]:
    """With the S3 server's address, yt-dlp's extractor for the site, and a cache that can be looked into."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests" / "site_extractor"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COLUMNS": "120",
    }


def arguments_for(videos: Videos, site: DemoSite, out: str) -> list[str]:
    return ingest_arguments(videos, site, out, "--limit", PLANNED, "--segments-per-shard", 5, "--jobs", 3)


def start(arguments: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as sink:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True
        )


def ok_keys(store: Store) -> list[str]:
    """The key of every sample, as often as a ledger has it."""
    answer = run_query(open_manifest(store, fresh=True), "select key from attempts where outcome = 'ok'")
    return sorted(str(key) for (key,) in answer.rows())


def wanted_keys(videos: Videos) -> list[str]:
    return sorted(f"{ytid}_{400 * index}" for index, ytid in enumerate(videos.ytids[:PLANNED]))


def test_every_command_works_on_a_bucket(
    videos: Videos, site: DemoSite, trichord: Trichord, s3_url: str, tmp_path: Path
) -> None:
    out = f"{s3_url}/audio set/v1"
    done = trichord(*arguments_for(videos, site, out))
    assert done.returncode == 0, done.stdout + done.stderr
    status = trichord("status", out, "--json")
    assert json.loads(status.stdout)["splits"][0]["ok"] == PLANNED, status.stderr
    verified = trichord("verify", out, "--deep")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    asked = trichord("manifest", out, "select planned, ok from coverage", "--format", "csv")
    assert asked.stdout.split() == ["planned,ok", f"{PLANNED},{PLANNED}"], asked.stderr
    sheet = trichord("sheet", out, "--out", tmp_path / "sheet.html")
    assert sheet.returncode == 0, sheet.stderr
    assert videos.ytids[0] in (tmp_path / "sheet.html").read_text()
    again = trichord(*arguments_for(videos, site, out))
    assert "nothing to do" in again.stdout, again.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert not list((tmp_path / "cache" / "trichord").glob("*"))


def test_two_processes_on_one_bucket_do_each_segment_once(
    videos: Videos, site: DemoSite, environment: dict[str, str], s3_url: str, tmp_path: Path
) -> None:
    arguments = arguments_for(videos, site, s3_url)
    processes = [start(arguments, environment, tmp_path / "log") for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0], (tmp_path / "log").read_text()
    assert ok_keys(open_store(s3_url)) == wanted_keys(videos)
    asked = {ytid: site.traffic.requests(ytid, "page") for ytid in videos.ytids[:PLANNED]}
    assert asked == dict.fromkeys(videos.ytids[:PLANNED], 1)


def test_a_killed_process_is_followed_by_the_other(
    videos: Videos, environment: dict[str, str], trichord: Trichord, s3_url: str, tmp_path: Path
) -> None:
    site, store = DemoSite(videos.folder, delay_s=0.2), open_store(s3_url)
    arguments = arguments_for(videos, site, s3_url)
    killed, other = (start(arguments, environment, tmp_path / "log") for _ in range(2))
    wait_until_holding(store, killed.pid)
    os.killpg(killed.pid, signal.SIGKILL)
    assert other.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    assert ok_keys(store) == wanted_keys(videos)
    assert trichord("verify", s3_url, "--deep").returncode == 0
    assert not store.names(f"{CLAIMS}/audioset-")
    assert not list((tmp_path / "cache" / "trichord").glob("*"))
    site.close()


def wait_until_holding(store: Store, pid: int) -> None:
    """Until the process builds a shard."""
    until = time.monotonic() + 60
    while True:
        assert time.monotonic() < until, "it claims no shard"
        for name in store.names(f"{CLAIMS}/audioset-"):
            try:
                if json.loads(store.read_bytes(name))["process"]["pid"] == pid:
                    return
            except FileNotFoundError:
                continue  # released meanwhile
        time.sleep(0.05)


def test_what_a_plan_that_was_given_up_left_does_not_get_into_another(
    videos: Videos, environment: dict[str, str], trichord: Trichord, s3_url: str, tmp_path: Path
) -> None:
    """The new plan's shards have the names that the old one's had."""
    slow = DemoSite(videos.folder, delay_s=0.3)
    arguments = [*arguments_for(videos, slow, s3_url), "--segments-per-shard", "30"]
    stopped = start(arguments, environment, tmp_path / "log")
    until = time.monotonic() + 60
    while len(list((tmp_path / "cache").glob("trichord/*/audioset-eval-000000/*.json"))) < 3:
        assert time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=30) == 130
    done = trichord(*arguments, "--sample", 8, "--seed", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_store(s3_url)
    (plan,) = read_plans(store)
    assert ok_keys(store) == sorted(planned_keys(store, plan))
    assert not list((tmp_path / "cache" / "trichord").glob("*"))
    slow.close()
