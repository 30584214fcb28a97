"""Claims: one holder at a time, and work that the dead leave behind is taken up."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.claim import Claim, Claims, Holder
from shards.process import Process, this_process
from shards.store import Store, open_store

NAME = "_state/claims/audioset-eval-000000"


class Clock:
    """A steady clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path if request.param == "folder" else request.getfixturevalue("s3_url"))


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


def claim_of_another_machine(store: Store, lease_s: float = 60.0) -> Holder:
    there = Process(host="elsewhere", boot="another-boot", space="pid:[1]", pid=os.getpid(), started="1")
    holder = Holder(token="theirs", owner="", process=there, beat=0, lease_s=lease_s)
    store.publish_bytes(holder.to_bytes(), NAME, replace=True)
    return holder


def test_a_claim_is_held_by_one_until_it_is_released(store: Store) -> None:
    mine = taken(store.claim(NAME))
    assert mine.held()
    assert store.claim(NAME) is None
    assert open_store(store.url).claim(NAME) is None
    mine.release()
    assert not store.exists(NAME)
    assert not mine.held()
    assert taken(store.claim(NAME)).held()


def test_releasing_twice_leaves_the_next_holder_alone(store: Store) -> None:
    first = taken(store.claim(NAME))
    first.release()
    second = taken(store.claim(NAME))
    first.release()
    assert second.held()


def test_a_beat_of_another_machine_that_stands_still_for_its_lease_is_taken_over(
    store: Store, clock: Clock
) -> None:
    theirs = claim_of_another_machine(store, lease_s=60)
    claims = Claims(store, clock)
    assert claims.claim(NAME, lease_s=5) is None  # seen for the first time
    clock.now += 59
    assert claims.claim(NAME, lease_s=5) is None  # it is their lease that counts
    store.publish_bytes(dataclasses.replace(theirs, beat=1).to_bytes(), NAME, replace=True)
    clock.now += 59
    assert claims.claim(NAME, lease_s=5) is None  # they live
    clock.now += 60
    assert taken(claims.claim(NAME, lease_s=5)).held()


def test_a_newcomer_waits_a_whole_lease_whatever_the_hour(folder: Store, clock: Clock) -> None:
    """How long others have watched, and what the file's date is, tell a newcomer nothing."""
    claim_of_another_machine(folder)
    os.utime(folder.local_path(NAME) or "", (0, 0))
    clock.now = 1e9
    assert Claims(folder, clock).claim(NAME) is None


def test_a_file_that_is_no_claim_is_taken_over_after_our_own_lease(folder: Store, clock: Clock) -> None:
    folder.publish_bytes(b'{"token": "cut o', NAME)
    claims = Claims(folder, clock)
    assert claims.claim(NAME, lease_s=10) is None
    clock.now += 10
    assert claims.claim(NAME, lease_s=10) is not None


def test_whoever_slept_longer_than_the_lease_no_longer_holds_it(folder: Store, clock: Clock) -> None:
    sleeper = taken(Claims(folder, clock).claim(NAME, lease_s=30))
    clock.now += 29.9
    assert sleeper.held()
    clock.now += 0.1
    assert not sleeper.held()
    assert sleeper.renew()  # nobody came meanwhile
    assert sleeper.held()


def test_a_sleeper_whose_claim_was_taken_over_can_neither_renew_nor_release_it(
    store: Store, clock: Clock
) -> None:
    """The sleeper is this very process, so that only the beat can tell."""
    sleeper = taken(Claims(store, clock).claim(NAME, lease_s=30))
    watcher = Claims(store, clock)
    assert watcher.claim(NAME) is None
    clock.now += 30
    successor = taken(watcher.claim(NAME))
    assert not sleeper.held()
    assert not sleeper.renew()
    sleeper.release()
    assert successor.held()


def test_renewing_keeps_watchers_away(folder: Store, clock: Clock) -> None:
    holder = taken(Claims(folder, clock).claim(NAME, lease_s=30))
    watcher = Claims(folder, clock)
    for _ in range(5):
        assert watcher.claim(NAME) is None
        clock.now += 20
        assert holder.renew()
    assert holder.held()


def test_a_kept_claim_beats_by_itself_and_is_released_at_the_end(folder: Store) -> None:
    claim = taken(folder.claim(NAME, lease_s=0.2))
    with claim.kept():
        first = Holder.from_bytes(folder.read_bytes(NAME))
        while (now := Holder.from_bytes(folder.read_bytes(NAME))) == first:
            pass
        assert now is not None
        assert now.beat > 0
    assert not folder.exists(NAME)


HOLD = """
import sys, time
from shards.store import open_store
claim = open_store(sys.argv[1]).claim(sys.argv[2], lease_s=3600)
print(claim is not None and claim.held(), flush=True)
time.sleep(600)
"""


def holder_process(store: Store) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.url, NAME], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_a_killed_holder_of_this_machine_is_replaced_at_once(store: Store) -> None:
    process = holder_process(store)
    assert store.claim(NAME) is None
    process.kill()
    process.communicate()
    assert taken(store.claim(NAME)).held()


def test_a_killed_holder_that_nobody_waited_for_is_gone_too(folder: Store) -> None:
    """Its process number is still in the table, as a zombie's."""
    process = holder_process(folder)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert folder.claim(NAME) is not None
    process.communicate()


def test_a_process_number_that_was_given_out_again_does_not_keep_a_claim(folder: Store) -> None:
    mine = this_process()
    before = Holder(
        token="old", owner="", process=dataclasses.replace(mine, started="1"), beat=0, lease_s=3600
    )
    folder.publish_bytes(before.to_bytes(), NAME)
    assert folder.claim(NAME) is not None


def test_a_container_does_not_judge_anothers_process_numbers(folder: Store) -> None:
    """Same machine, same boot, but number 999999999 may well live in there."""
    there = dataclasses.replace(this_process(), space="pid:[42]", pid=999999999)
    folder.publish_bytes(Holder(token="t", owner="", process=there, beat=0, lease_s=3600).to_bytes(), NAME)
    assert folder.claim(NAME) is None
