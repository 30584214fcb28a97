"""The road that docs/operations.md shows, on this machine: server, pool, deployment, worker, run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from ingestions import ROOT, Videos

from pipeline.demo_site import DemoSite
from shards.query import open_manifest, run_query
from shards.store import open_store

PREFECT = str(Path(sys.executable).with_name("prefect"))
NAME = "ingest-audioset/ingest-audioset"


class Prefect:
    """A server with a worker, in a home of their own."""

    def __init__(self, home: Path) -> None:
        port = _free_port()
        self.log = home / "worker.log"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT / "tests" / "site_extractor"),
        }
        self._processes = [self._start("server", "start", "--host", "127.0.0.1", "--port", str(port))]
        _wait_for(f"http://127.0.0.1:{port}/api/health")
        self.run("work-pool", "create", "trichord", "--type", "process")
        self.run("--no-prompt", "deploy", "--all")
        self._processes.append(self._start("worker", "start", "--pool", "trichord", "--type", "process"))

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [PREFECT, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True,
            timeout=240, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [PREFECT, *arguments],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(url: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            assert time.monotonic() < until, f"{url} does not answer"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path_factory.mktemp("prefect"))
    yield prefect
    prefect.stop()


@pytest.fixture
def site(videos: Videos) -> Iterator[DemoSite]:
    site = DemoSite(videos.folder)
    yield site
    site.close()


def parameters(videos: Videos, site: DemoSite, out: Path, **more: object) -> list[str]:
    given = {
        **{
            "segments": str(videos.segments),
            "out": str(out),
            "split": "eval",
            "url_template": site.url_template,
        },
        **{"segments_per_shard": 10, "limit": 30},
        **more,
    }
    return [part for name, value in given.items() for part in ("-p", f"{name}={json.dumps(value)}")]


def test_a_deployment_ingests_and_leaves_its_artifacts(
    prefect: Prefect, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    done = prefect.run("deployment", "run", NAME, *parameters(videos, site, tmp_path / "out"), "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    manifest = open_manifest(open_store(tmp_path / "out"))
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(30, 30)]
    listed = prefect.run("artifact", "ls").stdout
    assert "ingest-outcomes" in listed
    assert "ingest-summary" in listed


def test_a_relative_path_is_answered_with_the_absolute_one(
    prefect: Prefect, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    arguments = parameters(videos, site, tmp_path / "out", segments="eval_segments.csv")
    done = prefect.run("deployment", "run", NAME, *arguments, "--watch", check=False)
    assert done.returncode != 0
    assert "expected an absolute path" in prefect.log.read_text()


def test_a_cancelled_run_leaves_a_tree_that_the_next_one_finishes(
    prefect: Prefect, videos: Videos, tmp_path: Path
) -> None:
    slow = DemoSite(videos.folder, delay_s=0.4)
    out = tmp_path / "out"
    arguments = parameters(videos, slow, out, limit=60)
    created = prefect.run("deployment", "run", NAME, *arguments)
    run_id = next(line.split()[-1] for line in created.stdout.splitlines() if "UUID" in line)
    _wait_until(lambda: len(list(out.glob("_work/*/*.json"))) >= 5)
    prefect.run("flow-run", "cancel", run_id)
    _wait_until(lambda: not _running(prefect, run_id))
    finished = len(list(out.glob("*.parquet"))) - 1  # labels.parquet
    assert finished < 6
    slow.close()
    fast = DemoSite(videos.folder)
    arguments = parameters(videos, fast, out, limit=60)
    done = prefect.run("deployment", "run", NAME, *arguments, "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    manifest = open_manifest(open_store(out), fresh=True)
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(60, 60)]
    fast.close()


def _running(prefect: Prefect, run_id: str) -> bool:
    shown = prefect.run("flow-run", "inspect", run_id, "--output", "json").stdout
    return json.loads(shown)["state"]["type"] in ("RUNNING", "PENDING", "SCHEDULED", "CANCELLING")


def _wait_until(fact: "object", seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.3)
