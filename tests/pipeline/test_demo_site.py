"""The demo's site over real connections: what it serves, how it fails, and what yt-dlp makes of it."""

import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yt_dlp
from yt_dlp.networking.exceptions import HTTPError

from pipeline.demo_behaviour import Behaviour, RateLimit
from pipeline.demo_media import encode_video, probe
from pipeline.demo_site import DemoSite

YTID = "-abcdefgh0A"
LENGTH_S = 6
PLUGINS = Path(__file__).parents[1] / "site_extractor"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    sound = folder / "sound.wav"
    tone = (9000 * np.sin(np.arange(16000 * LENGTH_S) * 0.2)).astype("<i2")
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    noise = np.random.default_rng(0).integers(0, 255, (10 * LENGTH_S, 120, 160, 3), dtype=np.uint8)
    encode_video(folder / f"{YTID}.mp4", map(bytes, noise), sound, size=(160, 120), frame_rate=10)
    return folder


@pytest.fixture
def site(folder: Path) -> Iterator[DemoSite]:
    with DemoSite(folder) as site:
        yield site


@pytest.fixture
def media(folder: Path) -> bytes:
    return (folder / f"{YTID}.mp4").read_bytes()


def get(url: str, headers: dict[str, str] | None = None, timeout: float = 10) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers or {}), timeout=timeout
        ) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def media_url(site: DemoSite, suffix: str = "mp4") -> str:
    return f"{site.url}/media/{YTID}.{suffix}"


def resolve(site: DemoSite, *, plugins: bool = True, **options: Any) -> dict[str, Any]:
    """What yt-dlp answers in a process of its own: plugins once loaded stay loaded."""
    program = (
        "import json, sys, yt_dlp\n"
        "url, options = sys.argv[1], json.loads(sys.argv[2])\n"
        "try:\n"
        "    with yt_dlp.YoutubeDL({'quiet': True, 'no_warnings': True, **options}) as downloader:\n"
        "        info = downloader.sanitize_info(downloader.extract_info(url, download=False))\n"
        "except yt_dlp.utils.DownloadError as error:\n"
        "    info = {'error': str(error), 'type': type(error.exc_info[1]).__name__}\n"
        "print(json.dumps(info))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, site.url_template.format(ytid=YTID), json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(PLUGINS) if plugins else "", "HOME": str(PLUGINS)},
    )
    info: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return info


def test_a_range_brings_exactly_its_bytes(site: DemoSite, media: bytes) -> None:
    status, body, headers = get(media_url(site), {"Range": "bytes=1000-1999"})
    assert (status, body) == (206, media[1000:2000])
    assert headers["Content-Range"] == f"bytes 1000-1999/{len(media)}"
    assert headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("wanted", "part"), [("bytes=500-", slice(500, None)), ("bytes=-700", slice(-700, None))]
)
def test_a_range_may_be_open_at_one_side(site: DemoSite, media: bytes, wanted: str, part: slice) -> None:
    status, body, _ = get(media_url(site), {"Range": wanted})
    assert (status, body) == (206, media[part])


def test_a_range_beyond_the_end_is_refused_with_the_size(site: DemoSite, media: bytes) -> None:
    status, _, headers = get(media_url(site), {"Range": f"bytes={len(media)}-"})
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{len(media)}"


def test_one_connection_serves_many_requests(site: DemoSite, media: bytes) -> None:
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=10)
    for start in (0, 10, 20):
        connection.request("GET", f"/media/{YTID}.mp4", headers={"Range": f"bytes={start}-{start + 9}"})
        connected = connection.sock
        assert connection.getresponse().read() == media[start : start + 10]
        assert connection.sock is connected
    connection.close()


