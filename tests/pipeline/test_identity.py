"""Identities: one budget and one breaker each, for all processes and machines together."""

import itertools
import json
import pickle
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.breaker import COOLDOWN_S, Breaker
from pipeline.identity import AllBlocked, Identities, Identity
from pipeline.pace import named_pace
from pipeline.shared_standing import standings
from shards.layout import IDENTITIES
from shards.outcome import Outcome
from shards.store import Store, open_store

DIRECT = Identity()
PROXY = Identity(proxy="http://user:secret@proxy.example:8080")
MINUTE = 60.0


class Clock:
    """Wall-clock time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def process(
    store: Store, clock: Clock, *identities: Identity, pace: str = "none", **given: Any
) -> Identities:
    """What another process would make of the same settings."""
    return Identities(
        store,
        identities or (DIRECT,),
        pace,
        given.pop("on_blocked", "stop"),
        clock=clock,
        sleep=given.pop("sleep", clock.sleep),
        dice=random.Random(7),
        **given,
    )


def tell(identities: Identities, *outcomes: Outcome, **given: Any) -> None:
    for outcome in outcomes:
        with identities.turn() as turn:
            turn.report(outcome, **given)


def rest_s(identities: Identities, clock: Clock) -> float:
    """How long everything is blocked."""
    with pytest.raises(AllBlocked) as blocked:
        identities.turn()
    return blocked.value.resumes_at - clock.now


# who we are


def test_an_identity_is_its_proxy_and_its_cookie_file(tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    known = [
        DIRECT,
        PROXY,
        Identity(cookies=cookies),
        Identity(proxy=PROXY.proxy, cookies=cookies),
        Identity(proxy="http://user:other@proxy.example:8080"),
        Identity(network="office"),
    ]
    assert len({identity.id for identity in known}) == len(known)
    assert Identity(cookies=tmp_path / "." / "cookies.txt").id == Identity(cookies=cookies).id


@pytest.mark.parametrize(
    ("identity", "label"),
    [
        (DIRECT, "direct"),
        (PROXY, "http://***@proxy.example:8080"),
        (Identity(proxy="user:secret@proxy.example:8080"), "***@proxy.example:8080"),
        (Identity(proxy="socks5://10.0.0.1:1080"), "socks5://10.0.0.1:1080"),
        (
            Identity(proxy=PROXY.proxy, cookies=Path("/home/me/secret/jar.txt")),
            "http://***@proxy.example:8080 + jar.txt",
        ),
        (Identity(network="office"), "office"),
    ],
)
def test_no_credentials_are_shown(identity: Identity, label: str) -> None:
    assert identity.label == label
    assert "secret" not in repr(identity).replace("/home/me/secret", "")


def test_no_credentials_are_written_down(store: Store, clock: Clock) -> None:
    tell(process(store, clock, PROXY), Outcome.BOT_CHECK, message=f"Unable to connect to proxy {PROXY.proxy}")
    (name,) = store.names(f"{IDENTITIES}/")
    assert name == f"{IDENTITIES}/{PROXY.id}.json"
    written = store.read_bytes(name)
    assert b"secret" not in written
    assert b"http://***@proxy.example:8080" in written


# the budget


def test_the_pace_follows_from_the_cookies_unless_it_is_given() -> None:
    assert named_pace("auto", account=False).videos_per_hour == 300
    assert named_pace("auto", account=True).videos_per_hour == 2000
    assert named_pace("guest", account=True).videos_per_hour == 300
    assert named_pace("12.5", account=False).videos_per_hour == 12.5
    assert not named_pace("none", account=False).limited


@pytest.mark.parametrize("choice", ["fast", "0", "-3", "inf", "nan", ""])
def test_an_unknown_pace_is_answered_with_the_known_ones(choice: str) -> None:
    with pytest.raises(ValueError, match="expected guest, account, none, auto, or videos per hour"):
        named_pace(choice, account=False)


def most_within(times: list[float], seconds: float) -> int:
    """The largest number of times within any window of that length."""
    ordered = sorted(times)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("pace", ["guest", "account"])
def test_no_hour_sees_more_than_the_rate_and_a_burst(store: Store, clock: Clock, pace: str) -> None:
    """Three processes that take what they can get, with idle spells in between."""
    limit, dice = named_pace(pace, account=False), random.Random(3)
    assert limit.videos_per_hour is not None
    processes = [process(store, clock, pace=pace) for _ in range(3)]
    times: list[float] = []
    end = clock.now + 1.3 * 3600
    while clock.now < end:
        dice.choice(processes).turn()
        times.append(clock.now)
        if dice.random() < 1 / limit.videos_per_hour:
            clock.now += dice.uniform(0, 600)
    assert limit.burst == 5
    assert most_within(times, 3600) <= limit.videos_per_hour + limit.burst
    (standing,) = standings(store)
    assert standing.granted >= len(times)


def test_slots_that_sleepers_reserved_are_not_used_all_at_once_later(store: Store, clock: Clock) -> None:
    limit = named_pace("36000", account=False)
    assert limit.lease > 1
    sleepers = [process(store, clock, pace="36000") for _ in range(8)]
    for sleeper in sleepers:
        sleeper.turn()
    clock.now += MINUTE
    times = []
    for sleeper in sleepers:
        for _ in range(limit.lease - 1):
            sleeper.turn()
            times.append(clock.now)
    assert limit.lease < most_within(times, 1) <= limit.burst + 1 / limit.interval_s


def test_a_busy_identity_uses_its_whole_rate(store: Store, clock: Clock) -> None:
    busy, begun = process(store, clock, pace="guest"), clock.now
    for _ in range(300):
        busy.turn()
    assert clock.now - begun < 3600


def test_requests_do_not_come_like_clockwork(store: Store, clock: Clock) -> None:
    busy, times = process(store, clock, pace="guest"), []
    for _ in range(50):
        busy.turn()
        times.append(clock.now)
    gaps = {round(later - earlier, 1) for earlier, later in itertools.pairwise(times[10:])}
    assert len(gaps) > 5


def test_the_identity_with_budget_goes_first(store: Store, clock: Clock) -> None:
    both, begun = process(store, clock, DIRECT, PROXY, pace="guest"), clock.now
    used = Counter(both.turn().identity.id for _ in range(100))
    assert used == {DIRECT.id: 50, PROXY.id: 50}
    assert clock.now - begun < 50 * 12


def test_a_clock_gone_wrong_does_not_stop_the_others_for_days(store: Store, clock: Clock) -> None:
    wrong = Clock()
    wrong.now += 1e9
    tell(process(store, wrong, pace="guest"), Outcome.SESSION_LIMIT)
    begun = clock.now
    turn = process(store, clock, pace="guest", on_blocked="wait").turn()
    turn.report(Outcome.OK)
    process(store, clock, pace="guest").turn()
    assert clock.now - begun < MINUTE


class CountingStore:
    """A real store that counts what it is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self._store, name)


