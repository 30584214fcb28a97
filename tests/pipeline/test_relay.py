"""The relay between a real site and real clients: bytes, failures, secrets, playlists."""

import contextlib
import errno
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from offered_media import combined, offer, picture, resolve, resolver, sound
from timed_media import TimedMedia, assert_aligned

from pipeline.demo_behaviour import Behaviour
from pipeline.demo_site import DemoSite
from pipeline.extract import Extraction, Extractor, extract
from pipeline.ffmpeg import Program
from pipeline.media import Carries, MediaStream, RangeResponse, Recording
from pipeline.relay import Relay
from pipeline.upstream import PIECE, Traffic
from shards.outcome import Outcome
from shards.profile import Profile
from shards.segment import Segment

CLIP = "clip.b.mp4"  # a file of the site's; its behaviour goes by the part before the first dot
SIZE = 700_000


@pytest.fixture(scope="module")
def media() -> bytes:
    return np.random.default_rng(3).bytes(SIZE)


@pytest.fixture
def site(tmp_path: Path, media: bytes) -> Iterator[DemoSite]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / CLIP).write_bytes(media)
    offer(folder, "clip", [combined(CLIP)])
    with DemoSite(folder) as site:
        yield site


@pytest.fixture
def relay() -> Iterator[Relay]:
    with contextlib.closing(Relay()) as relay:
        yield relay


@contextlib.contextmanager
def served(
    relay: Relay, site: DemoSite, ytid: str = "clip", **settings: Any
) -> Iterator[tuple[list[str], Traffic]]:
    """A video's relayed URLs, and what they cost."""
    traffic = Traffic()
    with relay.serve(resolve(resolver(**settings), site.url, ytid), traffic) as urls:
        yield urls, traffic


