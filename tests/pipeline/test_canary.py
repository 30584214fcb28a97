"""Known-alive videos, and the watch over the share of permanent failures."""

import random
import threading
from collections.abc import Sequence

import pytest

from pipeline.canary import YOUTUBE_CANARIES, Canaries, ShareGuard, default_canaries
from pipeline.media import Failure, Recording
from shards.outcome import Disposition, Outcome
from shards.segment import is_ytid

BARE = Failure(Outcome.UNAVAILABLE, "Video unavailable")
NO_FORMAT = Failure(Outcome.NO_FORMAT, "Requested format is not available")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """Videos that resolve or do not, and what was asked of it."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.asked: list[str] = []

    def resolve(self, url: str) -> Recording | Failure:
        self.asked.append(url)
        return self.failure or Recording(streams=())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def canaries(site: Site, clock: Clock) -> Canaries:
    return Canaries(["one", "two", "three"], site.resolve, every_s=600, clock=clock)


@pytest.mark.parametrize("failure", [BARE, NO_FORMAT])
def test_a_doubtful_failure_is_permanent_once_a_canary_resolves(canaries: Canaries, failure: Failure) -> None:
    outcome, disposition, message = canaries.settle(failure)
    assert (outcome, disposition) == (failure.outcome, Disposition.PERMANENT)
    assert message.startswith(failure.message)


@pytest.mark.parametrize("failure", [BARE, NO_FORMAT])
def test_a_doubtful_failure_stays_retryable_while_no_canary_resolves(
    canaries: Canaries, site: Site, failure: Failure
) -> None:
    site.failure = NO_FORMAT
    outcome, disposition, message = canaries.settle(failure)
    assert (outcome, disposition) == (failure.outcome, Disposition.RETRYABLE)
    assert "no_format ×3" in message


def test_an_hour_of_missing_formats_leaves_no_permanent_failure(
    canaries: Canaries, site: Site, clock: Clock
) -> None:
    assert canaries.alive()
    clock.now += 1
    site.failure = NO_FORMAT  # a stale yt-dlp: nothing resolves any more, from one second to the next
    for _ in range(360):
        assert canaries.settle(NO_FORMAT)[1] is Disposition.RETRYABLE
        clock.now += 10
    assert len(site.asked) < 30


def test_an_older_proof_of_life_settles_nothing_seen_after_it(
    canaries: Canaries, site: Site, clock: Clock
) -> None:
    assert canaries.settle(BARE)[1] is Disposition.PERMANENT
    site.failure = BARE
    clock.now += 1
    assert canaries.settle(BARE)[1] is Disposition.RETRYABLE


def test_the_failures_of_a_shard_are_settled_by_one_request(
    canaries: Canaries, site: Site, clock: Clock
) -> None:
    seen = [clock.now + second for second in range(100)]
    clock.now += 100
    assert {canaries.settle(BARE, seen_at)[1] for seen_at in seen} == {Disposition.PERMANENT}
    assert site.asked == ["one"]


def test_canaries_take_turns(canaries: Canaries, site: Site, clock: Clock) -> None:
    for _ in range(4):
        canaries.settle(BARE)
        clock.now += 1
    assert site.asked == ["one", "two", "three", "one"]


def test_one_resolved_canary_is_enough(clock: Clock) -> None:
    answers = {"dead": BARE, "alive": Recording(streams=())}
    canaries = Canaries(["dead", "alive"], answers.__getitem__, clock=clock)
    assert canaries.alive()


def test_life_and_silence_are_remembered_for_a_while(canaries: Canaries, site: Site, clock: Clock) -> None:
    assert canaries.alive()
    clock.now += 599
    assert canaries.alive()
    assert len(site.asked) == 1
    site.failure = NO_FORMAT
    clock.now += 2
    assert not canaries.alive()
    site.failure = None
    assert not canaries.alive()
    clock.now += 601
    assert canaries.alive()


@pytest.mark.parametrize("outcome", [each for each in Outcome if not each.doubtful])
def test_what_is_not_in_doubt_is_settled_without_asking(
    canaries: Canaries, site: Site, outcome: Outcome
) -> None:
    assert canaries.settle(Failure(outcome, "said")) == (outcome, outcome.disposition, "said")
    assert site.asked == []


def test_without_canaries_doubt_remains(site: Site) -> None:
    canaries = Canaries([], site.resolve)
    assert not canaries.alive()
    assert canaries.settle(BARE)[1] is Disposition.RETRYABLE
    assert "no known-alive video" in canaries.settle(BARE)[2]


def test_threads_that_see_a_failure_together_ask_together(clock: Clock) -> None:
    asked = []
    begun, go = threading.Event(), threading.Event()

    def resolve(url: str) -> Recording | Failure:
        asked.append(url)
        begun.set()
        go.wait(10)
        return Recording(streams=())

    canaries = Canaries(["one"], resolve, clock=clock)
    settled = []
    threads = [
        threading.Thread(target=lambda: settled.append(canaries.settle(BARE, seen_at=clock.now)[1]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert settled == [Disposition.PERMANENT] * 8
    assert asked == ["one"]


def test_youtube_has_canaries_and_other_sites_none() -> None:
    assert default_canaries("https://www.youtube.com/watch?v={ytid}") == YOUTUBE_CANARIES
    assert default_canaries("https://youtu.be/{ytid}") == YOUTUBE_CANARIES
    assert default_canaries("http://127.0.0.1:8000/watch?v={ytid}") == ()
    assert default_canaries("https://notyoutube.com/{ytid}") == ()
    assert all(is_ytid(url.partition("v=")[2]) for url in YOUTUBE_CANARIES)


def watch(guard: ShareGuard, outcomes: Sequence[Outcome]) -> list[str]:
    reasons = (guard.watch(outcome, outcome.disposition) for outcome in outcomes)
    return [reason for reason in reasons if reason]


def mixture(count: int, dead: float, seed: int) -> list[Outcome]:
    dice = random.Random(seed)
    return [Outcome.REMOVED if dice.random() < dead else Outcome.OK for _ in range(count)]


@pytest.fixture
def guard() -> ShareGuard:
    return ShareGuard(["yt-dlp 2026.08.19", "ffmpeg 9.0.2"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_a_steady_share_of_dead_videos_raises_no_alarm(guard: ShareGuard, share: float, seed: int) -> None:
    assert watch(guard, mixture(3000, share, seed)) == []


def test_a_sudden_run_of_dead_videos_pauses_with_a_reason_that_names_the_tools(guard: ShareGuard) -> None:
    assert watch(guard, mixture(500, 0.2, seed=1)) == []
    reasons = watch(guard, [Outcome.REMOVED] * 60)
    assert reasons
    for part in ("of the last 60", "removed ×", "yt-dlp 2026.08.19", "ffmpeg 9.0.2"):
        assert part in reasons[0]


def test_a_run_that_starts_with_dead_videos_only_pauses_after_one_window(guard: ShareGuard) -> None:
    assert watch(guard, [Outcome.REMOVED] * 59) == []
    assert watch(guard, [Outcome.REMOVED])


def test_failures_that_may_pass_are_no_alarm(guard: ShareGuard) -> None:
    assert watch(guard, [Outcome.NETWORK, Outcome.BOT_CHECK, Outcome.NO_FORMAT] * 100) == []


def test_a_doubtful_outcome_counts_once_it_is_settled_as_permanent(guard: ShareGuard) -> None:
    reasons = [guard.watch(Outcome.UNAVAILABLE, Disposition.PERMANENT) for _ in range(60)]
    assert reasons[-1] is not None


def test_the_run_goes_on_once_somebody_says_so(guard: ShareGuard) -> None:
    assert watch(guard, [Outcome.REMOVED] * 60)
    guard.go_on()
    assert watch(guard, [Outcome.REMOVED] * 30) == []


def test_a_list_of_mostly_dead_videos_is_accepted_after_a_few_confirmations(guard: ShareGuard) -> None:
    pauses = 0
    for outcome in mixture(3000, 0.8, seed=2):
        if guard.watch(outcome, outcome.disposition):
            pauses += 1
            guard.go_on()
    assert pauses <= 5