def test_a_turn_without_a_limit_costs_no_access_to_the_store(store: Store, clock: Clock) -> None:
    counting: Any = CountingStore(store)
    free = process(counting, clock)
    for _ in range(100):
        tell(free, Outcome.OK, Outcome.PRIVATE, Outcome.NETWORK)
    assert counting.asked == {"read_bytes": 1}
    clock.now += 1.5
    tell(free, Outcome.OK)
    assert counting.asked == {"read_bytes": 2}
    assert store.names() == []


# the breaker


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.BOT_CHECK, Outcome.SESSION_LIMIT])
def test_a_block_stops_every_process_for_as_long_as_such_blocks_last(
    store: Store, clock: Clock, outcome: Outcome
) -> None:
    tell(process(store, clock), outcome)
    assert rest_s(process(store, clock), clock) == COOLDOWN_S[outcome]


def test_a_process_hears_within_a_second_or_two(store: Store, clock: Clock) -> None:
    one, other = process(store, clock), process(store, clock)
    tell(other, Outcome.OK)
    tell(one, Outcome.BOT_CHECK)
    clock.now += 1
    assert rest_s(other, clock) == 30 * MINUTE - 1


def test_the_server_knows_best_how_long_to_wait(store: Store, clock: Clock) -> None:
    tell(process(store, clock), Outcome.RATE_LIMITED, retry_after=42.0)
    assert rest_s(process(store, clock), clock) == 42


