"""The road that docs/operations.md and docs/stages.md show: server, pool, deployment, worker, run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingestions import Videos
from prefect_server import PrefectServer, wait_until
from shard_folders import shard_folder
from small_datasets import write_esc50

from pipeline.demo_behaviour import Behaviour
from pipeline.demo_site import DemoSite
from shards.query import open_manifest, run_query
from shards.status import read_status
from shards.store import open_store

NAME = "ingest-audioset/ingest-audioset"
TRAIN = "train-stage/train-stage"
REBUILD = "rebuild-downstream/rebuild-downstream"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.environment["OMP_NUM_THREADS"] = "1"  # toy models: more threads would only wait for each other
    server.run("work-pool", "create", "trichord", "--type", "process")
    server.run("--no-prompt", "deploy", "--all")
    server.start("prefect", "worker", "start", "--pool", "trichord", "--type", "process")
    yield server
    server.stop()


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
    prefect: PrefectServer, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    done = prefect.run("deployment", "run", NAME, *parameters(videos, site, tmp_path / "out"), "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    manifest = open_manifest(open_store(tmp_path / "out"))
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(30, 30)]
    listed = prefect.run("artifact", "ls").stdout
    assert "ingest-outcomes" in listed
    assert "ingest-summary" in listed


def test_a_relative_path_is_answered_with_the_absolute_one(
    prefect: PrefectServer, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    arguments = parameters(videos, site, tmp_path / "out", segments="eval_segments.csv")
    done = prefect.run("deployment", "run", NAME, *arguments, "--watch", check=False)
    assert done.returncode != 0
    assert "expected an absolute path" in prefect.log.read_text()


def test_a_cancelled_run_leaves_a_tree_that_the_next_one_finishes(
    prefect: PrefectServer, videos: Videos, tmp_path: Path
) -> None:
    slow = DemoSite(videos.folder, delay_s=0.4)
    out = tmp_path / "out"
    arguments = parameters(videos, slow, out, limit=60)
    created = prefect.run("deployment", "run", NAME, *arguments)
    run_id = next(line.split()[-1] for line in created.stdout.splitlines() if "UUID" in line)
    wait_until(lambda: len(list(out.glob("_work/*/*.json"))) >= 5)
    slow.behave("*", Behaviour(delay_s=2.0))  # it must not come to its end before it is told to stop
    prefect.run("flow-run", "cancel", run_id)
    wait_until(lambda: not _running(prefect, run_id))
    finished = len(list(out.glob("*.parquet"))) - 1  # labels.parquet
    assert finished < 6
    fast = DemoSite(videos.folder)
    arguments = parameters(videos, fast, out, limit=60)
    done = prefect.run("deployment", "run", NAME, *arguments, "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    manifest = open_manifest(open_store(out), fresh=True)
    failed = "select outcome, message from segments where outcome <> 'ok'"
    assert list(run_query(manifest, failed).rows()) == []
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(60, 60)]
    fast.close()
    slow.close()  # not before: what still came to its end would have failed


def test_a_deployment_rebuilds_a_published_dataset(prefect: PrefectServer, tmp_path: Path) -> None:
    write_esc50(tmp_path / "in")
    given = {"dataset": "esc50", "root": str(tmp_path / "in"), "out": str(tmp_path / "out")}
    given = {**given, "allow_partial": True, "options": {"min_free": 0}}
    arguments = [part for name, value in given.items() for part in ("-p", f"{name}={json.dumps(value)}")]
    done = prefect.run("deployment", "run", REBUILD, *arguments, "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    assert read_status(open_store(tmp_path / "out")).total("ok") == 6
    assert "rebuild-summary" in prefect.run("artifact", "ls").stdout


# -- training


def stage(folder: Path, *overrides: str, **more: object) -> list[str]:
    """Parameters of a toy stage on the shards in `folder`."""
    small = (
        "model.classes=4",
        "data.seconds=0.3",
        "batch_size=4",
        "data.dev_share=0",
        "evaluations=",
        "best=",
    )
    given = {
        **{"recipe": "debug.standalone", "data": str(folder / "data"), "out": str(folder / "run")},
        **{"device": "cpu", "overrides": [*small, *overrides]},
        **more,
    }
    return [part for name, value in given.items() for part in ("-p", f"{name}={json.dumps(value)}")]


def test_a_deployment_trains_and_leaves_its_artifacts(prefect: PrefectServer, tmp_path: Path) -> None:
    shard_folder(tmp_path / "data", (8,), seconds=0.3)
    done = prefect.run("deployment", "run", TRAIN, *stage(tmp_path, "epochs=1"), "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["outcome"] == "finished"
    assert "step 2/2" in prefect.log.read_text()
    listed = prefect.run("artifact", "ls").stdout
    assert "train-result" in listed
    assert "train-progress" in listed


def test_a_cancelled_stage_saves_a_checkpoint(prefect: PrefectServer, tmp_path: Path) -> None:
    shard_folder(tmp_path / "data", (8,), seconds=0.3)
    created = prefect.run("deployment", "run", TRAIN, *stage(tmp_path, "epochs=10000"))
    run_id = next(line.split()[-1] for line in created.stdout.splitlines() if "UUID" in line)
    log, status = tmp_path / "run" / "log.jsonl", tmp_path / "run" / "status.json"
    wait_until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    prefect.run("flow-run", "cancel", run_id)
    wait_until(lambda: json.loads(status.read_text())["outcome"] != "running")
    stopped = json.loads(status.read_text())
    assert stopped["outcome"] == "preempted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{stopped['step']:08d}").is_dir()
    wait_until(lambda: not _running(prefect, run_id))


def _running(prefect: PrefectServer, run_id: str) -> bool:
    shown = prefect.run("flow-run", "inspect", run_id, "--output", "json").stdout
    return json.loads(shown)["state"]["type"] in ("RUNNING", "PENDING", "SCHEDULED", "CANCELLING")
