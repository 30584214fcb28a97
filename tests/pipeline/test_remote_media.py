"""Media on a site: who asks, what settles doubtful failures, and when everybody waits."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.canary import Canaries, ShareGuard
from pipeline.media import Failure, Recording
from pipeline.remote_media import (
    Pause,
    Paused,
    canary_urls,
    identities_of,
    parse_extractor_args,
    rate_of,
    settle_with,
)
from pipeline.settings import IngestSettings, SettingsError
from shards.layout import PAUSE
from shards.ledger import Attempt
from shards.outcome import Disposition, Outcome
from shards.store import Store, open_store

ALIVE = Recording(streams=())
DEAD = Failure(Outcome.REMOVED, "This video has been removed by the uploader")
STALE = Failure(Outcome.NO_FORMAT, "Requested format is not available")


def settings(**changes: object) -> IngestSettings:
    return dataclasses.replace(IngestSettings(segments="eval.csv", out="out", split="eval"), **changes)  # type: ignore[arg-type]


class Said:
    """What a pause told, in order."""

    def __init__(self) -> None:
        self.words: list[str | None] = []

    def __call__(self, reason: str | None) -> None:
        self.words.append(reason)


def pause_over(store: Store, canaries: Canaries, said: Said, *, wait: bool = True) -> Pause:
    guard = ShareGuard(["yt-dlp 2026.08.19", "ffmpeg 9.0.2"])
    return Pause(store, guard, canaries, wait=wait, tell=said, check=lambda: None, recheck_s=0.01)


def after_a_jump(pause: Pause) -> Pause:
    for _ in range(200):
        pause.watch(None)
    for _ in range(60):
        pause.watch(DEAD)
    return pause


def test_nothing_happens_while_the_share_is_the_usual_one(tmp_path: Path) -> None:
    said = Said()
    pause = pause_over(open_store(tmp_path), Canaries(["https://x/1"], lambda url: STALE), said)
    for _ in range(60):
        pause.watch(None)
        pause.watch(DEAD if _ % 4 == 0 else None)
        pause.wait()
    assert said.words == []


def test_a_jump_waits_until_a_known_alive_video_resolves(tmp_path: Path) -> None:
    answers: list[Recording | Failure] = [STALE, STALE, ALIVE]
    store, said = open_store(tmp_path), Said()
    seen: list[bytes] = []

    def resolve(url: str) -> Recording | Failure:
        if store.exists(PAUSE):
            seen.append(store.read_bytes(PAUSE))
        return answers.pop(0)

    pause = after_a_jump(pause_over(store, Canaries(["https://x/1"], resolve, every_s=0), said))
    pause.wait()
    assert answers == []
    assert said.words[-1] is None
    assert "yt-dlp 2026.08.19" in str(said.words[0])
    assert "60 of the last 60" in json.loads(seen[0])["reason"]
    assert not store.exists(PAUSE)
    pause.wait()  # the jump is taken for the usual share from now on


def test_a_jump_ends_a_run_that_is_not_to_wait(tmp_path: Path) -> None:
    canaries = Canaries(["https://x/1"], lambda url: STALE)
    pause = after_a_jump(pause_over(open_store(tmp_path), canaries, Said(), wait=False))
    with pytest.raises(Paused, match="out of date"):
        pause.wait()


def test_a_sample_takes_back_the_pause_of_a_run_that_has_ended(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Paused):
        after_a_jump(
            pause_over(store, Canaries(["https://x/1"], lambda url: STALE), Said(), wait=False)
        ).wait()
    assert store.exists(PAUSE)
    later = pause_over(store, Canaries(["https://x/1"], lambda url: STALE), Said())
    later.watch(DEAD)
    assert store.exists(PAUSE)
    later.watch(None)
    assert not store.exists(PAUSE)


def test_without_canaries_a_jump_says_what_is_missing(tmp_path: Path) -> None:
    pause = after_a_jump(pause_over(open_store(tmp_path), Canaries([], lambda url: ALIVE), Said()))
    with pytest.raises(Paused, match="--canary"):
        pause.wait()


def attempt(outcome: Outcome) -> Attempt:
    return Attempt(
        key="0123456789A_0",
        ytid="0123456789A",
        start=0.0,
        end=10.0,
        split="eval",
        mids=("/m/0bt9lr",),
        outcome=outcome,
        disposition=outcome.disposition,
        attempts=1,
        message="Video unavailable",
        finished_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("answer", "disposition"), [(ALIVE, Disposition.PERMANENT), (STALE, Disposition.RETRYABLE)]
)
def test_doubtful_failures_are_settled_by_the_canaries(
    answer: Recording | Failure, disposition: Disposition
) -> None:
    settle = settle_with(Canaries(["https://x/1"], lambda url: answer))
    assert settle(attempt(Outcome.UNAVAILABLE)).disposition == disposition
    assert settle(attempt(Outcome.PRIVATE)).disposition == Disposition.PERMANENT
    assert settle(attempt(Outcome.NETWORK)).disposition == Disposition.RETRYABLE


def test_identities_pair_proxies_with_cookies(tmp_path: Path) -> None:
    jars = [tmp_path / name for name in ("a.txt", "b.txt")]
    for jar in jars:
        jar.write_text("# Netscape HTTP Cookie File\n")
    names = tuple(map(str, jars))
    assert len(identities_of(settings())) == 1
    assert len(identities_of(settings(proxies=("http://a:1", "http://b:1")))) == 2
    paired = identities_of(settings(proxies=("http://a:1", "http://b:1"), cookies=names))
    assert [(each.proxy, each.cookies) for each in paired] == [
        ("http://a:1", jars[0]),
        ("http://b:1", jars[1]),
    ]
    assert len(identities_of(settings(proxies=("http://a:1",), cookies=names))) == 2
    with pytest.raises(SettingsError, match="3 --proxy and 2 --cookies"):
        identities_of(settings(proxies=("http://a:1", "http://b:1", "http://c:1"), cookies=names))


def test_youtube_is_spared_and_other_sites_are_not() -> None:
    assert rate_of(settings()) == "auto"
    assert rate_of(settings(url_template="http://127.0.0.1/{ytid}")) == "none"
    assert rate_of(settings(url_template="http://127.0.0.1/{ytid}", rate="50")) == "50"


def test_canaries_are_ids_or_addresses() -> None:
    assert len(canary_urls(settings())) >= 3
    given = settings(canaries=("0123456789A", "https://y/2"), url_template="https://x/{ytid}")
    assert canary_urls(given) == ("https://x/0123456789A", "https://y/2")


def test_extractor_args_are_read_as_yt_dlp_reads_them() -> None:
    parsed = parse_extractor_args(
        ["youtube:po_token=web.gvs+A,web.player+B;player_client=web", "generic:x=1"]
    )
    assert parsed == {
        "youtube": {"po_token": ["web.gvs+A", "web.player+B"], "player_client": ["web"]},
        "generic": {"x": ["1"]},
    }
