"""`trichord ingest` as a user meets it: a dataset at the end, an honest word for every failure."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer
from ingestions import Videos, ingest_arguments
from typer.testing import CliRunner, Result

from flows.ingest_command import ingest
from pipeline.demo_behaviour import Behaviour, RateLimit
from pipeline.demo_site import DemoSite
from shards.query import open_manifest, run_query
from shards.store import open_store

Trichord = Callable[..., "CompletedProcess[str]"]


def here(*arguments: str) -> Result:
    """The same command in this process: half a second less, for what ends before it begins."""
    app = typer.Typer()
    app.command()(ingest)
    return CliRunner().invoke(app, arguments[1:])


def rows(out: Path, sql: str) -> list[tuple[object, ...]]:
    return list(run_query(open_manifest(open_store(out)), sql).rows())


def test_an_ingestion_ends_with_verified_shards(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    done = trichord(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 24))
    assert done.returncode == 0, done.stderr
    assert "24 segments tried" in done.stdout
    assert "ok 24" in done.stdout
    assert trichord("verify", tmp_path / "out", "--deep").returncode == 0
    assert rows(tmp_path / "out", "select planned, ok from coverage") == [(24, 24)]
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "audioset-eval-000000.tar": 10,
        "audioset-eval-000001.tar": 10,
        "audioset-eval-000002.tar": 4,
    }
    assert not list((tmp_path / "out" / "_work").rglob("*.*"))


def test_a_run_with_nothing_to_do_writes_only_what_is_missing(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    arguments = ingest_arguments(videos, site, tmp_path / "out", "--limit", 4)
    assert trichord(*arguments).returncode == 0
    manifest, sizes = tmp_path / "out" / "manifest.duckdb", tmp_path / "out" / "sizes.json"
    before, wanted = manifest.stat().st_mtime_ns, sizes.read_text()
    again = trichord(*arguments)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert manifest.stat().st_mtime_ns == before
    sizes.unlink()
    assert trichord(*arguments).returncode == 0
    assert sizes.read_text() == wanted


FAILURES: dict[str, tuple[Behaviour, str]] = {
    "private": (Behaviour(reason="Private video"), "private"),
    "removed": (Behaviour(reason="This video has been removed by the uploader"), "removed"),
    "bare": (Behaviour(reason="Video unavailable"), "unavailable"),
    "page 404": (Behaviour(page_status=404), "not_found"),
    "media 403": (Behaviour(media_status=403), "forbidden"),
    "media 429": (Behaviour(media_status=429, retry_after_s=0), "rate_limited"),
    "media 500": (Behaviour(media_status=500), "server_error"),
    "media hangs": (Behaviour(media_hangs=True), "timeout"),
    "cut in the body, always": (Behaviour(disconnect_after=3000), "network"),
    "truncated": (Behaviour(kept_share=0.3), "corrupt"),
    "0 bytes": (Behaviour(kept_share=0.0), "corrupt"),
    "html as mp4": (Behaviour(html_as_media=True), "corrupt"),
    "403 once": (Behaviour(media_status=403, first=1), "ok"),
    "cut in the body, once": (Behaviour(disconnect_after=3000, first=1), "ok"),
    "no ranges": (Behaviour(ranges=False), "ok"),
}


def test_every_way_of_failing_has_its_name(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    wanted = {}
    for ytid, (behaviour, outcome) in zip(videos.ytids, FAILURES.values(), strict=False):
        site.behave(ytid, behaviour)
        wanted[ytid] = outcome
    arguments = ingest_arguments(
        videos, site, tmp_path / "out", "--limit", len(FAILURES), "--socket-timeout", 1
    )
    done = trichord(*arguments, "--cooldown", 0.1, "--jobs", 8, "--no-share-guard")
    assert done.returncode == 4, done.stdout + done.stderr  # blocked ones are left
    found = dict(rows(tmp_path / "out", "select ytid, outcome from segments"))
    named = {name: (found[ytid], wanted[ytid]) for name, ytid in zip(FAILURES, videos.ytids, strict=False)}
    assert {name: pair[0] for name, pair in named.items()} == {name: pair[1] for name, pair in named.items()}
    left = dict(rows(tmp_path / "out", "select outcome, disposition from segments where outcome <> 'ok'"))
    assert left["unavailable"] == "retryable"  # no canary spoke for it


def test_retry_adds_shards_and_never_a_key_twice(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "out", ("--limit", 12, "--retries", 1, "--canary", videos.ytids[20])
    site.behave(videos.ytids[3], Behaviour(media_status=500))
    site.behave(videos.ytids[7], Behaviour(reason="Private video"))
    first = trichord(*ingest_arguments(videos, site, out, *arguments))
    assert first.returncode == 3, first.stdout + first.stderr
    assert "--retry retryable" in first.stdout
    site.behave(videos.ytids[3], Behaviour())
    second = trichord(*ingest_arguments(videos, site, out, *arguments, "--retry", "retryable"))
    assert second.returncode == 0, second.stdout + second.stderr
    assert dict(rows(out, "select outcome, count(*) from segments group by all")) == {"ok": 11, "private": 1}
    assert rows(out, "select shard, attempts from segments where ytid = '" + videos.ytids[3] + "'") == [
        ("audioset-eval-000002", 2)
    ]
    assert trichord("verify", out, "--deep").returncode == 0
    third = trichord(*ingest_arguments(videos, site, out, *arguments, "--retry", "retryable"))
    assert "nothing to do" in third.stdout


def test_a_stale_downloader_makes_nothing_permanent(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    """No video offers a format, the canary neither: none is dead."""
    site.behave("*", Behaviour(reason="Requested format is not available. Use --list-formats for a list"))
    done = trichord(
        *ingest_arguments(videos, site, tmp_path / "out", "--limit", 20, "--canary", videos.ytids[50])
    )
    assert done.returncode == 3, done.stdout + done.stderr
    found = rows(tmp_path / "out", "select distinct outcome, disposition from segments")
    assert found == [("no_format", "retryable")]


def test_a_canary_that_resolves_makes_a_bare_refusal_permanent(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    site.behave(videos.ytids[0], Behaviour(reason="Video unavailable"))
    done = trichord(
        *ingest_arguments(videos, site, tmp_path / "out", "--limit", 4, "--canary", videos.ytids[50])
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(rows(tmp_path / "out", "select outcome, disposition from segments"))
    assert found == {"ok": "done", "unavailable": "permanent"}


def test_a_block_stops_the_run_or_is_waited_out(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    bot_check = "Sign in to confirm you’re not a bot. This helps protect our community."
    site.behave("*", Behaviour(reason=bot_check))
    arguments = ingest_arguments(
        videos, site, tmp_path / "out", "--limit", 10, "--jobs", 2, "--cooldown", 0.5
    )
    stopped = trichord(*arguments, "--on-blocked", "stop")
    assert stopped.returncode == 4, stopped.stdout + stopped.stderr
    assert "bot" in stopped.stdout
    site.behave("*", Behaviour())
    site.behave(videos.ytids[0], Behaviour(reason=bot_check, first=2))
    waited = trichord(*arguments, "--on-blocked", "wait")
    assert waited.returncode == 0, waited.stdout + waited.stderr


def test_a_dry_run_counts_and_writes_nothing(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    trichord(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 10))
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    plan = trichord(*ingest_arguments(videos, site, tmp_path / "out", "--dry-run"))
    assert plan.returncode == 0, plan.stderr
    assert "already done  10" in plan.stdout
    assert "50 segments in 5 shards" in plan.stdout
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frames", "-1"), "frames is -1"),
        (("--audio-codec", "mp3"), "audio_codec is 'mp3'"),
        (("--labels", "Dogg"), "Dog"),
        (("--url-template", "https://example.org/"), "{ytid}"),
        (("--retry", "sometimes"), "'sometimes'"),
        (("--rate", "fast"), "fast"),
        (("--media", "/nowhere"), "no such folder"),
        (("--media-pattern", "{id}.mp4", "--media", "."), "{id}"),
        (("--cookies", "/nowhere/cookies.txt"), "cookies"),
        (("--proxy", "nowhere"), "proxy"),
        (("--ffmpeg", "no-such-ffmpeg"), "no-such-ffmpeg"),
        (("--extractor-args", "nonsense"), "--extractor-args"),
        (("--segments", "/nowhere.csv"), "/nowhere.csv"),
        (("--out", "ftp://example.org/x"), "ftp://"),
        (("--notify", "nowhere"), "--notify"),
        (("--notify", "http://["), "--notify"),
        (("--out", "s3://["), "s3://["),
        (("--url-template", "http://[/{ytid}"), "--url-template"),
        (("--proxy", "http://["), "proxy"),
        (("--impersonate", "netscape"), "netscape is not available"),
        (("--impersonate", ":::"), "':::'"),
        (("--cookies", __file__), "Netscape format"),
        (("--cookies", sys.executable), "Netscape format"),
    ],
)
def test_wrong_input_is_answered_with_one_line(
    videos: Videos, site: DemoSite, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = here(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 2), *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.startswith("trichord: ")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.fixture(scope="module")
def two_segments(videos: Videos, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of an ingestion that is done; what --out names may be copied."""
    out = tmp_path_factory.mktemp("two_segments")
    given = [
        "ingest",
        "--segments",
        str(videos.segments),
        "--out",
        str(out),
        "--limit",
        "2",
        "--min-free",
        "0",
    ]
    arguments = [*given, "--media", str(videos.folder), "--media-pattern", "{ytid}.*"]
    assert here(*arguments).exit_code == 0
    return arguments