def test_a_cooldown_may_be_given(store: Store, clock: Clock) -> None:
    tell(process(store, clock, cooldown_s=7.0), Outcome.SESSION_LIMIT)
    assert rest_s(process(store, clock), clock) == 7


def test_three_403s_in_a_row_are_a_block_and_single_ones_are_not(store: Store, clock: Clock) -> None:
    one, other = process(store, clock), process(store, clock)
    for _ in range(5):
        tell(one, Outcome.FORBIDDEN)
        tell(other, Outcome.FORBIDDEN)
        tell(other, Outcome.NETWORK)  # says nothing
        tell(other, Outcome.PRIVATE)  # the site talks to us
        clock.now += 1
    tell(one, Outcome.FORBIDDEN)
    tell(other, Outcome.FORBIDDEN)
    tell(one, Outcome.FORBIDDEN)
    assert rest_s(one, clock) == 10 * MINUTE


def test_a_success_that_did_not_know_of_a_strike_ends_the_row_too(store: Store, clock: Clock) -> None:
    one, other = process(store, clock), process(store, clock)
    other.turn()  # has just looked, and does not look again for a second
    tell(one, Outcome.FORBIDDEN, Outcome.FORBIDDEN)
    tell(other, Outcome.OK)
    clock.now += 1
    other.turn()
    tell(one, Outcome.FORBIDDEN)
    one.turn()


def test_a_probe_that_succeeds_sets_everybody_free(store: Store, clock: Clock) -> None:
    one, other = process(store, clock), process(store, clock)
    tell(one, Outcome.BOT_CHECK)
    clock.now += 30 * MINUTE
    probe = other.turn()
    assert probe.probing
    probe.report(Outcome.REMOVED)  # an answer about the video, not about us
    clock.now += 1
    assert not one.turn().probing
    (standing,) = standings(store)
    assert standing.breaker is Breaker.CLOSED


def test_a_probe_that_fails_doubles_the_cooldown_up_to_four_hours(store: Store, clock: Clock) -> None:
    one = process(store, clock)
    tell(one, Outcome.BOT_CHECK)
    rests = []
    for _ in range(5):
        rests.append(rest_s(one, clock) / MINUTE)
        clock.now += rests[-1] * MINUTE
        tell(one, Outcome.BOT_CHECK)
    assert rests == [30, 60, 120, 240, 240]


def test_a_probe_that_proves_nothing_is_tried_again_soon(store: Store, clock: Clock) -> None:
    one = process(store, clock)
    tell(one, Outcome.SESSION_LIMIT)
    clock.now += 60 * MINUTE
    tell(one, Outcome.NETWORK)
    assert rest_s(one, clock) == 30
    clock.now += 30
    with pytest.raises(ZeroDivisionError), one.turn():
        _ = 1 / 0
    assert rest_s(one, clock) == 30


def test_a_block_right_after_a_probe_is_the_same_block_going_on(store: Store, clock: Clock) -> None:
    """A limit that lets one video through must not look like a new one each time."""
    one = process(store, clock)
    tell(one, Outcome.SESSION_LIMIT)
    clock.now += 60 * MINUTE
    tell(one, Outcome.OK, Outcome.SESSION_LIMIT)
    assert rest_s(one, clock) == 120 * MINUTE
    clock.now += 120 * MINUTE
    tell(one, Outcome.OK)
    clock.now += 120 * MINUTE
    tell(one, Outcome.SESSION_LIMIT)
    assert rest_s(one, clock) == 60 * MINUTE


