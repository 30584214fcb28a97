"""The Prefect flow of a rebuild: its plan and shards are those of `trichord rebuild`, one task a shard."""

import dataclasses
import difflib
from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.rebuild_run import summary
from pipeline.build import Stop
from pipeline.listing import ListingError
from pipeline.rebuild import Prepared, RebuildSettings, Rebuilt, conclude, opened_worker, prepared
from pipeline.worker import BUILDERS, Worker
from shards.publication import publish_manifest

_PATHS = ("root", "archive", "out", "table", "ground_truth", "work")


@flow(name="rebuild-downstream")
def rebuild_downstream(
    dataset: str,
    out: str,
    root: str | None = None,
    archive: str | None = None,
    allow_partial: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Rebuild a published dataset, or a folder, as shards, one task per shard.

    Args:
        dataset: esc50, urbansound8k, imagenet-val or folder.
        out: absolute folder, or s3://bucket/prefix.
        root: absolute folder of the dataset, unpacked.
        archive: its published archive, instead of root.
        allow_partial: go on although files are missing, unreadable or too many.
        options: any other setting of `trichord rebuild`, such as table, name, checksum, jobs.
    """
    settings = settings_of(
        {
            **(options or {}),
            **{"dataset": dataset, "out": out, "root": root, "archive": archive},
            "allow_partial": allow_partial,
        }
    )
    stop = Stop()
    with prepared(settings, stop) as ready:
        log = get_run_logger()
        log.info("%s: %d files, %d shards to build", out, ready.todo.segments, len(ready.todo.shards))
        with opened_worker(settings, ready, stop) as worker:
            outcomes, shards = _build_all(worker, ready, stop)
        rebuilt = dataclasses.replace(conclude(ready, outcomes), shards=shards)
    _publish(rebuilt)
    if rebuilt.failed and not settings.allow_partial:
        failed = "; ".join(f"{key}: {why}" for key, why in sorted(rebuilt.failed.items())[:5])
        raise ListingError(f"{len(rebuilt.failed)} files gave no sample ({failed}); mend them and run again")
    return {"out": rebuilt.out, "outcomes": dict(rebuilt.outcomes), "partial": rebuilt.partial}


def settings_of(given: dict[str, Any]) -> RebuildSettings:
    """A flow's parameters as settings; a relative path is answered with its absolute form."""
    known = [field.name for field in dataclasses.fields(RebuildSettings)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known) or known
            raise ListingError(f"options: there is no {name!r}; expected {', '.join(near)}")
    for name in _PATHS:
        path = given.get(name)
        if path is not None and "://" not in path and not Path(path).is_absolute():
            raise ListingError(
                f"{name} is {path!r}: a worker runs in a folder of its own; expected an absolute path, such "
                f"as {Path(path).absolute()}"
            )
    return RebuildSettings(**given)


def _build_all(worker: Worker, ready: Prepared, stop: Stop) -> tuple[Counter[str], int]:
    """Outcomes and shards of this run. What another worker builds meanwhile is left to it."""
    outcomes: Counter[str] = Counter()
    built = 0

    @task(name="build-shard", task_run_name="{shard}", cache_policy=NO_CACHE)
    def build_shard_task(shard: str) -> dict[str, int]:
        record = worker.build(ready.todo, shard)
        return dict(record.outcomes) if record else {}

    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=BUILDERS)
    with runner as tasks:
        try:
            futures = [tasks.submit(build_shard_task, {"shard": shard}) for shard in ready.todo.shards]
            for future in futures:
                found = future.result()
                outcomes.update(found)
                built += bool(found)
                publish_manifest(ready.store)
        except BaseException as error:
            stop.set(error)
            raise
    return outcomes, built


def _publish(rebuilt: Rebuilt) -> None:
    """What became of the files, and what is not as published, where a person looks."""
    rows = [{"outcome": outcome, "files": count} for outcome, count in sorted(rebuilt.outcomes.items())]
    create_table_artifact(table=rows or [{"outcome": "nothing to do", "files": 0}], key="rebuild-outcomes")
    lines = [f"- {line.strip()}" for line in summary(rebuilt)]
    create_markdown_artifact("\n".join([f"# {rebuilt.out}", *lines]), key="rebuild-summary")
