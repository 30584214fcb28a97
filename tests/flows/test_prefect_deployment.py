"""The road that docs/operations.md and docs/stages.md show: server, pool, deployment, worker, run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingestions import Videos
from prefect_server import PrefectServer, wait_until
from shard_folders import shard_folder
from small_datasets import write_esc50

from flows.reproduce_command import request_of
from flows.reproduce_plan import make_plan
from pipeline.demo_behaviour import Behaviour
from pipeline.demo_site import DemoSite
from shards.query import open_manifest, run_query
from shards.status import read_status
from shards.store import open_store

NAME = "ingest-audioset/ingest-audioset"
TRAIN = "train-stage/train-stage"
REBUILD = "rebuild-downstream/rebuild-downstream"
REPRODUCE = "reproduce/reproduce"


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


def parameters(videos: Videos, site: DemoSite, out: Path, **more: object) -> dict[str, object]:
    return {
        **{"segments": str(videos.segments), "out": str(out), "split": "eval"},
        **{"url_template": site.url_template, "segments_per_shard": 10, "limit": 30},
        **more,
    }


def test_a_deployment_ingests_and_leaves_its_artifacts(
    prefect: PrefectServer, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    """Asked for on the command line, as the pages have it; the other tests ask the server itself."""
    given = parameters(videos, site, tmp_path / "out")
    options = [part for name, value in given.items() for part in ("-p", f"{name}={json.dumps(value)}")]
    done = prefect.run("deployment", "run", NAME, *options, "--watch")
    assert "Completed" in done.stdout + done.stderr, prefect.log.read_text()[-4000:]
    manifest = open_manifest(open_store(tmp_path / "out"))
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(30, 30)]
    assert prefect.artifacts() >= {"ingest-outcomes", "ingest-summary"}


def test_a_relative_path_is_answered_with_the_absolute_one(
    prefect: PrefectServer, videos: Videos, site: DemoSite, tmp_path: Path
) -> None:
    given = parameters(videos, site, tmp_path / "out", segments="eval_segments.csv")
    assert prefect.outcome(NAME, given) == "FAILED"
    assert "expected an absolute path" in prefect.log.read_text()


def test_a_cancelled_run_leaves_a_tree_that_the_next_one_finishes(
    prefect: PrefectServer, videos: Videos, tmp_path: Path
) -> None:
    slow = DemoSite(videos.folder, delay_s=0.4)
    out = tmp_path / "out"
    run_id = prefect.begin(NAME, parameters(videos, slow, out, limit=60))
    wait_until(lambda: len(list(out.glob("_work/*/*.json"))) >= 5)
    slow.behave("*", Behaviour(delay_s=2.0))  # it must not come to its end before it is told to stop
    prefect.run("flow-run", "cancel", run_id)
    wait_until(lambda: not prefect.running(run_id))
    finished = len(list(out.glob("*.parquet"))) - 1  # labels.parquet
    assert finished < 6
    fast = DemoSite(videos.folder)
    assert prefect.outcome(NAME, parameters(videos, fast, out, limit=60)) == "COMPLETED", _log(prefect)
    manifest = open_manifest(open_store(out), fresh=True)
    failed = "select outcome, message from segments where outcome <> 'ok'"
    assert list(run_query(manifest, failed).rows()) == []
    assert list(run_query(manifest, "select planned, ok from coverage").rows()) == [(60, 60)]
    fast.close()
    slow.close()  # not before: what still came to its end would have failed


def test_a_deployment_rebuilds_a_published_dataset(prefect: PrefectServer, tmp_path: Path) -> None:
    write_esc50(tmp_path / "in")
    given = {"dataset": "esc50", "root": str(tmp_path / "in"), "out": str(tmp_path / "out")}
    more = {"allow_partial": True, "options": {"min_free": 0}}
    assert prefect.outcome(REBUILD, {**given, **more}) == "COMPLETED", _log(prefect)
    assert read_status(open_store(tmp_path / "out")).total("ok") == 6
    assert "rebuild-summary" in prefect.artifacts()


# -- training


def stage(folder: Path, *overrides: str) -> dict[str, object]:
    """Parameters of a toy stage on the shards in `folder`."""
    small = (
        "model.classes=4",
        "data.seconds=0.3",
        "batch_size=4",
        "data.dev_share=0",
        "evaluations=",
        "best=",
    )
    return {
        **{"recipe": "debug.standalone", "data": str(folder / "data"), "out": str(folder / "run")},
        **{"device": "cpu", "overrides": [*small, *overrides]},
    }


def test_a_deployment_trains_and_leaves_its_artifacts(prefect: PrefectServer, tmp_path: Path) -> None:
    shard_folder(tmp_path / "data", (8,), seconds=0.3)
    assert prefect.outcome(TRAIN, stage(tmp_path, "epochs=1")) == "COMPLETED", _log(prefect)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["outcome"] == "finished"
    assert "step 2/2" in prefect.log.read_text()
    assert prefect.artifacts() >= {"train-result", "train-progress"}


def test_a_cancelled_stage_saves_a_checkpoint(prefect: PrefectServer, tmp_path: Path) -> None:
    shard_folder(tmp_path / "data", (8,), seconds=0.3)
    run_id = prefect.begin(TRAIN, stage(tmp_path, "epochs=10000"))
    log, status = tmp_path / "run" / "log.jsonl", tmp_path / "run" / "status.json"
    wait_until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    prefect.run("flow-run", "cancel", run_id)
    wait_until(lambda: json.loads(status.read_text())["outcome"] != "running")
    stopped = json.loads(status.read_text())
    assert stopped["outcome"] == "preempted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{stopped['step']:08d}").is_dir()
    wait_until(lambda: not prefect.running(run_id))


# -- reproducing


def test_a_deployment_reproduces_what_is_missing(prefect: PrefectServer, tmp_path: Path) -> None:
    """A stage and the tables are left to do; the rest is as if it were done."""
    out, data = tmp_path / "out", str(tmp_path / "audioset")
    shard_folder(data, (12,), seconds=0.3)
    plan = make_plan(request_of(out, "1", "toy", [f"audioset={data}"], "cpu"))
    for step in plan.steps:
        if step.name not in ("stage-standalone", "tables"):
            Path(step.output).mkdir(parents=True, exist_ok=True)
            plan.receipt(step).parent.mkdir(parents=True, exist_ok=True)
            plan.receipt(step).write_text(json.dumps({"did": plan.did(step)}))
    given = {"out": str(out), "tables": "1", "data": {"audioset": data}, "device": "cpu"}
    assert prefect.outcome(REPRODUCE, given) == "COMPLETED", _log(prefect)
    assert all(plan.done(step) for step in plan.steps)
    assert json.loads((out / "runs/standalone/status.json").read_text())["outcome"] == "finished"
    assert (out / "results.md").read_text().startswith("# Toy results")
    assert prefect.artifacts() >= {"reproduce-plan", "reproduce-tables"}


def _log(prefect: PrefectServer) -> str:
    return prefect.log.read_text()[-4000:]
