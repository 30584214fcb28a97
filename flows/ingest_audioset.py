"""The Prefect flow of an ingestion: plan and shards are those of `trichord ingest`, one task a shard."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.flow_settings import settings_of
from flows.shard_worker import build_planned_shard, stop_workers
from pipeline.ingest import Summary, finish, prepare, summarise
from pipeline.settings import IngestSettings, SettingsError
from pipeline.worker import BUILDERS
from shards.outcome import Disposition
from shards.publication import publish_manifest
from shards.store import open_store

RETRIES = 2
RETRY_DELAY_S = 30.0
_UPDATES = 100  # of the progress artifact, over the whole run


@task(
    name="build-shard",
    task_run_name="{shard}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY_S,
    retry_jitter_factor=0.5,
    cache_policy=NO_CACHE,
)
def build_shard_task(settings: str, shard: str) -> dict[str, int]:
    """Build one planned shard and say what became of its segments; nothing if another worker built it."""
    record = build_planned_shard(settings, shard)
    return dict(record.outcomes) if record else {}


@flow(name="ingest-audioset")
def ingest_audioset(
    segments: str,
    out: str,
    split: str | None = None,
    limit: int | None = None,
    labels: str | None = None,
    media: str | None = None,
    media_pattern: str | None = None,
    url_template: str | None = None,
    jobs: int | None = None,
    segments_per_shard: int | None = None,
    retry: str | None = None,
    runner: str = "threads",
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ingest the rows of a segments file into shards, one task per shard.

    Args:
        segments: absolute path of AudioSet's CSV, with the class tables beside it.
        out: absolute folder, or s3://bucket/prefix.
        split: by the file's name if not given.
        limit: the first so many rows.
        labels: classes by name or mid, separated by commas, with their descendants.
        media: absolute folder of media that are there already.
        media_pattern: how their names are made, such as Y{ytid}.*
        url_template: address of a video, with {ytid} in it.
        jobs: segments at once in each process.
        segments_per_shard: 512 if not given.
        retry: retryable, blocked or outcomes: try again only what failed so.
        runner: `threads` for this machine, or `dask://scheduler:8786` for a Dask cluster.
        options: any other setting of `trichord ingest`, by its name with underscores.
    """
    given = {
        **{"limit": limit, "labels": labels, "media": media, "media_pattern": media_pattern, "jobs": jobs},
        **{"url_template": url_template, "segments_per_shard": segments_per_shard, "retry": retry},
    }
    settings = settings_of(segments, out, split, given, options or {})
    todo = prepare(settings)
    log = get_run_logger()
    log.info("%s: %d segments planned, %d shards to build", settings.out, todo.segments, len(todo.shards))
    with task_runner_of(runner) as tasks, _stopping_workers(tasks):
        outcomes = _build_all(tasks, settings, todo.shards)
    store = open_store(settings.out)
    finish(store)
    summary = summarise(settings, store, todo, outcomes)
    _publish(summary)
    return {"out": summary.out, "outcomes": dict(summary.outcomes), "left": dict(summary.left)}


def task_runner_of(runner: str) -> TaskRunner[Any]:
    """Threads of this process, or a Dask cluster's scheduler by its address."""
    if runner == "threads":
        return ThreadPoolTaskRunner(max_workers=BUILDERS)
    if runner.startswith("dask://"):
        from prefect_dask.task_runners import DaskTaskRunner

        return DaskTaskRunner(address=f"tcp://{runner.removeprefix('dask://')}")
    raise SettingsError(f"runner is {runner!r}; expected threads, or dask://HOST:PORT of a Dask scheduler")


@contextlib.contextmanager
def _stopping_workers(tasks: TaskRunner[Any]) -> Iterator[None]:
    """Cancelled or failed, let the shards in work come to their end soon, wherever they are built."""
    try:
        yield
    except BaseException as error:
        stop_workers(error)
        if not isinstance(tasks, ThreadPoolTaskRunner):
            with contextlib.suppress(OSError):  # the cluster is gone, and its workers with it
                tasks.client.run(stop_workers, KeyboardInterrupt())  # type: ignore[attr-defined]
        raise


def _build_all(tasks: TaskRunner[Any], settings: IngestSettings, shards: Sequence[str]) -> Counter[str]:
    """Every shard as a task; outcomes are added up as they end, and the first failure travels at the end."""
    outcomes: Counter[str] = Counter()
    if not shards:
        return outcomes
    store, told = open_store(settings.out), settings.to_json()
    futures = [tasks.submit(build_shard_task, {"settings": told, "shard": shard}) for shard in shards]
    failed: list[PrefectFuture[Any]] = []
    for future in _with_progress(futures):
        future.wait()  # a task on Dask has its state only then
        if future.state.is_completed():
            outcomes.update(future.result())
            publish_manifest(store)  # throttled: whoever looks meanwhile finds a recent one
        else:
            failed.append(future)
    for future in failed:
        future.result()  # raises
    return outcomes


def _with_progress(futures: list[PrefectFuture[Any]]) -> Iterator[PrefectFuture[Any]]:
    """The futures as they end, with a progress artifact that follows them."""
    artifact = create_progress_artifact(progress=0.0, key="ingest-progress", description="shards built")
    assert isinstance(artifact, UUID)
    step = max(1, len(futures) // _UPDATES)
    for count, future in enumerate(as_completed(futures), start=1):
        yield future
        if count % step == 0 or count == len(futures):
            update_progress_artifact(artifact, progress=100.0 * count / len(futures))


def _publish(summary: Summary) -> None:
    """What became of the segments, and what to do next, where a person looks."""
    rows = [{"outcome": outcome, "segments": count} for outcome, count in sorted(summary.outcomes.items())]
    create_table_artifact(table=rows or [{"outcome": "nothing to do", "segments": 0}], key="ingest-outcomes")
    left = {str(each): summary.left.get(each, 0) for each in (Disposition.RETRYABLE, Disposition.BLOCKED)}
    lines = [
        f"# {summary.out}, {summary.split}",
        f"- manifest: `{summary.out}/manifest.duckdb` (`duckdb -readonly`), `trichord status {summary.out}`",
        f"- segments by disposition: {dict(summary.left)}",
        *(f"- {count} {name}: run again with `retry={name}`" for name, count in left.items() if count),
    ]
    create_markdown_artifact("\n".join(lines), key="ingest-summary")
