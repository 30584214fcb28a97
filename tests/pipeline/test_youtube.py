"""yt-dlp as the resolver asks it, against a site on this machine."""

import contextlib
import errno
import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yt_dlp.version
from yt_dlp.extractor.common import InfoExtractor

from pipeline.media import Carries, Delivery, Failure, MediaError, Recording
from pipeline.settings import SettingsError
from pipeline.youtube import DownloadSettings, Resolver, downloader_version
from shards.outcome import Outcome

MEDIA = bytes(range(256)) * 40
YTID = "-jNQXAC9IVE"  # begins as an option would


class SiteIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp is untyped
    """Videos whose page says what to return, to warn of, or to raise."""

    _VALID_URL = r"http://[^/]+/watch\?v=(?P<id>[\w-]+)"

    def _real_extract(self, url: str) -> dict[str, Any]:
        ytid = self._match_id(url)
        page = self._download_json(url, ytid)
        for warning in page.pop("warn", []):
            self.report_warning(warning, only_once=True)
        if reason := page.pop("reason", None):
            self.raise_no_formats(reason, expected=True, video_id=ytid)
        if countries := page.pop("countries", None):
            self.raise_geo_restricted("Not where you are", countries=countries)
        if page.pop("full_disk", False):
            raise OSError(errno.ENOSPC, "No space left on device")
        if page.pop("bug", False):
            raise TypeError("'NoneType' object is not subscriptable")
        return {"id": ytid, "title": "A video", **page}