@pytest.mark.parametrize(
    "damaged", ["audioset-eval-000000.parquet", "_plan/eval-000000.parquet", "dataset.json"]
)
def test_a_damaged_dataset_is_answered_with_the_file(
    two_segments: list[str], tmp_path: Path, damaged: str
) -> None:
    out = shutil.copytree(two_segments[4], tmp_path / "out")
    (out / damaged).write_bytes(b"cut")
    done = here(*two_segments, "--out", str(out), "--retry", "retryable")
    assert done.exit_code == 2, done.output
    assert damaged in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_surprise_of_our_own_is_no_line_for_the_user(
    videos: Videos, site: DemoSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forecast(*_: object) -> None:
        raise ValueError("too many values to unpack")

    monkeypatch.setattr("flows.ingest_run.forecast", forecast)
    done = here(*ingest_arguments(videos, site, tmp_path / "out", "--dry-run"))
    assert isinstance(done.exception, ValueError)


def test_another_profile_is_refused_with_the_differences(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    trichord(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 2))
    other = trichord(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 2, "--audio-rate", 48000))
    assert other.returncode == 2
    assert "sample_rate is 44100 there, 48000 here" in other.stderr


def test_malformed_rows_stop_the_run_before_it_starts(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    broken = videos.segments.with_name("broken_segments.csv")
    lines = videos.segments.read_text().splitlines(keepends=True)[:6]
    broken.write_text("".join([*lines[:3], 'not-an-id, 0.0, 10.0, "/m/0bt9lr"\n', *lines[3:]]))
    arguments = ingest_arguments(videos, site, tmp_path / "out", "--segments", broken)
    refused = trichord(*arguments)
    assert refused.returncode == 2
    assert "line 4" in refused.stderr
    assert not list((tmp_path / "out").glob("*.tar"))
    skipped = trichord(*arguments, "--skip-bad-rows")
    assert skipped.returncode == 0, skipped.stderr
    assert rows(tmp_path / "out", "select line, file from skipped_rows") == [(4, "broken_segments.csv")]


def test_a_blocked_identity_rests_while_the_other_works(
    videos: Videos, site: DemoSite, trichord: Trichord, tmp_path: Path
) -> None:
    """Two proxies, of which one is told off after five videos; and the word of it where the user wants it."""
    told_off = RateLimit(requests=5, seconds=3600, retry_after_s=3600)
    first, second = DemoSite(videos.folder, rate_limit=told_off), DemoSite(videos.folder)
    proxies = ("--proxy", first.url, "--proxy", second.url)
    done = trichord(*ingest_arguments(videos, site, tmp_path / "out", "--limit", 30, *proxies))
    assert done.returncode == 0, done.stdout + done.stderr
    by_identity = dict(
        rows(tmp_path / "out", "select identity, count(*) from segments where outcome = 'ok' group by all")
    )
    assert set(by_identity) == {first.url, second.url}
    assert by_identity[first.url] <= 5  # type: ignore[operator]
    assert site.traffic.requests(videos.ytids[0], "info") == 0, "asked past the proxies"
    states = json.loads(trichord("status", tmp_path / "out", "--json").stdout)
    assert first.url in json.dumps(states)
    first.close()
    second.close()