def get(url: str, wanted: str | None = None) -> tuple[int, bytes, Mapping[str, str]]:
    address = urlsplit(url)
    with contextlib.closing(HTTPConnection(address.netloc, timeout=20)) as connection:
        connection.request("GET", address.path, headers={"Range": f"bytes={wanted}"} if wanted else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def asked(site: DemoSite, ytid: str = "clip") -> list[str]:
    return [one.range for one in site.traffic.log(ytid, "media")]


def test_ranges_are_forwarded_and_counted(relay: Relay, site: DemoSite, media: bytes) -> None:
    with served(relay, site) as (urls, traffic):
        status, body, headers = get(urls[0], "1000-200999")
        assert (status, body, headers["Content-Range"]) == (
            206,
            media[1000:201_000],
            f"bytes 1000-200999/{SIZE}",
        )
        assert get(urls[0], "650000-999999")[1] == media[650_000:]
    assert asked(site) == ["bytes=1000-200999", "bytes=650000-999999"]
    assert (traffic.bytes, traffic.requests) == (250_000, 2) == (site.traffic.media_bytes("clip"), 2)
    assert traffic.failure is None


def test_what_was_read_once_is_not_fetched_again(relay: Relay, site: DemoSite) -> None:
    with served(relay, site) as (urls, traffic):
        assert get(urls[0], "0-999")[1] == get(urls[0], "0-999")[1]
    assert (traffic.bytes, traffic.requests) == (1000, 1)


def test_a_range_without_an_end_is_answered_to_the_files_end(relay: Relay, site: DemoSite) -> None:
    """More than one request upstream, one answer: HLS segments and older programs ask so."""
    long = np.random.default_rng(4).bytes(2 * PIECE + 5000)
    (site.renditions.folder / "long.b.mp4").write_bytes(long)
    offer(site.renditions.folder, "long", [combined("long.b.mp4")])
    with served(relay, site, "long") as (urls, traffic):
        assert get(urls[0], "1000-")[:2] == (206, long[1000:])
        assert get(urls[0])[1] == long
    assert asked(site, "long")[0] == f"bytes=1000-{1000 + PIECE - 1}"
    assert traffic.bytes == 2 * len(long) - 1000


def test_a_body_that_breaks_off_is_resumed_where_it_broke(relay: Relay, site: DemoSite, media: bytes) -> None:
    site.behaviours.change("clip", Behaviour(disconnect_after=100_000))
    with served(relay, site) as (urls, traffic):
        assert get(urls[0], "500-250499")[:2] == (206, media[500:250_500])
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-250499")) for wanted in asked(site)]
    assert starts == [500 + attempt * 65_536 for attempt in range(4)]  # what is read at once is lost whole
    assert (traffic.bytes, traffic.requests, traffic.failure) == (250_000, 4, None)


def test_a_body_that_breaks_off_again_and_again_is_a_network_failure(relay: Relay, site: DemoSite) -> None:
    site.behaviours.change("clip", Behaviour(disconnect_after=1000))
    with served(relay, site) as (urls, traffic):
        assert get(urls[0], "0-99999")[0] == 502
    assert traffic.requests == 4
    assert traffic.failure is not None
    assert traffic.failure.outcome is Outcome.NETWORK
    assert "of 100000 bytes" in traffic.failure.message


@pytest.mark.parametrize("trouble", [{"media_hangs": True}, {"stall_after": 1000}])
def test_a_silent_server_is_a_timeout(relay: Relay, site: DemoSite, trouble: dict[str, Any]) -> None:
    site.behaviours.change("clip", Behaviour(**trouble))
    with served(relay, site, socket_timeout=0.5) as (urls, traffic):
        assert get(urls[0], "0-99999")[0] == 502
    assert traffic.failure is not None
    assert traffic.failure.outcome is Outcome.TIMEOUT


def test_a_server_without_ranges_is_read_whole_once(relay: Relay, site: DemoSite, media: bytes) -> None:
    site.behaviours.change("clip", Behaviour(ranges=False))
    with served(relay, site) as (urls, traffic):
        assert get(urls[0], "0-999")[:2] == (206, media[:1000])
        assert get(urls[0], "300000-399999")[:2] == (206, media[300_000:400_000])
        assert get(urls[0], f"{SIZE}-")[0] == 416
    assert (traffic.bytes, traffic.requests, len(asked(site))) == (SIZE, 1, 1)


def test_a_range_beyond_the_end_is_refused_with_the_size(relay: Relay, site: DemoSite) -> None:
    with served(relay, site) as (urls, traffic):
        for _ in range(2):
            status, body, headers = get(urls[0], f"{SIZE}-{SIZE + 9}")
            assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{SIZE}")
    assert (traffic.bytes, traffic.failure) == (0, None)


def test_streams_are_read_at_once(relay: Relay, site: DemoSite, media: bytes) -> None:
    """Two clients of two streams, in small steps, over one recording and its connections."""
    (site.renditions.folder / "other.a.m4a").write_bytes(media[::-1])
    offer(site.renditions.folder, "both", [picture(CLIP), sound("other.a.m4a")])

    def read(url: str) -> bytes:
        return b"".join(get(url, f"{at}-{at + 19_999}")[1] for at in range(0, 400_000, 20_000))

    with served(relay, site, "both") as (urls, traffic), ThreadPoolExecutor(4) as threads:
        bodies = list(threads.map(read, [*urls, *urls]))
    assert bodies == [media[:400_000], media[::-1][:400_000]] * 2
    assert traffic.failure is None


def test_an_address_nobody_handed_out_is_not_found(relay: Relay, site: DemoSite) -> None:
    with served(relay, site) as (urls, traffic):
        token = urlsplit(urls[0]).path.split("/")[1]
        for strange in (urls[0].replace(token, "0" * 32), urls[0].replace("/0.", "/1."), f"{urls[0][:22]}/"):
            assert get(strange, "0-9")[0] == 404
    assert get(urls[0], "0-9")[0] == 404  # the recording is done with
    assert traffic.requests == 0


def test_a_client_that_hangs_up_in_the_middle_does_no_harm(
    relay: Relay, site: DemoSite, media: bytes
) -> None:
    with served(relay, site) as (urls, traffic):
        address = urlsplit(urls[0])
        for _ in range(3):
            with socket.create_connection((address.hostname, address.port)) as client:
                client.sendall(f"GET {address.path} HTTP/1.1\r\nRange: bytes=0-\r\n\r\n".encode())
                assert client.recv(100).startswith(b"HTTP/1.1 206")
        assert get(urls[0], "5-9")[:2] == (206, media[5:10])
    assert traffic.failure is None


def test_a_closed_relay_takes_no_connections() -> None:
    relay = Relay()
    recording = Recording(streams=(), open_url=lambda url, headers: pytest.fail("nothing is asked"))
    with relay.serve(recording, Traffic()):
        port = relay._port
    relay.close()
    relay.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


# what an extraction makes of it


@pytest.fixture
def timed_site(timed: TimedMedia, tmp_path: Path) -> Iterator[DemoSite]:
    offer(timed.folder, "film", [combined("combined.mp4")])
    with DemoSite(timed.folder) as site:
        yield site


@pytest.fixture
def extractor(program: Program, relay: Relay) -> Extractor:
    return Extractor(
        program=program, profile=Profile(), names=lambda mids: ["Dog" for _ in mids], relay=relay
    )


def cut(recording: Recording, extractor: Extractor, scratch: Path) -> Extraction:
    segment = Segment(ytid="0123456789A", start=30.0, end=40.0, mids=("/m/0bt9lr",), split="eval")
    return extract(segment, recording, extractor, scratch)


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        ({"media_status": 403}, Outcome.FORBIDDEN),
        ({"media_status": 404}, Outcome.NO_FORMAT),
        ({"media_status": 429}, Outcome.RATE_LIMITED),
        ({"media_status": 500}, Outcome.SERVER_ERROR),
        ({"media_hangs": True}, Outcome.TIMEOUT),
        ({"stall_after": 50_000}, Outcome.TIMEOUT),
        ({"disconnect_after": 1000}, Outcome.NETWORK),
        ({"kept_share": 0.0}, Outcome.CORRUPT),
        ({"html_as_media": True}, Outcome.CORRUPT),
    ],
)
def test_failures_upstream_name_the_outcome(
    timed_site: DemoSite, extractor: Extractor, tmp_path: Path, trouble: dict[str, Any], outcome: Outcome
) -> None:
    timed_site.behaviours.change("combined", Behaviour(**trouble))
    recording = resolve(resolver(socket_timeout=0.5), timed_site.url, "film")
    failure = cut(recording, extractor, tmp_path).failure
    assert failure is not None
    assert failure.outcome is outcome, failure