def test_turns_under_way_have_no_say_in_what_came_after(store: Store, clock: Clock) -> None:
    one = process(store, clock)
    early = [one.turn() for _ in range(4)]
    early[0].report(Outcome.RATE_LIMITED)
    early[1].report(Outcome.RATE_LIMITED)
    early[2].report(Outcome.OK)
    assert rest_s(one, clock) == 5 * MINUTE
    clock.now += 5 * MINUTE
    tell(one, Outcome.OK)
    early[3].report(Outcome.RATE_LIMITED)
    assert not one.turn().probing


def test_a_turn_under_way_may_know_of_a_longer_block(store: Store, clock: Clock) -> None:
    one = process(store, clock)
    first, second = one.turn(), one.turn()
    first.report(Outcome.RATE_LIMITED)
    second.report(Outcome.SESSION_LIMIT)
    assert rest_s(one, clock) == 60 * MINUTE


def test_other_identities_work_while_one_rests(store: Store, clock: Clock) -> None:
    both = process(store, clock, DIRECT, PROXY)
    with both.turn() as turn:
        turn.report(Outcome.SESSION_LIMIT)
        rested = turn.identity
    assert {both.turn().identity for _ in range(5)} == {DIRECT, PROXY} - {rested}


def test_when_all_rest_the_reasons_are_told_and_when_it_goes_on(store: Store, clock: Clock) -> None:
    both = process(store, clock, DIRECT, PROXY)
    tell(both, Outcome.SESSION_LIMIT, Outcome.BOT_CHECK)
    with pytest.raises(AllBlocked) as blocked:
        both.turn()
    assert blocked.value.resumes_at == clock.now + 30 * MINUTE
    assert set(blocked.value.reasons) == {"direct", "http://***@proxy.example:8080"}
    said = str(pickle.loads(pickle.dumps(blocked.value)))
    assert said == str(blocked.value)
    assert "session_limit" in said
    assert "--proxy" in said
    assert "\n" not in said


def test_a_waiter_waits_the_cooldown_out_and_says_why(store: Store, clock: Clock) -> None:
    said: list[str | None] = []
    waiter = process(store, clock, on_blocked="wait", tell=said.append)
    tell(waiter, Outcome.BOT_CHECK)
    begun = clock.now
    assert waiter.turn().probing
    assert clock.now - begun == pytest.approx(30 * MINUTE, abs=2)
    assert len(said) == 2
    assert "bot_check" in (said[0] or "")
    assert said[1] is None


def test_a_waiter_can_be_called_off(store: Store, clock: Clock) -> None:
    waits: Iterator[int] = itertools.count()

    def check() -> None:
        if next(waits) == 3:
            raise KeyboardInterrupt

    waiter = process(store, clock, on_blocked="wait", check=check)
    tell(process(store, clock), Outcome.BOT_CHECK)
    with pytest.raises(KeyboardInterrupt):
        waiter.turn()
    assert clock.now < 1_800_000_000 + 5


def test_a_block_is_noticed_while_waiting_for_a_slot(store: Store, clock: Clock) -> None:
    """The slot was promised; then another process heard that the identity is blocked."""
    elsewhere = process(store, clock, DIRECT)
    words: list[Outcome] = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if words:
            tell(elsewhere, words.pop())

    slow = process(store, clock, DIRECT, pace="100", on_blocked="stop", sleep=sleep)
    for _ in range(4):
        slow.turn()
    begun = clock.now
    words.append(Outcome.BOT_CHECK)
    with pytest.raises(AllBlocked):
        slow.turn()  # the next slot is half a minute away
    assert clock.now - begun < 5


def test_a_probe_of_a_process_that_died_expires(store: Store, clock: Clock) -> None:
    tell(process(store, clock), Outcome.RATE_LIMITED)
    clock.now += 5 * MINUTE
    assert process(store, clock).turn().probing  # and is never heard of again
    began = clock.now
    assert process(store, clock).turn().probing
    assert clock.now - began == pytest.approx(300, abs=2)