class Site(ThreadingHTTPServer):
    """Pages by video, media by ranges, and a record of the requests. Asked for whole addresses, a proxy."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Mapping[str, Any]] = {}
        self.statuses: dict[str, tuple[int, dict[str, str]]] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.connections = 0
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def watch(self, page: Mapping[str, Any], ytid: str = YTID) -> str:
        """Put a video there; its address."""
        self.pages[ytid] = page
        return f"{self.url}/watch?v={ytid}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        path = self.path.removeprefix(self.server.url)
        status, headers = self.server.statuses.get(path, (200, {}))
        if path == "/hang":
            self.server.closing.wait(30)
        elif status != 200:
            self.answer(status, b"no", headers)
        elif path.startswith("/media") or path == "/half":
            self.send_media(path)
        else:
            page = self.server.pages.get(path.partition("v=")[2])
            self.answer(200 if page else 404, json.dumps(page).encode(), {"Set-Cookie": "visited=yes"})

    def send_media(self, path: str) -> None:
        wanted = self.headers.get("Range", "bytes=0-")[6:].split("-")
        first, last = int(wanted[0]), int(wanted[1] or len(MEDIA) - 1)
        if first >= len(MEDIA):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(MEDIA)}"})
        body = MEDIA[first : last + 1]
        headers = {"Content-Range": f"bytes {first}-{last}/{len(MEDIA)}"}
        if path == "/half":
            self.close_connection = True
            return self.answer(206, body[: len(body) // 2], {**headers, "Content-Length": str(len(body))})
        self.answer(206, body, headers)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@contextlib.contextmanager
def running() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as site:
        yield site


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    return make_resolver()


def make_resolver(**settings: Any) -> Resolver:
    return Resolver(DownloadSettings(**settings), extractors=[SiteIE])


def resolve(resolver: Resolver, url: str) -> Recording | Failure:
    return resolver.resolve(url, short_side=256, need_video=True, need_audio=True)


def recording(resolver: Resolver, url: str) -> Recording:
    found = resolve(resolver, url)
    assert isinstance(found, Recording), found
    return found


def failure(resolver: Resolver, url: str) -> Failure:
    found = resolve(resolver, url)
    assert isinstance(found, Failure), found
    return found


def page(site: Site, **more: Any) -> dict[str, Any]:
    """A video as YouTube offers one: pictures and sound apart, and small ones together."""
    base = {"url": f"{site.url}/media", "http_headers": {"Referer": f"{site.url}/"}}
    pictures = [
        {"format_id": str(height), "ext": "mp4", "vcodec": "avc1.4d401e", "acodec": "none", "tbr": height}
        | {"height": height, "width": height * 16 // 9, "fps": 30}
        for height in (144, 360, 1080)
    ]
    sounds = [
        {"format_id": "139", "ext": "m4a", "vcodec": "none", "acodec": "mp4a.40.5", "abr": 48, "tbr": 48},
        {"format_id": "251", "ext": "webm", "vcodec": "none", "acodec": "opus", "abr": 130, "tbr": 130},
    ]
    return {"duration": 42, "formats": [each | base for each in (*pictures, *sounds)]} | more


def read(found: Recording, url: str, **headers: str) -> bytes:
    assert found.open_url is not None
    with contextlib.closing(found.open_url(url, {**found.streams[0].headers, **headers})) as response:
        return response.read()


def test_a_video_costs_one_request_and_gives_the_cheapest_sufficient_streams(
    resolver: Resolver, site: Site
) -> None:
    found = recording(resolver, site.watch(page(site)))
    assert site.paths() == [f"/watch?v={YTID}"]
    assert [stream.format_id for stream in found.streams] == ["360", "251"]
    assert [stream.carries for stream in found.streams] == [Carries.VIDEO, Carries.AUDIO]
    assert {stream.delivery for stream in found.streams} == {Delivery.FILE}
    assert found.duration == 42
    assert found.downloader_version == downloader_version()


def test_sound_alone_needs_no_picture(resolver: Resolver, site: Site) -> None:
    found = resolver.resolve(site.watch(page(site)), short_side=None, need_video=False, need_audio=True)
    assert isinstance(found, Recording)
    assert [stream.format_id for stream in found.streams] == ["251"]


def test_media_are_read_by_ranges_with_the_headers_that_yt_dlp_gives(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    assert read(found, found.streams[0].url, Range="bytes=100-299") == MEDIA[100:300]
    headers = site.requests[-1][1]
    assert headers["Referer"] == f"{site.url}/"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("Mozilla/")


def test_many_ranges_travel_over_one_connection(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    read(found, found.streams[0].url, Range="bytes=0-9")
    before = site.connections
    for start in range(0, 1000, 10):
        read(found, found.streams[0].url, Range=f"bytes={start}-{start + 9}")
    assert site.connections == before


def test_a_response_can_be_read_in_pieces(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    assert found.open_url is not None
    with contextlib.closing(found.open_url(f"{site.url}/media", {"Range": "bytes=0-99"})) as response:
        assert (response.status, response.headers.get("content-range")) == (206, f"bytes 0-99/{len(MEDIA)}")
        assert [len(response.read(60)) for _ in range(4)] == [60, 40, 0, 0]


def test_a_range_beyond_the_end_is_an_answer(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    assert found.open_url is not None
    response = found.open_url(f"{site.url}/media", {"Range": "bytes=999999-"})
    assert (response.status, response.headers.get("Content-Range")) == (416, f"bytes */{len(MEDIA)}")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (403, Outcome.FORBIDDEN),
        (404, Outcome.NO_FORMAT),
        (429, Outcome.RATE_LIMITED),
        (503, Outcome.SERVER_ERROR),
    ],
)
def test_media_that_are_refused_raise_what_the_status_means(
    resolver: Resolver, site: Site, status: int, outcome: Outcome
) -> None:
    found = recording(resolver, site.watch(page(site)))
    site.statuses["/media"] = (status, {"Retry-After": "7"})
    with pytest.raises(MediaError) as raised:
        read(found, f"{site.url}/media")
    assert (raised.value.failure.outcome, raised.value.failure.retry_after) == (outcome, 7.0)


def test_a_body_that_breaks_off_raises_while_it_is_read(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    with pytest.raises(MediaError) as raised:
        read(found, f"{site.url}/half")
    assert raised.value.failure.outcome is Outcome.NETWORK


def test_a_server_that_says_nothing_is_a_timeout(site: Site) -> None:
    found = recording(make_resolver(socket_timeout=0.3), site.watch(page(site)))
    with pytest.raises(MediaError) as raised:
        read(found, f"{site.url}/hang")
    assert raised.value.failure.outcome is Outcome.TIMEOUT


def test_nobody_listening_is_the_network(resolver: Resolver, site: Site) -> None:
    found = recording(resolver, site.watch(page(site)))
    with pytest.raises(MediaError) as raised:
        read(found, "http://127.0.0.1:1/media?sig=SECRET")
    assert raised.value.failure.outcome is Outcome.NETWORK
    assert "SECRET" not in raised.value.failure.message
    assert failure(resolver, "http://127.0.0.1:1/watch?v=abc").outcome is Outcome.NETWORK


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (404, Outcome.NOT_FOUND),
        (429, Outcome.RATE_LIMITED),
        (403, Outcome.FORBIDDEN),
        (500, Outcome.SERVER_ERROR),
    ],
)
def test_a_page_that_is_refused_is_a_failure(
    resolver: Resolver, site: Site, status: int, outcome: Outcome
) -> None:
    url = site.watch(page(site))
    site.statuses[f"/watch?v={YTID}"] = (status, {"Retry-After": "9"})
    assert (failure(resolver, url).outcome, failure(resolver, url).retry_after) == (outcome, 9.0)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("Sign in to confirm you’re not a bot. This helps protect our community", Outcome.BOT_CHECK),
        ("Private video. Sign in if you've been granted access to this video", Outcome.PRIVATE),
        ("This video has been removed by the uploader", Outcome.REMOVED),
        ("Video unavailable", Outcome.UNAVAILABLE),
    ],
)
def test_a_reason_that_the_extractor_raises_is_a_failure(
    resolver: Resolver, site: Site, reason: str, outcome: Outcome
) -> None:
    found = failure(resolver, site.watch({"reason": reason}))
    assert found == Failure(outcome, f"[Site] {YTID}: {reason}")


def test_a_blocked_country_is_not_asked_again_under_a_made_up_address(resolver: Resolver, site: Site) -> None:
    assert failure(resolver, site.watch({"countries": ["DE"]})).outcome is Outcome.GEO_BLOCKED
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", ["is_live", "is_upcoming", "post_live"])
def test_a_stream_that_has_not_ended_is_live(resolver: Resolver, site: Site, status: str) -> None:
    for formats in (page(site)["formats"], []):
        found = failure(resolver, site.watch(page(site, live_status=status, formats=formats)))
        assert found.outcome is Outcome.LIVE


def test_a_video_that_was_live_is_a_video(resolver: Resolver, site: Site) -> None:
    recording(resolver, site.watch(page(site, live_status="was_live")))


def test_an_address_that_points_at_another_is_followed_but_not_to_a_playlist(
    resolver: Resolver, site: Site
) -> None:
    there = site.watch(page(site), "there")
    assert recording(resolver, site.watch({"_type": "url", "url": there})).duration == 42
    entries = [{"_type": "url", "url": there}]
    many = site.watch({"_type": "playlist", "entries": entries}, "many")
    site.requests.clear()
    found = failure(resolver, site.watch({"_type": "url", "url": many}))
    assert found.outcome is Outcome.UNSUPPORTED
    assert site.paths() == [f"/watch?v={YTID}", "/watch?v=many"]


def test_a_playlist_is_refused_and_its_videos_are_not_asked_for(resolver: Resolver, site: Site) -> None:
    entries = [{"_type": "url", "url": f"{site.url}/watch?v=other{index}"} for index in range(3)]
    found = failure(resolver, site.watch({"_type": "playlist", "entries": entries}))
    assert found.outcome is Outcome.UNSUPPORTED
    assert "playlist" in found.message
    assert len(site.requests) == 1


def test_formats_that_cannot_be_fetched_are_no_format_and_protected_ones_drm(
    resolver: Resolver, site: Site
) -> None:
    formats = page(site)["formats"]
    strange = [each | {"protocol": "rtmp"} for each in formats]
    assert failure(resolver, site.watch(page(site, formats=strange))).outcome is Outcome.NO_FORMAT
    locked = [each | {"has_drm": True} for each in formats]
    assert failure(resolver, site.watch(page(site, formats=locked))).outcome is Outcome.DRM
    assert failure(resolver, site.watch(page(site, formats=[]))).outcome is Outcome.NO_FORMAT


def test_missing_formats_carry_what_yt_dlp_warned_of_with_this_and_earlier_videos(site: Site) -> None:
    resolver = make_resolver()
    warned = {"warn": ["No supported JavaScript runtime could be found. Only deno is enabled by default"]}
    for ytid in ("first", "second"):  # yt-dlp itself says it once
        found = failure(resolver, site.watch({"formats": [], **warned}, ytid))
        assert found.outcome is Outcome.NO_FORMAT
        assert "No supported JavaScript runtime" in found.message


def test_a_warning_about_one_video_is_forgotten_with_the_next(site: Site) -> None:
    resolver = make_resolver()
    warned = failure(resolver, site.watch({"formats": [], "warn": ["n challenge solving failed"]}, "first"))
    plain = failure(resolver, site.watch({"formats": []}, "second"))
    assert ("n challenge" in warned.message, "n challenge" in plain.message) == (True, False)


def test_missing_sound_is_doubted_when_the_tool_could_not_see_everything(site: Site) -> None:
    silent = [each for each in page(site)["formats"] if each["acodec"] == "none"]
    resolver = make_resolver()
    assert failure(resolver, site.watch(page(site, formats=silent), "sure")).outcome is Outcome.NO_AUDIO
    doubtful = page(site, formats=silent, warn=["Signature solving failed: Some formats may be missing"])
    assert failure(resolver, site.watch(doubtful, "unsure")).outcome is Outcome.NO_FORMAT


def test_a_bare_id_is_answered_with_what_to_give(resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="expected https"):
        resolve(resolver, YTID)


def test_a_bug_in_an_extractor_is_a_failure_and_a_full_disk_travels(resolver: Resolver, site: Site) -> None:
    found = failure(resolver, site.watch({"bug": True}))
    assert found == Failure(Outcome.EXTRACTOR, "TypeError: 'NoneType' object is not subscriptable")
    with pytest.raises(OSError, match="No space left"):
        resolve(resolver, site.watch({"full_disk": True}))


COOKIE = "127.0.0.1\tFALSE\t/\tFALSE\t2000000000\tlogin\tSECRET"


def test_cookies_are_sent_and_their_file_stays_as_it_is(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(f"# Netscape HTTP Cookie File\n{COOKIE}\n")
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    resolver = make_resolver(cookies=file)
    found = recording(resolver, site.watch(page(site)))
    read(found, f"{site.url}/media")
    del found
    resolver.close()
    gc.collect()
    assert [headers.get("Cookie", "").split("; ")[0] for _, headers in site.requests] == ["login=SECRET"] * 2
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_media_of_a_site_without_their_cookies_are_asked_for_without(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(COOKIE.replace("127.0.0.1", ".example.org"))
    found = recording(make_resolver(cookies=file), site.watch(page(site)))
    read(found, f"{site.url}/media")
    assert "SECRET" not in str(site.requests)


def test_a_spoilt_line_of_a_cookie_file_is_not_printed(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(f"{COOKIE}\n127.0.0.1 FALSE / FALSE 0 spoilt SECRET\n")
    recording(make_resolver(cookies=file), site.watch(page(site)))
    assert capfd.readouterr() == ("", "")


def test_a_file_without_cookies_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "cookies.json"
    file.write_text('[{"domain": ".youtube.com", "value": "SECRET"}]')
    with pytest.raises(ValueError, match="Netscape format") as raised:
        make_resolver(cookies=file)
    assert "SECRET" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        make_resolver(cookies=tmp_path / "missing.txt")


def test_pages_and_media_go_through_the_proxy(site: Site) -> None:
    with running() as proxy:
        url = site.watch(page(site))
        proxy.pages = site.pages
        found = recording(make_resolver(proxy=proxy.url), url)
        with pytest.raises(MediaError):  # this proxy holds no media of that site
            read(found, f"{site.url}/media")
        assert proxy.paths() == [url, f"{site.url}/media"]
        assert site.requests == []


def test_secrets_are_not_shown() -> None:
    settings = DownloadSettings(
        proxy="socks5://me:SECRET@127.0.0.1:1080",
        extractor_args={"youtube": {"po_token": ["web.gvs+SECRET"]}},
    )
    assert "SECRET" not in repr(settings)
    with pytest.raises(ValueError, match="expected http://") as raised:
        DownloadSettings(proxy="me:SECRET@127.0.0.1")
    assert "SECRET" not in str(raised.value)


def test_settings_reach_yt_dlp(site: Site) -> None:
    resolver = make_resolver(
        user_agent="Trichord/1",
        player_clients=("web", "tv"),
        extractor_args={"youtube": {"po_token": ["web.gvs+x"]}},
        js_runtimes=("deno", "node:/opt/node"),
        source_address="127.0.0.1",
    )
    recording(resolver, site.watch(page(site)))
    assert site.requests[-1][1]["User-Agent"] == "Trichord/1"
    with resolver._session() as session:
        params = session.ydl.params
    assert params["extractor_args"] == {
        "youtube": {"player_client": ["web", "tv"], "po_token": ["web.gvs+x"]}
    }
    assert params["js_runtimes"] == {"deno": {}, "node": {"path": "/opt/node"}}
    assert params["source_address"] == "127.0.0.1"


def test_an_impersonation_that_is_not_installed_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="--impersonate nosuch is not available"):
        make_resolver(impersonate="nosuch")


def test_nothing_is_printed_and_everything_can_be_logged(
    site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trichord.youtube")
    resolver = make_resolver()
    recording(resolver, site.watch(page(site, warn=["something odd"])))
    failure(resolver, site.watch({"reason": "Video unavailable"}))
    failure(resolver, site.watch({"countries": ["DE"]}))
    assert capfd.readouterr() == ("", "")
    assert "something odd" in caplog.text
    assert {record.levelno for record in caplog.records if record.name == "trichord.youtube"} == {
        logging.DEBUG
    }


def test_media_are_not_asked_for_before_the_site_hands_them_out(resolver: Resolver, site: Site) -> None:
    moment = time.time() + 0.4
    formats = [each | {"available_at": moment} for each in page(site)["formats"]]
    found = recording(resolver, site.watch(page(site, formats=formats)))
    read(found, f"{site.url}/media")
    assert time.time() >= moment


def test_threads_resolve_at_once_and_share_few_sessions(site: Site) -> None:
    resolver = make_resolver()
    urls = [site.watch(page(site), f"video{index}") for index in range(24)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda url: resolve(resolver, url), urls))
    assert all(isinstance(each, Recording) for each in found)
    assert sorted(site.paths()) == sorted(f"/watch?v=video{index}" for index in range(24))
    assert 1 <= len(resolver._idle) <= 4


def test_a_session_lives_as_long_as_a_recording_needs_it(site: Site) -> None:
    handlers = logging.getLogger("urllib3").handlers  # yt-dlp adds one for each object that is not closed
    gc.collect()
    before = len(handlers)
    resolver = make_resolver()
    found = recording(resolver, site.watch(page(site)))
    resolver.close()
    gc.collect()
    assert len(handlers) == before + 1
    assert read(found, f"{site.url}/media", Range="bytes=0-9") == MEDIA[:10]
    del found
    gc.collect()
    assert len(handlers) == before


def test_importing_the_boundary_does_not_import_yt_dlp() -> None:
    code = (
        "import sys, pipeline.youtube as y, pipeline.canary; y.Resolver(y.DownloadSettings());"
        "y.downloader_version(); sys.exit('yt_dlp' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_version_is_yt_dlps_own() -> None:
    assert downloader_version() == f"yt-dlp {yt_dlp.version.__version__}"
