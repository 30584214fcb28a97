"""What status tells of a dataset while workers come, go, wait and die."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ledgered_dataset import LedgeredDataset, attempt, segment
from rich.console import Console

from shards.layout import IDENTITIES, PAUSE, ledger_name
from shards.outcome import Outcome
from shards.progress import FORGET_S, Rate, WorkerProgress, read_workers
from shards.publication import publish_manifest
from shards.status import Status, read_status
from shards.status_view import duration, render_status, size

SEGMENTS = [segment(number) for number in range(10)]


@pytest.fixture
def dataset(tmp_path: Path) -> LedgeredDataset:
    return LedgeredDataset.begin(tmp_path / "audioset", tmp_path)


class Clock:
    """A steady clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outcomes(status: Status) -> dict[str, int]:
    return {each.outcome: each.segments for each in status.outcomes}


def shown(status: Status) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(render_status(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ------------------------------------------------------------------------------------------------ segments


def test_counts_come_from_the_ledgers_and_the_plan(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS, per_shard=4)
    found = [Outcome.OK, Outcome.OK, Outcome.PRIVATE, Outcome.BOT_CHECK]
    dataset.finish(map(attempt, SEGMENTS[:4], found), shards[0])
    status = read_status(dataset.store)
    [split] = status.splits
    assert (split.split, split.planned, split.attempted, split.untried) == ("eval", 10, 4, 6)
    assert (split.ok, split.permanent, split.retryable, split.blocked) == (2, 1, 0, 1)
    assert outcomes(status) == {"ok": 2, "private": 1, "bot_check": 1}
    assert (status.shards_finished, status.shards_planned, status.left) == (1, 3, 6)
    assert status.yield_ == 0.5
    assert split.hours == pytest.approx(20 / 3600)


def test_a_snapshot_and_newer_ledgers_count_as_all_ledgers_do(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS, per_shard=5)
    dataset.finish([attempt(each, Outcome.NETWORK) for each in SEGMENTS[:5]], shards[0])
    publish_manifest(dataset.store, force=True)
    # even without the first ledger's content: it is in the snapshot
    path = dataset.store.local_path(ledger_name(shards[0]))
    assert path is not None
    path.write_bytes(b"not read again")
    dataset.finish([attempt(each) for each in SEGMENTS[5:]], shards[1])
    status = read_status(dataset.store)
    assert outcomes(status) == {"ok": 5, "network": 5}
    assert status.manifest_lacks == 1


def test_a_retried_segment_counts_once_by_its_current_attempt(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS)
    dataset.finish([attempt(each, Outcome.NETWORK) for each in SEGMENTS], shards[0])
    publish_manifest(dataset.store, force=True)
    again = dataset.plan(SEGMENTS[:4], per_shard=2, retry=True)
    assert read_status(dataset.store).left == 4
    dataset.finish([attempt(SEGMENTS[0]), attempt(SEGMENTS[1], Outcome.TIMEOUT)], again[0])
    status = read_status(dataset.store)
    assert outcomes(status) == {"ok": 1, "timeout": 1, "network": 8}
    assert (status.total("planned"), status.left) == (10, 2)


def test_a_damaged_ledger_is_named_and_the_rest_counts(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(SEGMENTS[0])])
    bad = dataset.finish([attempt(SEGMENTS[1])])
    dataset.store.publish_bytes(b"PAR1", ledger_name(bad), replace=True)
    status = read_status(dataset.store)
    assert outcomes(status) == {"ok": 1}
    assert list(status.problems) == [ledger_name(bad)]
    assert f"unreadable: {ledger_name(bad)}" in shown(status)


def test_an_empty_dataset_has_a_status(dataset: LedgeredDataset) -> None:
    status = read_status(dataset.store)
    assert (status.splits, status.eta_s, status.yield_) == ((), None, None)
    assert "nothing is planned yet" in shown(status)


# ------------------------------------------------------------------------------------------------- workers


def test_segments_of_unfinished_shards_count_as_done(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS, per_shard=5)
    worker = WorkerProgress(dataset.store, run="run-1")
    worker.shard_started(shards[0], 5, done=1)
    for each in SEGMENTS[1:4]:
        worker.count(attempt(each, shard=shards[0]))
    worker.publish()
    status = read_status(dataset.store)
    assert (status.splits[0].in_work, status.left) == (4, 6)
    [seen] = status.workers
    assert (seen.alive, seen.segments, seen.ok, seen.pid) == (True, 3, 3, os.getpid())
    # once the ledger is there, it alone counts
    dataset.finish([attempt(each) for each in SEGMENTS[:5]], shards[0])
    status = read_status(dataset.store)
    assert (status.splits[0].in_work, status.splits[0].attempted, status.left) == (0, 5, 5)


def test_a_shard_that_changed_hands_counts_once(dataset: LedgeredDataset) -> None:
    [shard] = dataset.plan(SEGMENTS)
    for done in (6, 7):
        worker = WorkerProgress(dataset.store, run=f"run-{done}")
        worker.shard_started(shard, 10, done=done)
        worker.publish()
    assert read_status(dataset.store).splits[0].in_work == 7


def test_the_rate_is_that_of_the_last_minutes_and_gives_the_time_left(dataset: LedgeredDataset) -> None:
    [shard] = dataset.plan(SEGMENTS)
    clock = Clock()
    worker = WorkerProgress(dataset.store, run="run-1", clock=clock)
    worker.shard_started(shard, 10)
    worker.publish()
    for each in SEGMENTS[:4]:
        clock.now += 10
        worker.count(attempt(each, Outcome.OK if each is not SEGMENTS[0] else Outcome.REMOVED, shard=shard))
    worker.publish()
    status = read_status(dataset.store)
    assert status.rate == Rate(segments=0.1, ok=0.075, media_bytes=75_000.0)
    assert status.eta_s == pytest.approx(60)
    for _ in range(20):  # a long pause: what was before it is no rate of now
        clock.now += 10
        worker.publish()
    assert read_status(dataset.store).rate == Rate()


def test_a_worker_writes_every_two_seconds_at_most(dataset: LedgeredDataset) -> None:
    clock = Clock()
    worker = WorkerProgress(dataset.store, run="run-1", clock=clock)
    beats = []
    for _ in range(8):
        worker.publish()
        beats.append(read_workers(dataset.store)[0][1].beat)
        clock.now += 1.0
    assert beats == [1, 1, 2, 2, 3, 3, 4, 4]


def test_threads_lose_no_count(dataset: LedgeredDataset) -> None:
    [shard] = dataset.plan(SEGMENTS)
    worker = WorkerProgress(dataset.store, run="run-1")
    worker.shard_started(shard, 4000)
    one = attempt(SEGMENTS[0], shard=shard)
    threads = [threading.Thread(target=lambda: [worker.count(one) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.finish()
    [(_, report)] = read_workers(dataset.store)
    assert (report.outcomes, report.media_bytes, report.shards[0].done) == ({"ok": 4000}, 4_000_000_000, 4000)


def test_a_waiting_worker_says_for_what(dataset: LedgeredDataset) -> None:
    dataset.plan(SEGMENTS)
    worker = WorkerProgress(dataset.store, run="run-1")
    worker.waiting("cooling down until 12:30")
    worker.publish()
    assert worker.waiting_for == "cooling down until 12:30"
    assert "cooling down until 12:30" in shown(read_status(dataset.store))
    worker.waiting(None)
    worker.finish()
    assert read_status(dataset.store).workers == ()


WORKER = """
    import sys, time
    from shards.progress import WorkerProgress
    from shards.store import open_store
    worker = WorkerProgress(open_store(sys.argv[1]), run="killed")
    worker.shard_started(sys.argv[2], 10, done=3)
    worker.publish()
    print("published", flush=True)
    time.sleep(600)
"""


def test_a_killed_worker_is_gone_but_what_it_finished_counts(dataset: LedgeredDataset) -> None:
    [shard] = dataset.plan(SEGMENTS)
    command = [sys.executable, "-c", textwrap.dedent(WORKER), dataset.store.url, shard]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [worker.run for worker in read_status(dataset.store).workers] == ["killed"]
        process.send_signal(signal.SIGKILL)
    status = read_status(dataset.store)
    assert status.workers == ()
    assert status.splits[0].in_work == 3


def test_a_silent_worker_is_not_alive_until_its_beat_moves(dataset: LedgeredDataset) -> None:
    dataset.plan(SEGMENTS)
    clock = Clock()
    worker = WorkerProgress(dataset.store, run="run-1", clock=clock)
    worker.publish()

    def hour_ago() -> None:
        path = dataset.store.local_path(worker.name)
        assert path is not None
        os.utime(path, (time.time() - 3600,) * 2)

    hour_ago()
    first = read_status(dataset.store)
    assert not first.workers[0].alive
    assert "silent for 60 min" in shown(first)
    clock.now += 2
    worker.publish()
    hour_ago()  # its machine's clock is an hour behind
    assert read_status(dataset.store, previous=first).workers[0].alive


def test_files_of_workers_that_ended_long_ago_go_away(dataset: LedgeredDataset) -> None:
    old = WorkerProgress(dataset.store, run="old")
    old.finish()
    path = dataset.store.local_path(old.name)
    assert path is not None
    os.utime(path, (time.time() - FORGET_S - 60,) * 2)
    recent = WorkerProgress(dataset.store, run="recent")
    recent.finish()
    WorkerProgress(dataset.store, run="new").publish()
    assert [report.run for _, report in read_workers(dataset.store)] == ["recent", "new"]


def test_a_file_that_is_no_report_is_passed_over(dataset: LedgeredDataset) -> None:
    dataset.store.publish_bytes(b"{half", "_state/workers/broken-1-a.json")
    dataset.store.publish_bytes(b'{"pid": 1}', "_state/workers/other-2-b.json")
    WorkerProgress(dataset.store, run="run-1").publish()
    assert [worker.run for worker in read_status(dataset.store).workers] == ["run-1"]


# --------------------------------------------------------------------------------------------------- state


def test_blocked_identities_and_a_pause_are_told(dataset: LedgeredDataset) -> None:
    dataset.plan(SEGMENTS)
    states = {
        "a.json": {"label": "direct", "breaker": "closed", "until": 0.0, "outcome": "bot_check"},
        "b.json": {"label": "proxy-1", "breaker": "open", "until": time.time() + 600, "outcome": "bot_check"},
        "c.json": ["another", "version"],
    }
    for name, facts in states.items():
        dataset.store.publish_bytes(json.dumps(facts).encode(), f"{IDENTITIES}/{name}")
    pause = {"reason": "80 % of the last 50 are gone: is yt-dlp 2026.08.01 stale?", "since": time.time()}
    dataset.store.publish_bytes(json.dumps(pause).encode(), PAUSE)
    status = read_status(dataset.store)
    assert [(each.label, each.state, each.reason) for each in status.identities] == [
        ("direct", "closed", None),
        ("proxy-1", "open", "bot_check"),
    ]
    text = shown(status)
    assert "identity proxy-1: blocked until" in text
    assert "identity direct" not in text
    assert "is yt-dlp 2026.08.01 stale?" in text


def test_disk_and_age_of_the_manifest_are_told(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS, per_shard=5)
    dataset.finish([attempt(each) for each in SEGMENTS[:5]], shards[0])
    dataset.store.publish_bytes(bytes(1_000_000), f"{shards[0]}.tar")
    before = read_status(dataset.store)
    assert before.manifest_age_s is None
    assert before.used_bytes >= 1_000_000
    assert before.expected_bytes == 1_000_000  # as much again for the other five
    assert before.free_bytes is not None
    publish_manifest(dataset.store, force=True)
    after = read_status(dataset.store)
    assert after.manifest_age_s is not None
    assert after.manifest_lacks == 0
    assert "MB on disk" in shown(after)


def test_json_holds_everything_a_script_needs(dataset: LedgeredDataset) -> None:
    shards = dataset.plan(SEGMENTS, per_shard=5)
    dataset.finish([attempt(each) for each in SEGMENTS[:5]], shards[0])
    worker = WorkerProgress(dataset.store, run="run-1")
    worker.publish()
    facts = json.loads(read_status(dataset.store).to_json())
    assert facts["yield"] == 1.0
    assert facts["splits"][0]["untried"] == 5
    assert facts["workers"][0]["alive"] is True
    assert facts["outcomes"] == [{"outcome": "ok", "disposition": "done", "segments": 5}]


def test_an_object_store_has_the_same_status(s3_url: str, tmp_path: Path) -> None:
    dataset = LedgeredDataset.begin(f"{s3_url}/audioset", tmp_path)
    shards = dataset.plan(SEGMENTS, per_shard=5)
    dataset.finish([attempt(each) for each in SEGMENTS[:5]], shards[0])
    worker = WorkerProgress(dataset.store, run="run-1")
    worker.shard_started(shards[1], 5, done=2)
    worker.publish()
    status = read_status(dataset.store)
    assert (status.total("attempted"), status.total("in_work"), status.left) == (5, 2, 3)
    assert status.workers[0].alive
    assert status.free_bytes is None
    assert "on disk" in shown(status)


def test_times_and_sizes_read_well() -> None:
    assert [duration(s) for s in (4, 89, 90, 1200, 5400, 90_000, 200_000, 2e6)] == [
        "4 s", "89 s", "2 min", "20 min", "1.5 h", "25 h", "2.3 days", "23 days",
    ]  # fmt: skip
    assert [size(b) for b in (0, 640, 3_100, 999_600, 314e6, 2.5e12)] == [
        "0 B", "640 B", "3.1 kB", "1.0 MB", "314 MB", "2.5 TB",
    ]  # fmt: skip
