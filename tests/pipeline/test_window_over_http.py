"""Windows read over HTTP: exact from every start, in every form of delivery, few bytes beyond them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from offered_media import combined, dash, offer, picture, resolve, resolver, sound, split
from timed_media import AAC, FPS, SECONDS, X264, TimedMedia, assert_aligned

from pipeline.demo_site import DemoSite
from pipeline.extract import Extraction, Extractor, extract
from pipeline.ffmpeg import COMBINED_REQUESTS, PICTURE_REQUESTS, SOUND_REQUESTS, Program
from pipeline.relay import Relay
from pipeline.youtube import Resolver
from shards.profile import Profile
from shards.segment import Segment
from shards.sound import decode_pcm

FAST = ("-movflags", "+faststart")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "125")
HLS = ("-f", "hls", "-hls_time", "5", "-hls_playlist_type", "vod")
ODD_STARTS = (0.0, 4.97, 7.31, 33.33, 61.0)


class Cinema:
    """A site with timed media, and everything needed to fetch windows from it."""

    def __init__(self, timed: TimedMedia, program: Program, scratch: Path) -> None:
        self.timed = timed
        self.site = DemoSite(timed.folder)
        self._resolver: Resolver = resolver()
        self._scratch = scratch
        self._relay = Relay()
        self._extractor = Extractor(
            program=program, profile=Profile(), names=lambda mids: ["Dog" for _ in mids], relay=self._relay
        )

    def show(self, ytid: str, *formats: dict[str, Any]) -> None:
        offer(self.timed.folder, ytid, formats)

    def cut(self, ytid: str, start: float) -> Extraction:
        segment = Segment(ytid="0123456789A", start=start, end=start + 10, mids=("/m/0bt9lr",), split="eval")
        recording = resolve(self._resolver, self.site.url, ytid)
        return extract(segment, recording, self._extractor, self._scratch)

    def media_bytes(self, *names: str) -> int:
        """What the site sent of these files."""
        return sum(one.bytes for one in self.site.traffic.log() if one.path.removeprefix("/media/") in names)

    def media_paths(self, pattern: str) -> list[str]:
        """The pieces that were asked for, as far as they match."""
        found = (re.search(pattern, one.path) for one in self.site.traffic.log())
        return sorted(match[1] for match in found if match)

    def close(self) -> None:
        self._relay.close()
        self.site.close()


@pytest.fixture(scope="module")
def _cinema(
    timed: TimedMedia, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cinema]:
    cinema = Cinema(timed, program, tmp_path_factory.mktemp("scratch"))
    yield cinema
    cinema.close()


@pytest.fixture
def cinema(_cinema: Cinema) -> Cinema:
    _cinema.site.traffic.forget()
    return _cinema


def show_files(cinema: Cinema) -> None:
    timed = cinema.timed
    timed.make("picture.v.mp4", *X264, "-an", *FAST)
    timed.make("sound.a.m4a", *AAC, "-vn", *FAST)
    cinema.show("whole", combined("combined.mp4"))
    cinema.show("apart", picture("picture.v.mp4"), sound("sound.a.m4a"))


@pytest.mark.slow
@pytest.mark.parametrize("ytid", ["whole", "apart"])
def test_every_start_is_exact(cinema: Cinema, ytid: str) -> None:
    show_files(cinema)

    def check(tenths: int) -> int:
        extraction = cinema.cut(ytid, tenths / 10)
        assert_aligned(cinema.timed, extraction, tenths / 10)
        return int(extraction.facts["media_bytes"])

    with ThreadPoolExecutor(4) as threads:
        received = list(threads.map(check, range(601)))
    names = ("combined.mp4",) if ytid == "whole" else ("picture.v.mp4", "sound.a.m4a")
    assert cinema.media_bytes(*names) == sum(received)  # what is written down is what the site sent


def show_hls(cinema: Cinema, ytid: str, *options: str) -> None:
    cinema.timed.make(f"{ytid}.d/index.m3u8", *X264, *AAC, *HLS, *options)
    cinema.show(ytid, combined(f"{ytid}.d/index.m3u8", protocol="m3u8_native", ext="mp4"))


@pytest.mark.parametrize("start", ODD_STARTS)
@pytest.mark.parametrize(
    ("ytid", "options"),
    [
        ("ts", ()),
        ("fmp4", ("-hls_segment_type", "fmp4")),
        ("ranges", ("-hls_segment_type", "fmp4", "-hls_flags", "single_file")),
        ("ts_ranges", ("-hls_flags", "single_file")),
    ],
)
def test_playlists_are_exact(cinema: Cinema, ytid: str, options: tuple[str, ...], start: float) -> None:
    show_hls(cinema, ytid, *options)
    assert_aligned(cinema.timed, cinema.cut(ytid, start), start, priming=0.03)


def test_of_a_playlist_the_window_and_its_first_segment_are_fetched_once(cinema: Cinema) -> None:
    show_hls(cinema, "ts")
    assert_aligned(cinema.timed, cinema.cut("ts", 33.33), 33.33, priming=0.03)
    assert cinema.media_paths(r"ts\.d/index(\d+)\.ts") == ["0", "6", "7", "8"]


@pytest.mark.parametrize("start", [5.0, 7.31, 33.33])
def test_separate_playlists_keep_their_distance(cinema: Cinema, start: float) -> None:
    """The picture of this video begins 0.8 s after its sound, on one clock, as HLS demands."""
    late = ("-map", "0:v", "-vf", "trim=start=0.8", *X264, "-copyts", *HLS)
    cinema.timed.make("late_picture.d/index.m3u8", *late)
    cinema.timed.make("its_sound.d/index.m3u8", "-map", "1:a", *AAC, "-copyts", *HLS)
    hls = {"protocol": "m3u8_native", "ext": "mp4"}
    cinema.show(
        "distant", picture("late_picture.d/index.m3u8", **hls), sound("its_sound.d/index.m3u8", **hls)
    )
    extraction = cinema.cut("distant", start)
    assert extraction.sample is not None, extraction.failure
    pcm, _ = decode_pcm(extraction.sample.audio)
    assert cinema.timed.sound_offset(pcm[:, 0], start) == pytest.approx(0, abs=0.03)
    shown = [cinema.timed.frame_number(frame) / FPS - start for frame in extraction.sample.frames]
    assert shown == pytest.approx([index + 0.5 for index in range(10)], abs=1 / FPS + 1e-3)


def show_dash(cinema: Cinema) -> None:
    dashed = ("-f", "dash", "-seg_duration", "5")
    video = cinema.timed.make("dash_picture.d/manifest.mpd", "-map", "0:v", *X264, *dashed)
    audio = cinema.timed.make("dash_sound.d/manifest.mpd", "-map", "1:a", *AAC, *dashed)
    pictures = picture("dash_picture.d/manifest.mpd", ext="mp4") | dash(video)
    cinema.show("dash", pictures, sound("dash_sound.d/manifest.mpd", ext="m4a") | dash(audio))


@pytest.mark.parametrize("start", ODD_STARTS)
def test_fragments_are_exact(cinema: Cinema, start: float) -> None:
    show_dash(cinema)
    assert_aligned(cinema.timed, cinema.cut("dash", start), start)


@pytest.mark.parametrize(("start", "pieces"), [(33.33, [7, 8, 9]), (35.1, [7, 8, 9, 10]), (35.5, [8, 9, 10])])
def test_only_fragments_that_the_decoder_needs_are_fetched(
    cinema: Cinema, start: float, pieces: list[int]
) -> None:
    """Of pictures every 5 s; the decoder begins 0.15 s ahead of the window."""
    show_dash(cinema)
    cinema.cut("dash", start)
    wanted = [f"chunk-stream0-{piece:05d}" for piece in pieces]
    assert cinema.media_paths(r"dash_picture\.d/([a-z0-9-]+)\.m4s") == [*wanted, "init-stream0"]


def test_fragments_that_open_without_a_key_frame_are_read_from_further_back(cinema: Cinema) -> None:
    """A second pass decodes 20 s ahead, from a key frame before that; what it knows is not fetched again."""
    rare = ("-map", "0:v", *X264, "-g", "375", "-movflags", "+empty_moov+default_base_moof")
    video = cinema.timed.make("rare.mp4", *rare, "-frag_duration", "5000000")
    show_dash(cinema)
    audio = cinema.timed.folder / "dash_sound.d/manifest.mpd"
    pictures = picture("rare.mp4") | split(video, 5.0)
    cinema.show("rare", pictures, sound("dash_sound.d/manifest.mpd", ext="m4a") | dash(audio))
    assert_aligned(cinema.timed, cinema.cut("rare", 41.2), 41.2)
    assert cinema.media_paths(r"rare\.d/(\w+)\.m4s") == sorted(map(str, range(12)))


@pytest.mark.parametrize("start", ODD_STARTS)
@pytest.mark.parametrize("apart", [False, True])
def test_webm_is_exact(cinema: Cinema, start: float, apart: bool) -> None:
    opus = ("-c:a", "libopus")
    if apart:
        cinema.timed.make("picture.v.webm", "-map", "0:v", *VP9)
        cinema.timed.make("sound.a.webm", "-map", "1:a", *opus)
        cinema.show("webm", picture("picture.v.webm"), sound("sound.a.webm"))
    else:
        cinema.timed.make("whole.b.webm", *VP9, *opus)
        cinema.show("webm", combined("whole.b.webm"))
    assert_aligned(cinema.timed, cinema.cut("webm", start), start, priming=0.01)


def test_late_sound_of_its_own_stream_stays_late(cinema: Cinema) -> None:
    show_files(cinema)
    plain, late = cinema.timed.folder / "sound.a.m4a", cinema.timed.folder / "late.a.m4a"
    cinema.timed.ffmpeg("-itsoffset", "0.4", "-i", str(plain), "-c", "copy", *FAST, str(late))
    cinema.show("late", picture("picture.v.mp4"), sound("late.a.m4a"))
    extraction = cinema.cut("late", 0.0)
    assert extraction.sample is not None, extraction.failure
    pcm, rate = decode_pcm(extraction.sample.audio)
    assert cinema.timed.sound_offset(pcm[rate:, 0], 1.0) == pytest.approx(-0.4, abs=0.002)
    assert abs(pcm[: int(0.35 * rate)]).max() == 0
    assert cinema.timed.frame_number(extraction.sample.frames[0]) == pytest.approx(0.5 * FPS, abs=1)


GROUP_S = 5  # seconds between key frames: pictures are read from the last one before the window
INDEXED = (
    "-movflags",
    "+dash+global_sidx+delay_moov+default_base_moof+skip_trailer",
)  # as YouTube's files are


def show_heavy(cinema: Cinema) -> None:
    """Media of a usual bit rate, 600 kbit/s, in one file, in two, and in two of fragments behind an index."""
    noise = (
        "-vf",
        "noise=alls=24:allf=t",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        str(GROUP_S * FPS),
    )
    video = (*noise, *("-b:v", "470k", "-maxrate", "560k", "-bufsize", "940k", "-pix_fmt", "yuv420p"))
    make = cinema.timed.make
    make("heavy.b.mp4", *video, *AAC, *FAST)
    make("heavy.v.mp4", "-map", "0:v", *video, *FAST)
    make("heavy.a.m4a", "-map", "1:a", *AAC, *FAST)
    make("heavy.i.mp4", "-map", "0:v", *video, *INDEXED)
    make("heavy.j.m4a", "-map", "1:a", *AAC, *INDEXED, "-frag_duration", "10000000")
    cinema.show("one_file", combined("heavy.b.mp4"))
    cinema.show("two_files", picture("heavy.v.mp4"), sound("heavy.a.m4a"))
    cinema.show("indexed", picture("heavy.i.mp4"), sound("heavy.j.m4a"))


@pytest.mark.parametrize(
    ("ytid", "names", "sizes"),
    [
        ("one_file", ("heavy.b.mp4",), (COMBINED_REQUESTS,)),
        ("two_files", ("heavy.v.mp4", "heavy.a.m4a"), (PICTURE_REQUESTS, SOUND_REQUESTS)),
        ("indexed", ("heavy.i.mp4", "heavy.j.m4a"), (PICTURE_REQUESTS, SOUND_REQUESTS)),
    ],
)
def test_little_beyond_the_windows_is_fetched(
    cinema: Cinema, ytid: str, names: tuple[str, ...], sizes: tuple[tuple[int, int], ...]
) -> None:
    show_heavy(cinema)
    starts = [0.3 + 4.9 * index for index in range(13)]
    extractions = [cinema.cut(ytid, start) for start in starts]
    for extraction, start in zip(extractions, starts, strict=True):
        assert_aligned(cinema.timed, extraction, start, priming=0.03)
    per_second = sum((cinema.timed.folder / name).stat().st_size for name in names) / SECONDS
    sent = cinema.media_bytes(*names) / len(starts)
    requests = sum(extraction.facts["requests"] for extraction in extractions) / len(starts)
    print(f"{ytid}: {sent / (10 * per_second):.2f} times the window's share, {requests:.1f} requests")
    # the window with a group ahead of it, an index that the first request may miss, a last request's rest
    assert sent <= (10 + GROUP_S) * per_second + sum(first + further for first, further in sizes)