def test_head_tells_the_size_and_sends_nothing(site: DemoSite, media: bytes) -> None:
    request = urllib.request.Request(media_url(site), method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert int(answer.headers["Content-Length"]) == len(media)
    assert site.traffic.media_bytes() == 0


def test_media_bytes_are_counted_per_video_and_path(site: DemoSite, media: bytes) -> None:
    get(media_url(site), {"Range": "bytes=0-99"})
    get(media_url(site))
    get(site.url_template.format(ytid=YTID))
    stats = json.loads(get(site.url + "/stats")[1])
    assert stats["videos"][YTID] == {"page": 1, "media": 2, "media_bytes": 100 + len(media)}
    assert stats["paths"][f"/media/{YTID}.mp4"] == {"requests": 2, "bytes": 100 + len(media)}
    assert site.traffic.media_bytes(YTID) == stats["media_bytes"] == 100 + len(media)


def test_bytes_of_a_reader_that_leaves_early_stay_near_what_it_read(tmp_path: Path) -> None:
    (tmp_path / f"{YTID}.mp4").write_bytes(bytes(200 << 20))
    with DemoSite(tmp_path) as site:
        with urllib.request.urlopen(media_url(site), timeout=10) as answer:
            answer.read(1000)
        assert 1000 <= site.traffic.media_bytes(YTID) < 20 << 20


@pytest.mark.parametrize(
    ("suffix", "video", "audio"),
    [
        ("v360.mp4", "h264", None),
        ("v144.mp4", "h264", None),
        ("v240.webm", "vp9", None),
        ("a128.m4a", None, "aac"),
        ("a64.webm", None, "opus"),
    ],
)
def test_separate_streams_carry_one_thing_each(
    site: DemoSite, tmp_path: Path, suffix: str, video: str | None, audio: str | None
) -> None:
    status, body, _ = get(media_url(site, suffix), timeout=60)
    assert status == 200
    (tmp_path / "stream").write_bytes(body)
    facts = probe(tmp_path / "stream")
    assert (facts.video_codec, facts.audio_codec) == (video, audio)
    assert facts.duration == pytest.approx(LENGTH_S, abs=0.2)


def test_a_playlist_lists_segments_that_are_there(site: DemoSite) -> None:
    playlist = get(media_url(site, "hls/index.m3u8"))[1].decode()
    segments = [line for line in playlist.splitlines() if line and not line.startswith("#")]
    assert len(segments) == LENGTH_S / 2
    assert all(get(media_url(site, f"hls/{name}"))[0] == 200 for name in segments)


def test_a_path_cannot_leave_the_folder(site: DemoSite) -> None:
    assert get(media_url(site, "hls/../../sound.wav"))[0] == 404


@pytest.mark.parametrize("status", [403, 404, 410, 429, 503])
def test_a_page_answers_the_chosen_status(site: DemoSite, status: int) -> None:
    site.behave(YTID, Behaviour(page_status=status, retry_after_s=7))
    answered, _, headers = get(site.url_template.format(ytid=YTID))
    assert (answered, headers["Retry-After"]) == (status, "7")


def test_trouble_ends_after_the_first_requests(site: DemoSite) -> None:
    site.behave(YTID, Behaviour(media_status=403, first=2))
    assert [get(media_url(site))[0] for _ in range(3)] == [403, 403, 200]


def test_a_hanging_site_accepts_and_says_nothing(site: DemoSite) -> None:
    site.behave(YTID, Behaviour(page_hangs=True))
    with pytest.raises(TimeoutError):
        get(site.url_template.format(ytid=YTID), timeout=0.3)


def test_closing_the_site_ends_a_hanging_request(folder: Path) -> None:
    ended = threading.Event()

    def wait_for_answer(url: str) -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            get(url, timeout=30)
        ended.set()

    with DemoSite(folder, behaviours={"*": Behaviour(media_hangs=True)}) as site:
        waiting = threading.Thread(target=wait_for_answer, args=(media_url(site),))
        waiting.start()
        while not site.traffic.requests(YTID, "media"):
            time.sleep(0.01)
    assert ended.wait(10)
    waiting.join()


def test_a_stalled_body_stops_and_keeps_the_connection(site: DemoSite, media: bytes) -> None:
    site.behave(YTID, Behaviour(stall_after=5000))
    with urllib.request.urlopen(media_url(site), timeout=0.3) as answer:
        assert answer.read(5000) == media[:5000]
        with pytest.raises(TimeoutError):
            answer.read(1)


def test_a_broken_connection_ends_the_body_early(site: DemoSite, media: bytes) -> None:
    site.behave(YTID, Behaviour(disconnect_after=5000, first=1))
    with pytest.raises(http.client.IncompleteRead) as broken:
        get(media_url(site))
    assert broken.value.partial == media[:5000]
    assert get(media_url(site))[1] == media


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_file_ends_as_if_it_were_whole(site: DemoSite, media: bytes, share: float) -> None:
    site.behave(YTID, Behaviour(kept_share=share))
    assert get(media_url(site), {"Range": "bytes=0-"})[1] == media[: int(len(media) * share)]


def test_a_web_page_can_pass_for_media(site: DemoSite) -> None:
    site.behave(YTID, Behaviour(html_as_media=True))
    status, body, headers = get(media_url(site))
    assert (status, headers["Content-Type"]) == (200, "video/mp4")
    assert body.startswith(b"<!doctype html>")


def test_a_site_without_ranges_sends_the_whole(site: DemoSite, media: bytes) -> None:
    site.behave(YTID, Behaviour(ranges=False))
    status, body, headers = get(media_url(site), {"Range": "bytes=10-19"})
    assert (status, body, headers["Accept-Ranges"]) == (200, media, None)


def test_the_rate_limit_refuses_pages_and_leaves_media(folder: Path) -> None:
    limit = RateLimit(requests=2, seconds=60, retry_after_s=60)
    with DemoSite(folder, rate_limit=limit) as site:
        pages = [get(site.url_template.format(ytid=YTID))[0] for _ in range(4)]
        assert pages == [200, 200, 429, 429]
        assert get(media_url(site))[0] == 200


def test_the_rate_limit_can_count_each_cookie_apart(folder: Path) -> None:
    with DemoSite(folder, rate_limit=RateLimit(requests=1, seconds=60, per_cookie=True)) as site:
        page = site.url_template.format(ytid=YTID)
        asked = [get(page, {"Cookie": name})[0] for name in ("a=1", "b=1", "a=1")]
    assert asked == [200, 200, 429]


def test_the_rate_limit_can_speak_as_youtubes_session_limit_does(folder: Path) -> None:
    reason = "This content isn't available, try again later."
    with DemoSite(folder, rate_limit=RateLimit(requests=1, seconds=60, reason=reason)) as site:
        told = [json.loads(get(f"{site.url}/info/{YTID}.json")[1])["reason"] for _ in range(2)]
    assert told == ["", reason]


def test_the_rate_limit_ends_with_its_window(folder: Path) -> None:
    with DemoSite(folder, rate_limit=RateLimit(requests=1, seconds=0.2)) as site:
        page = site.url_template.format(ytid=YTID)
        assert [get(page)[0], get(page)[0]] == [200, 429]
        time.sleep(0.3)
        assert get(page)[0] == 200


def test_answers_come_no_sooner_than_the_delay(folder: Path) -> None:
    with DemoSite(folder, delay_s=0.2, behaviours={YTID: Behaviour(slow_start_s=0.2)}) as site:
        begun = time.monotonic()
        assert get(media_url(site))[0] == 200
        assert time.monotonic() - begun >= 0.4


def test_a_file_that_ffmpeg_refuses_is_a_server_error(tmp_path: Path) -> None:
    (tmp_path / f"{YTID}.mp4").write_bytes(b"no media at all")
    with DemoSite(tmp_path) as site:
        status, said, _ = get(media_url(site, "a128.m4a"))
    assert status == 500
    assert b"Invalid data" in said


def test_a_second_site_stands_in_for_a_proxy(folder: Path) -> None:
    with DemoSite(folder) as site, DemoSite(folder) as other:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": other.url}))
        with opener.open(site.url_template.format(ytid=YTID), timeout=10) as answer:
            assert answer.status == 200
        assert (site.traffic.requests(), other.traffic.requests()) == (0, 1)


def test_the_generic_extractor_finds_the_video_with_one_request(site: DemoSite, media: bytes) -> None:
    info = resolve(site, plugins=False)
    assert info["extractor"] in ("html5", "generic")
    assert [one["url"] for one in info["formats"]] == [media_url(site)]
    assert site.traffic.requests() == 1


@pytest.mark.parametrize(("status", "words"), [(404, "Not Found"), (429, "Too Many Requests")])
def test_the_generic_extractor_hands_on_the_status(folder: Path, status: int, words: str) -> None:
    with DemoSite(folder, behaviours={YTID: Behaviour(page_status=status)}) as site:
        downloader = yt_dlp.YoutubeDL({"quiet": True, "no_warnings": True, "logger": _Silent()})
        with downloader, pytest.raises(yt_dlp.utils.DownloadError, match=words) as raised:
            downloader.extract_info(site.url_template.format(ytid=YTID), download=False)
    error = raised.value.exc_info[1]
    assert isinstance(error, HTTPError)
    assert error.status == status


class _Silent:
    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def test_the_extractor_offers_formats_shaped_like_youtubes(site: DemoSite) -> None:
    info = resolve(site)
    formats = {one["format_id"]: one for one in info["formats"]}
    assert set(formats) == {"18", "134", "140", "160", "242", "250"}
    assert (formats["134"]["height"], formats["160"]["height"], formats["242"]["height"]) == (120, 48, 80)
    assert (formats["140"]["vcodec"], formats["134"]["acodec"]) == ("none", "none")
    assert formats["18"]["filesize"] > 0
    assert (info["duration"], info["live_status"]) == (pytest.approx(LENGTH_S, abs=0.1), "not_live")
    assert site.traffic.requests() == 1


def test_fragments_follow_their_initialisation_and_join_to_a_video(site: DemoSite, tmp_path: Path) -> None:
    site.behave(YTID, Behaviour(formats=("93", "dash-134", "dash-140")))
    formats = {one["format_id"]: one for one in resolve(site)["formats"]}
    pieces = formats["dash-134"]["fragments"]
    assert sum(piece.get("duration", 0) for piece in pieces) == pytest.approx(LENGTH_S, abs=0.1)
    joined = b"".join(get(piece["url"])[1] for piece in pieces)
    (tmp_path / "joined.mp4").write_bytes(joined)
    assert probe(tmp_path / "joined.mp4").video_codec == "h264"
    assert formats["93"]["protocol"] == "m3u8_native"


@pytest.mark.parametrize(
    ("reason", "subreason", "said", "kind"),
    [
        ("Video unavailable", "", "Video unavailable", "ExtractorError"),
        ("Private video", "", "Private video", "ExtractorError"),
        ("Sign in to confirm you’re not a bot", "", "not a bot. Use --cookies", "ExtractorError"),
        (
            "Video unavailable",
            "The uploader has not made this video available in your country",
            "in your country",
            "GeoRestrictedError",
        ),
        ("This content isn't available, try again later.", "", "rate-limited by YouTube", "ExtractorError"),
        ("This live event will begin in 3 hours.", "", "will begin", "ExtractorError"),
    ],
)
def test_the_extractor_raises_a_reason_as_youtubes_does(
    site: DemoSite, reason: str, subreason: str, said: str, kind: str
) -> None:
    site.behave(YTID, Behaviour(reason=reason, subreason=subreason))
    answer = resolve(site)
    assert said in answer["error"]
    assert answer["type"] == kind


def test_the_command_serves_until_it_is_told_to_stop(folder: Path) -> None:
    command = [sys.executable, "-m", "pipeline.demo_site", "--folder", str(folder), "--port", "0"]
    troubled = [f"--behaviour={YTID}=page_status=410,first=1", "--behaviour=*=media_status=403"]
    with subprocess.Popen([*command, *troubled], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert [get(f"{url}/watch?v={YTID}")[0] for _ in range(2)] == [410, 200]
        change = json.dumps({YTID: {"page_status": 404}}).encode()
        urllib.request.urlopen(f"{url}/behaviour", data=change, timeout=10).close()
        assert get(f"{url}/watch?v={YTID}")[0] == 404
        process.terminate()
        assert process.wait(10) == 0


def test_an_unknown_behaviour_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"page_stauts: not a behaviour; choose from .*page_status"):
        Behaviour.parse("page_stauts=404")


def test_a_behaviour_is_written_in_one_line() -> None:
    parsed = Behaviour.parse("reason=Private video,formats=134+140,first=2,ranges=false,delay_s=0.5")
    expected = Behaviour(reason="Private video", formats=("134", "140"), first=2, ranges=False, delay_s=0.5)
    assert parsed == expected