def test_a_file_that_is_not_whole_holds_nothing_against_anybody(store: Store, clock: Clock) -> None:
    store.publish_bytes(b'{"breaker": "op', f"{IDENTITIES}/{DIRECT.id}.json")
    assert not process(store, clock).turn().probing
    assert standings(store) == []
    tell(process(store, clock), Outcome.BOT_CHECK)
    assert [standing.outcome for standing in standings(store)] == ["bot_check"]


def test_the_status_tells_of_every_identity(store: Store, clock: Clock) -> None:
    both = process(store, clock, DIRECT, PROXY)
    tell(both, Outcome.SESSION_LIMIT, message="rate-limited by YouTube for up to an hour")
    seen = {standing.label: standing for standing in process(store, clock, DIRECT, PROXY).status()}
    blocked = seen["direct"]
    assert (blocked.breaker, blocked.outcome) == (Breaker.OPEN, "session_limit")
    assert blocked.message == "rate-limited by YouTube for up to an hour"
    assert seen[PROXY.label].breaker is Breaker.CLOSED


# several processes, with the real clock

WORK = """
import json, sys, time
from pipeline.identity import Identities, Identity
from shards.outcome import Outcome
from shards.store import open_store
url, pace, turns, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
identities = Identities(open_store(url), [Identity()], pace, "wait")
done = []
for _ in range(turns):
    with identities.turn() as turn:
        done.append([time.time(), turn.probing])
        time.sleep(pause if turn.probing else 0)
        turn.report(Outcome.OK)
print(json.dumps(done))
"""


def worked(
    store: Store, *, processes: int, pace: str, turns: int, pause: float = 0.0
) -> list[tuple[float, bool]]:
    """The turns of all processes: when, and whether they were probes."""
    command = [sys.executable, "-c", WORK, store.url, pace, str(turns), str(pause)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    said = [worker.communicate()[0] for worker in running]
    assert [worker.returncode for worker in running] == [0] * processes
    return sorted((when, probe) for words in said for when, probe in json.loads(words))


def test_processes_share_one_budget(store: Store) -> None:
    pace = named_pace("36000", account=False)  # ten a second
    times = [when for when, _ in worked(store, processes=4, pace="36000", turns=15)]
    for first, last in itertools.combinations(range(len(times)), 2):
        allowed = (times[last] - times[first]) / pace.interval_s + pace.burst
        assert last - first + 1 <= allowed
    assert times[-1] - times[0] > (len(times) - pace.burst) * pace.interval_s


def open_breaker(store: Store) -> None:
    """As if a cooldown had just ended."""
    with Identities(store, [DIRECT], "none", cooldown_s=0.0).turn() as turn:
        turn.report(Outcome.BOT_CHECK)


def test_one_of_many_processes_probes_and_its_success_reaches_the_others(store: Store) -> None:
    open_breaker(store)
    turns = worked(store, processes=5, pace="none", turns=3, pause=0.5)
    assert [probe for _, probe in turns].count(True) == 1
    assert turns[0][1]
    assert len(turns) == 15


def test_a_killed_prober_is_replaced(store: Store) -> None:
    open_breaker(store)
    command = [sys.executable, "-c", WORK, store.url, "none", "1", "600"]
    prober = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not standings(store) or standings(store)[0].breaker is not Breaker.PROBING:
        assert prober.poll() is None
        time.sleep(0.02)
    prober.kill()
    prober.communicate()
    later = Identities(store, [DIRECT], "none", clock=lambda: time.time() + 301)
    assert later.turn().probing


def test_the_word_crosses_an_object_store(s3_url: str, clock: Clock) -> None:
    one, other = (process(open_store(s3_url), clock, DIRECT, PROXY, pace="account") for _ in range(2))
    for _ in range(6):
        tell(one, Outcome.OK)
    tell(one, Outcome.SESSION_LIMIT, Outcome.SESSION_LIMIT)
    clock.now += 1
    assert rest_s(other, clock) == pytest.approx(60 * MINUTE, abs=2 * MINUTE)
    assert [standing.breaker for standing in standings(open_store(s3_url))] == [Breaker.OPEN] * 2
