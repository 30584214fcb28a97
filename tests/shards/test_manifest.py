"""What manifest.duckdb says about a dataset, and how it is replaced while others work and read."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ledgered_dataset import BARK, DOG, MUSIC, NOON, SPEECH, LedgeredDataset, attempt, segment

from shards import ledger
from shards.layout import LABELS, MANIFEST, ledger_name
from shards.manifest import ManifestError, build_manifest
from shards.outcome import Outcome
from shards.publication import STAGING, STATE, is_published, publish_manifest
from shards.store import open_store

Rows = list[dict[str, Any]]


@pytest.fixture
def dataset(tmp_path: Path) -> LedgeredDataset:
    return LedgeredDataset.begin(tmp_path / "audioset", tmp_path)


def manifest_of(dataset: LedgeredDataset) -> Path:
    target = dataset.scratch / "built.duckdb"
    build_manifest(dataset.store, target)
    return target


def ask(manifest: Path, sql: str) -> Rows:
    with duckdb.connect(str(manifest), read_only=True) as con:
        return con.sql(sql).to_arrow_table().to_pylist()


def published(dataset: LedgeredDataset) -> Path:
    path = dataset.store.local_path(MANIFEST)
    assert path is not None
    return path


# ---------------------------------------------------------------------------------------------- what it says


def test_every_table_view_and_column_says_what_it_means(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    manifest = manifest_of(dataset)
    silent = ask(
        manifest,
        "select table_name, column_name from duckdb_columns() "
        "where not internal and coalesce(comment, '') = ''",
    )
    assert silent == []
    nameless = ask(
        manifest,
        "select table_name from duckdb_tables() where coalesce(comment, '') = '' "
        "union all select view_name from duckdb_views() where not internal and coalesce(comment, '') = ''",
    )
    assert nameless == []


def test_every_column_of_the_ledger_arrives_as_it_was_written(dataset: LedgeredDataset) -> None:
    written = attempt(segment(1, DOG, BARK), message="kept for the test", attempts=3)
    shard = dataset.finish([written])
    [row] = ask(manifest_of(dataset), "from segments")
    for name in ledger.SCHEMA.names:
        value = getattr(written, name) if name != "shard" else shard
        expected = list(value) if isinstance(value, tuple) else value
        assert row[name] == (pytest.approx(expected) if isinstance(expected, float) else expected), name
    assert row["classes"] == ["Dog", "Bark"]


def test_a_segment_tried_again_is_one_row_with_the_tries_of_all(dataset: LedgeredDataset) -> None:
    helped, hopeless, kept = segment(1), segment(2), segment(3)
    dataset.finish(
        [attempt(helped, Outcome.NETWORK, attempts=3), attempt(hopeless, Outcome.TIMEOUT), attempt(kept)]
    )
    dataset.finish(
        [attempt(helped), attempt(hopeless, Outcome.PRIVATE), attempt(kept, Outcome.NETWORK, attempts=2)]
    )
    manifest = manifest_of(dataset)
    rows = ask(manifest, "select ytid, outcome, attempts, shard from segments order by ytid")
    assert [(row["outcome"], row["attempts"], row["shard"][-1]) for row in rows] == [
        ("ok", 4, "1"),
        ("private", 2, "1"),
        ("ok", 3, "0"),  # a sample is never lost to a later failure
    ]
    assert ask(manifest, "select count(*) as n from attempts") == [{"n": 6}]


def test_the_later_shard_counts_even_if_its_machine_has_a_slow_clock(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1), Outcome.NETWORK, finished_at=NOON)])
    dataset.finish([attempt(segment(1), Outcome.REMOVED, finished_at=NOON - timedelta(days=1))])
    assert ask(manifest_of(dataset), "select outcome from segments") == [{"outcome": "removed"}]


def test_coverage_adds_up_to_what_was_planned(dataset: LedgeredDataset) -> None:
    evaluation = [segment(number) for number in range(6)]
    training = [segment(number, split="balanced_train") for number in range(10, 13)]
    shards = dataset.plan(evaluation, per_shard=4)
    dataset.plan(training)
    dataset.finish(
        [
            attempt(evaluation[0]),
            attempt(evaluation[1], Outcome.PRIVATE),
            attempt(evaluation[2], Outcome.NETWORK),
            attempt(evaluation[3], Outcome.BOT_CHECK),
        ],
        shards[0],
    )
    rows = ask(manifest_of(dataset), "from coverage")
    names = ("split", "planned", "attempted", "ok", "permanent", "retryable", "blocked", "untried", "yield")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("balanced_train", 3, 0, 0, 0, 0, 0, 3, None),
        ("eval", 6, 4, 1, 1, 1, 1, 2, 0.25),
    ]
    assert rows[1]["hours"] == pytest.approx(10 / 3600)
    assert rows[1]["sample_bytes"] == 600_000


def test_pending_names_why_each_segment_still_waits(dataset: LedgeredDataset) -> None:
    segments = [segment(number) for number in range(5)]
    shards = dataset.plan(segments, per_shard=4)
    outcomes = (Outcome.OK, Outcome.PRIVATE, Outcome.NETWORK, Outcome.RATE_LIMITED)
    dataset.finish(map(attempt, segments[:4], outcomes), shards[0])
    dataset.plan(segments[2:4], retry=True)  # planned again is not planned twice
    rows = ask(manifest_of(dataset), 'select key, reason, "end" from pending order by key')
    assert [(row["key"], row["reason"]) for row in rows] == [
        (segments[2].key, "retryable: network"),
        (segments[3].key, "blocked: rate_limited"),
        (segments[4].key, "not tried yet"),
    ]
    assert {row["end"] for row in rows} == {40.0}


def test_class_coverage_counts_a_segment_for_each_of_its_classes(dataset: LedgeredDataset) -> None:
    segments = [segment(1, DOG, BARK), segment(2, DOG), segment(3, "/m/unheard")]
    shards = dataset.plan(segments, per_shard=2)
    dataset.finish([attempt(segments[0]), attempt(segments[1], Outcome.REMOVED)], shards[0])
    rows = ask(manifest_of(dataset), "from class_coverage")
    assert [(row["name"], row["planned"], row["attempted"], row["ok"], row["kept"]) for row in rows] == [
        ("Dog", 2, 2, 1, 0.5),
        ("Bark", 1, 1, 1, 1.0),
        ("/m/unheard", 1, 0, 0, 0.0),  # a mid that the class table lacks stands for itself
    ]


def test_failures_give_share_and_latest_message(dataset: LedgeredDataset) -> None:
    dataset.finish(
        [
            attempt(segment(1)),
            attempt(segment(2), Outcome.PRIVATE, message="older"),
            attempt(segment(3), Outcome.PRIVATE, message="newest"),
            attempt(segment(4), Outcome.NO_FORMAT, disposition="permanent"),  # canaries settled it
            attempt(segment(5), Outcome.NO_FORMAT),
        ]
    )
    rows = ask(manifest_of(dataset), "from failures")
    assert [(row["outcome"], row["disposition"], row["segments"]) for row in rows] == [
        ("private", "permanent", 2),
        ("no_format", "permanent", 1),
        ("no_format", "retryable", 1),
    ]
    assert (rows[0]["share"], rows[0]["message"], rows[0]["example"]) == (0.4, "newest", segment(3).key)


def test_duplicates_are_equal_sound_under_two_ids(dataset: LedgeredDataset) -> None:
    twice = segment(1), segment(2, split="balanced_train")
    one_id = segment(3), segment(3, start=50.0)
    dataset.finish(
        [attempt(twice[0], pcm_sha256="same"), *(attempt(each, pcm_sha256="own") for each in one_id)]
    )
    dataset.finish([attempt(twice[1], pcm_sha256="same")])
    [row] = ask(manifest_of(dataset), "from duplicates")
    assert row["keys"] == [twice[0].key, twice[1].key]
    assert row["splits"] == ["balanced_train", "eval"]


def test_throughput_is_per_hour_host_and_identity(dataset: LedgeredDataset) -> None:
    def at(number: int, seconds: float, **facts: Any) -> Any:
        begun = NOON + timedelta(seconds=seconds)
        return attempt(segment(number), started_at=begun, finished_at=begun + timedelta(seconds=10), **facts)

    dataset.finish([at(1, 0), at(2, 90), at(3, 3600), at(4, 0, identity="proxy"), at(5, -5)])
    rows = ask(manifest_of(dataset), "select * replace (epoch(hour) as hour) from throughput")
    found = [
        (row["hour"] - NOON.timestamp(), row["identity"], row["segments"], row["active_s"]) for row in rows
    ]
    # the attempt that began five seconds before noon counts from noon on
    assert found == [(0, "direct", 3, 100.0), (0, "proxy", 1, 10.0), (3600, "direct", 1, 10.0)]
    assert rows[0]["segments_per_s"] == pytest.approx(0.03)
    assert rows[0]["media_mb_per_s"] == pytest.approx(0.03)
    assert rows[0]["cpu_s_per_segment"] == pytest.approx(0.4)


def test_skipped_rows_shards_identities_and_profile_are_there(dataset: LedgeredDataset) -> None:
    dataset.skip((17, "x, 1, 2", "4 fields expected, found 3"))
    dataset.finish([attempt(segment(1)), attempt(segment(2), Outcome.BOT_CHECK, identity="proxy")])
    manifest = manifest_of(dataset)
    assert ask(manifest, "select file, line, reason from skipped_rows") == [
        {"file": "eval_segments.csv", "line": 17, "reason": "4 fields expected, found 3"}
    ]
    [shard] = ask(manifest, "select rows, samples, outcomes['bot_check'] as checks, problem from shards")
    assert shard == {"rows": 2, "samples": 1, "checks": 1, "problem": None}
    blocked = ask(manifest, "select identity, blocked from identities")
    assert blocked == [{"identity": "direct", "blocked": 0}, {"identity": "proxy", "blocked": 1}]
    [profile] = ask(manifest, "select (dataset->>'$.profile.frames')::int as frames from snapshot")
    assert profile == {"frames": 10}


def test_a_dataset_without_class_table_still_has_a_manifest(dataset: LedgeredDataset) -> None:
    dataset.store.delete(LABELS)
    dataset.finish([attempt(segment(1, MUSIC))])
    assert ask(manifest_of(dataset), "select classes from segments") == [{"classes": [MUSIC]}]


def test_an_empty_folder_is_answered_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no ledgers and no plan; expected a dataset"):
        build_manifest(open_store(tmp_path), tmp_path / "built.duckdb")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ damage


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def page_damaged(data: bytes) -> bytes:
    return data[:4] + bytes(400) + data[404:]


def foreign(data: bytes) -> bytes:
    return b"<html>not found</html>"


@pytest.mark.parametrize("damage", [truncated, page_damaged, foreign, lambda data: b""])
def test_a_damaged_ledger_is_named_and_the_others_are_read(dataset: LedgeredDataset, damage: Any) -> None:
    good = dataset.finish([attempt(segment(1))])
    bad = dataset.finish([attempt(segment(number)) for number in range(2, 200)])
    data = dataset.store.read_bytes(ledger_name(bad))
    dataset.store.publish_bytes(damage(data), ledger_name(bad), replace=True)
    target = dataset.scratch / "built.duckdb"
    build = build_manifest(dataset.store, target)
    assert list(build.problems) == [ledger_name(bad)]
    assert ask(target, "select shard from segments") == [{"shard": good}]
    [named] = ask(target, "select shard, problem from shards where problem is not null")
    assert named["shard"] == bad
    assert ask(target, "select name from sources where problem is not null") == [{"name": ledger_name(bad)}]


def test_a_ledger_that_was_mended_is_read_the_next_time(dataset: LedgeredDataset) -> None:
    shard = dataset.finish([attempt(segment(1))])
    whole = dataset.store.read_bytes(ledger_name(shard))
    dataset.store.publish_bytes(truncated(whole), ledger_name(shard), replace=True)
    dataset.finish([attempt(segment(2))])
    publish_manifest(dataset.store, force=True)
    dataset.store.publish_bytes(whole, ledger_name(shard), replace=True)
    publish_manifest(dataset.store, force=True)
    assert ask(published(dataset), "select count(*) as n from segments") == [{"n": 2}]
    assert ask(published(dataset), "select problem from shards") == [{"problem": None}] * 2


def test_a_damaged_plan_is_named_and_everything_else_is_there(dataset: LedgeredDataset) -> None:
    dataset.store.publish_bytes(b"PAR1 no", "_plan/eval-000000.parquet")
    dataset.finish([attempt(segment(1))])
    target = dataset.scratch / "built.duckdb"
    assert list(build_manifest(dataset.store, target).problems) == ["_plan/eval-000000.parquet"]
    assert ask(target, "select ok from coverage") == [{"ok": 1}]


# ----------------------------------------------------------------------------------------------- publish


def everything(manifest: Path) -> dict[str, list[str]]:
    """All rows of all views and tables, but for when and how the snapshot was made."""
    names = ask(manifest, "select table_name as name from information_schema.tables order by 1")
    wanted = [row["name"] for row in names if row["name"] != "snapshot"]
    return {name: sorted(map(str, ask(manifest, f"from {name}"))) for name in wanted}


def test_a_snapshot_carried_on_equals_one_built_from_nothing(dataset: LedgeredDataset) -> None:
    dice = random.Random(5)
    segments = [segment(number, *dice.sample([DOG, BARK, SPEECH, MUSIC], 2)) for number in range(40)]
    waiting = list(dataset.plan(segments, per_shard=8))
    outcomes = [Outcome.OK, Outcome.NETWORK, Outcome.PRIVATE, Outcome.BOT_CHECK]
    for place, shard in enumerate(waiting):
        mine = segments[place * 8 : place * 8 + 8]
        dataset.finish([attempt(each, dice.choice(outcomes)) for each in mine], shard)
        again = dice.sample(segments[: place * 8 + 8], 3)
        dataset.finish([attempt(each, dice.choice(outcomes)) for each in again])
        publish_manifest(dataset.store, force=True)
    # one ledger goes, one is written anew
    dataset.store.delete(ledger_name(waiting[1]))
    dataset.finish([attempt(each) for each in segments[:8]], waiting[0], replace_it=True)
    assert is_published(dataset.store)
    carried_on = dataset.scratch / "carried-on.duckdb"
    assert build_manifest(dataset.store, carried_on, previous=True).added == 1
    anew = dataset.scratch / "anew.duckdb"
    assert build_manifest(dataset.store, anew).added == len(waiting) * 2 - 1
    assert everything(carried_on) == everything(anew)


def test_a_snapshot_that_somebody_changed_is_not_carried_on(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    publish_manifest(dataset.store, force=True)
    with duckdb.connect(str(published(dataset))) as con:
        con.execute("update attempts set outcome = 'invented'")
    dataset.finish([attempt(segment(2))])
    publish_manifest(dataset.store, force=True)
    assert ask(published(dataset), "select distinct outcome from segments") == [{"outcome": "ok"}]


def test_publishing_again_waits_its_time_unless_forced(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    assert publish_manifest(dataset.store)
    dataset.finish([attempt(segment(2))])
    assert not publish_manifest(dataset.store)
    assert ask(published(dataset), "select count(*) as n from segments") == [{"n": 1}]
    assert publish_manifest(dataset.store, throttle_s=0)
    assert publish_manifest(dataset.store, force=True)
    assert ask(published(dataset), "select count(*) as n from segments") == [{"n": 2}]


def test_a_long_build_makes_the_next_one_wait_longer(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    publish_manifest(dataset.store)

    def built_a_minute_ago(took_s: float) -> None:
        state = json.loads(dataset.store.read_bytes(STATE))
        changed = {**state, "begun_at": time.time() - 60, "seconds": took_s}
        dataset.store.update(STATE, lambda _: json.dumps(changed).encode())

    built_a_minute_ago(took_s=10.0)
    assert not publish_manifest(dataset.store)
    built_a_minute_ago(took_s=0.1)
    assert publish_manifest(dataset.store)


def test_a_reader_keeps_what_it_has_open_and_the_next_sees_the_new(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    publish_manifest(dataset.store, force=True)
    count = "import duckdb, sys; con = duckdb.connect(sys.argv[1], read_only=True); "
    ask_twice = count + textwrap.dedent(
        """
        for line in sys.stdin:
            print(con.sql('select count(*) from segments').fetchall()[0][0], flush=True)
        """
    )
    command = [sys.executable, "-c", ask_twice, str(published(dataset))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        print("ask", file=reader.stdin, flush=True)
        assert reader.stdout.readline() == "1\n"
        dataset.finish([attempt(segment(2))])
        publish_manifest(dataset.store, force=True)
        print("ask", file=reader.stdin, flush=True)
        assert reader.stdout.readline() == "1\n"
        reader.stdin.close()
    with duckdb.connect() as con:
        con.execute(f"attach '{published(dataset)}' as other (read_only)")
        assert con.sql("select count(*) from other.segments").fetchall() == [(2,)]


def test_the_wal_of_a_killed_user_does_not_lock_the_next_snapshot_out(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(1))])
    publish_manifest(dataset.store, force=True)
    path = published(dataset)
    write = f"""
        import duckdb, os, signal
        con = duckdb.connect({str(path)!r})
        con.execute("insert into labels values (1, 'x', 'x', [])")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(write)], check=False)
    assert path.with_name("manifest.duckdb.wal").exists()
    dataset.finish([attempt(segment(2))])
    publish_manifest(dataset.store, force=True)
    assert ask(path, "select count(*) as n from segments") == [{"n": 2}]
    assert not path.with_name("manifest.duckdb.wal").exists()


