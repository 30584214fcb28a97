"""Shard tasks spread over a Dask cluster, one of whose workers dies in the middle."""

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingestions import Videos
from prefect_server import PATIENCE_S, PrefectServer, free_port, wait_until

from pipeline.demo_site import DemoSite
from shards.layout import CLAIMS
from shards.query import open_manifest, run_query
from shards.store import open_store
from shards.verify import verify

FLOW = """
import json, sys
from flows.ingest_audioset import ingest_audioset
ingest_audioset(**json.loads(sys.argv[1]))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path)
    yield server
    server.stop()


def holders(out: Path) -> Counter[int]:
    """Process → shards that it is building now."""
    pids: Counter[int] = Counter()
    for claim in out.glob(f"{CLAIMS}/audioset-*"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # released meanwhile
            pids[json.loads(claim.read_text())["process"]["pid"]] += 1
    return pids


def test_a_worker_that_dies_in_the_middle_is_followed_by_another(
    server: PrefectServer, videos: Videos, tmp_path: Path
) -> None:
    site, out, port = DemoSite(videos.folder, delay_s=0.2), tmp_path / "out", free_port()
    server.start("dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("worker", f"tcp://127.0.0.1:{port}", "--nthreads", "2", "--no-nanny", "--no-dashboard")
    workers = [server.start("dask", *worker) for _ in range(2)]
    parameters = {
        **{"segments": str(videos.segments), "out": str(out), "split": "eval", "segments_per_shard": 6},
        **{"url_template": site.url_template, "runner": f"dask://127.0.0.1:{port}", "jobs": 3},
        "options": {"rate": "none", "min_free": 0},
    }
    flow = server.start(Path(sys.executable).name, "-c", FLOW, json.dumps(parameters))
    pids = {process.pid for process in workers}
    wait_until(lambda: list(out.glob("audioset-*.parquet")) and pids <= set(holders(out)))
    os.killpg(workers[0].pid, signal.SIGKILL)
    finished = len(list(out.glob("audioset-*.parquet")))
    assert flow.wait(timeout=PATIENCE_S) == 0, server.log.read_text()[-6000:]
    assert finished < 10
    manifest = open_manifest(open_store(out))
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(60, 60)]
    assert not verify(open_store(out), deep=True).findings
    assert not holders(out)
    runs = list(run_query(manifest, "select distinct run from attempts").rows())
    assert len(runs) >= 2  # both workers had a part in it
    site.close()