@pytest.mark.parametrize("trouble", [{"disconnect_after": 100_000}, {"ranges": False}, {"slow_start_s": 0.1}])
def test_troubles_that_can_be_helped_do_no_harm(
    timed: TimedMedia, timed_site: DemoSite, extractor: Extractor, tmp_path: Path, trouble: dict[str, Any]
) -> None:
    timed_site.behaviours.change("combined", Behaviour(**trouble))
    extraction = cut(resolve(resolver(), timed_site.url, "film"), extractor, tmp_path)
    assert_aligned(timed, extraction, 30.0)


def test_nothing_of_the_upstream_shows_in_the_process_table(
    timed_site: DemoSite, extractor: Extractor, tmp_path: Path
) -> None:
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("127.0.0.1\tFALSE\t/\tFALSE\t2000000000\tlogin\tSECRET\n")
    timed_site.behaviours.change("combined", Behaviour(slow_start_s=0.5))
    recording = resolve(resolver(cookies=cookies), timed_site.url, "film")
    with ThreadPoolExecutor(1) as threads:
        cutting = threads.submit(cut, recording, extractor, tmp_path)
        seen = _command_line(extractor.program, cutting.done)
        assert cutting.result().failure is None
    assert "/0.mp4" in seen
    for secret in (str(urlsplit(timed_site.url).port), "combined", "SECRET", "Referer", "watch"):
        assert secret not in seen
    assert "login=SECRET" in timed_site.traffic.log("combined")[0].cookie


def _command_line(program: Program, done: Any) -> str:
    while not done():
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[:1] == [program.path]:
                    return " ".join(child.cmdline())
    return ""


def test_what_nobody_expects_is_raised_where_the_media_are_used(extractor: Extractor, tmp_path: Path) -> None:
    def open_url(url: str, headers: Mapping[str, str]) -> RangeResponse:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = MediaStream(url="http://site.invalid/a.mp4", carries=Carries.BOTH, container="mp4")
    with pytest.raises(OSError, match="No space left"):
        cut(Recording(streams=(stream,), open_url=open_url), extractor, tmp_path)


# playlists

MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="en",URI="sound/list"
#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"
low/index.m3u8?x=1
"""
PLAYLIST = """#EXTM3U
#EXT-X-TARGETDURATION:5
#EXT-X-KEY:METHOD=AES-128,URI="../key.bin",IV=0x1
#EXT-X-MAP:URI="all.mp4",BYTERANGE="100@0"
#EXTINF:5,
#EXT-X-BYTERANGE:1000@100
all.mp4
#EXT-X-BYTERANGE:2000
#EXTINF:5,
all.mp4