PUBLISHER = """
import sys
from shards.publication import publish_manifest
from shards.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
while True:
    publish_manifest(store, throttle_s=0)
"""


def test_a_killed_publisher_leaves_a_whole_manifest_and_no_lock(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(number)) for number in range(50)])
    publish_manifest(dataset.store, force=True)
    dice = random.Random(3)
    for _ in range(4):
        command = [sys.executable, "-c", PUBLISHER, dataset.store.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as publisher:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(dice.uniform(0.0, 0.3))
            publisher.send_signal(signal.SIGKILL)
        assert ask(published(dataset), "select count(*) as n from segments") == [{"n": 50}]
    assert publish_manifest(dataset.store, force=True)
    staging = dataset.store.local_path(STAGING)
    assert staging is not None
    assert not staging.exists()
    assert is_published(dataset.store)


def test_readers_never_meet_a_half_written_manifest(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(number)) for number in range(20)])
    publish_manifest(dataset.store, force=True)
    command = [sys.executable, "-c", PUBLISHER, dataset.store.url]
    publishers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for publisher in publishers:
            assert publisher.stdout is not None
            publisher.stdout.readline()
        inodes = set()
        while len(inodes) < 5:
            inodes.add(os.stat(published(dataset)).st_ino)
            assert ask(published(dataset), "select count(*) as n from segments") == [{"n": 20}]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.communicate()


def test_a_manifest_of_an_object_store_is_published_and_carried_on(s3_url: str, tmp_path: Path) -> None:
    dataset = LedgeredDataset.begin(f"{s3_url}/audioset", tmp_path)
    segments = [segment(number) for number in range(3)]
    shards = dataset.plan(segments, per_shard=2)
    dataset.finish([attempt(each) for each in segments[:2]], shards[0])
    assert publish_manifest(dataset.store, force=True)
    dataset.finish([attempt(segments[2])], shards[1])
    assert (
        build_manifest(dataset.store, tmp_path / "next.duckdb", previous=is_published(dataset.store)).added
        == 1
    )
    assert publish_manifest(dataset.store, force=True)
    dataset.store.fetch(MANIFEST, tmp_path / "fetched.duckdb")
    assert ask(tmp_path / "fetched.duckdb", "select planned, ok from coverage") == [{"planned": 3, "ok": 3}]