#EXT-X-KEY:METHOD=AES-128,URI="data:text/plain;base64,AAAA"
#EXTINF:5,
{site}/media/elsewhere.d/x.ts?token=1
#EXT-X-ENDLIST
"""


@pytest.fixture
def hls(site: DemoSite, media: bytes) -> DemoSite:
    files = {
        "hls.d/master.m3u8": MASTER.encode(),
        "hls.d/sound/list": b"#EXTM3U\n#EXTINF:5,\none.aac\n",
        "hls.d/low/index.m3u8": PLAYLIST.format(site=site.url).encode(),
        "hls.d/low/all.mp4": media,
        "hls.d/key.bin": b"k" * 16,
        "hls.d/sound/one.aac": b"sound",
        "elsewhere.d/x.ts": b"else",
    }
    for name, content in files.items():
        (site.renditions.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (site.renditions.folder / name).write_bytes(content)
    offer(site.renditions.folder, "hls", [combined("hls.d/master.m3u8", protocol="m3u8_native", ext="mp4")])
    return site


def addresses(playlist: bytes) -> list[str]:
    text = playlist.decode()
    return re.findall(r'URI="([^"]*)"', text) + [line for line in text.splitlines() if line[:4] == "http"]


def test_every_address_of_a_playlist_leads_through_the_relay(
    relay: Relay, hls: DemoSite, media: bytes
) -> None:
    with served(relay, hls, "hls") as (urls, traffic):
        assert traffic.requests == 0  # nothing is fetched that nobody reads
        sound_list, low = addresses(get(urls[0])[1])
        (aac,) = addresses(get(sound_list)[1])
        key, header, data, *segments = addresses(get(low)[1])
        assert all(url.startswith(urls[0][:40]) for url in (sound_list, low, aac, key, header, *segments))
        assert data == "data:text/plain;base64,AAAA"
        assert [get(url)[1] for url in (aac, key, header)] == [b"sound", b"k" * 16, media[:100]]
        assert [get(url)[1] for url in segments] == [media[100:1100], media[1100:3100], b"else"]
        assert get(segments[1], "10-19")[:2] == (206, media[1110:1120])
    assert traffic.failure is None


def test_a_byte_range_becomes_an_address_of_its_own(relay: Relay, hls: DemoSite) -> None:
    """ffmpeg 9 reads beyond the range when initialisation and segments lie in one file."""
    with served(relay, hls, "hls") as (urls, _):
        text = get(addresses(get(urls[0])[1])[1])[1].decode()
    assert "BYTERANGE" not in text
    assert text.count("#EXTINF:5,") == 3


def test_an_encrypted_playlist_is_decoded(
    timed: TimedMedia, timed_site: DemoSite, extractor: Extractor, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef")
    info = tmp_path / "info"
    info.write_text(f"key.bin\n{tmp_path / 'key'}\n")
    target = timed.folder / "locked.d" / "index.m3u8"
    target.parent.mkdir(exist_ok=True)
    (target.parent / "key.bin").write_bytes(b"0123456789abcdef")
    hls = ("-f", "hls", "-hls_time", "5", "-hls_playlist_type", "vod", "-hls_key_info_file", str(info))
    timed.ffmpeg("-i", str(timed.combined), "-c", "copy", *hls, str(target))
    offer(timed.folder, "locked", [combined("locked.d/index.m3u8", protocol="m3u8_native", ext="mp4")])
    extraction = cut(resolve(resolver(), timed_site.url, "locked"), extractor, tmp_path)
    assert_aligned(timed, extraction, 30.0, priming=0.03)


@pytest.mark.parametrize(("status", "outcome"), [(403, Outcome.FORBIDDEN), (429, Outcome.RATE_LIMITED)])
def test_a_playlist_that_is_refused_names_the_outcome(
    timed_site: DemoSite, extractor: Extractor, tmp_path: Path, status: int, outcome: Outcome
) -> None:
    name = "refused.d/index.m3u8"
    offer(timed_site.renditions.folder, "refused_list", [combined(name, protocol="m3u8_native", ext="mp4")])
    timed_site.behaviours.change("refused", Behaviour(media_status=status))
    extraction = cut(resolve(resolver(), timed_site.url, "refused_list"), extractor, tmp_path)
    assert extraction.failure is not None
    assert extraction.failure.outcome is outcome
    assert extraction.facts["requests"] >= 1
