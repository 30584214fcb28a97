"""Extraction: what comes out of a window, on its own clock, whatever the media look like."""

import dataclasses
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import simplejpeg
import soundfile
from timed_media import AAC, FPS, X264, TimedMedia, assert_aligned

from pipeline.decoding import Interrupted
from pipeline.extract import Extraction, Extractor, extract
from pipeline.ffmpeg import Program
from pipeline.local_media import sniff_container
from pipeline.media import Carries, Failure, MediaError, MediaStream, RangeResponse, Recording
from pipeline.relay import Relay
from shards.outcome import Outcome
from shards.profile import Profile
from shards.segment import Segment
from shards.sound import decode_pcm

Cut = Callable[..., Extraction]


@pytest.fixture(scope="module")
def relay() -> Relay:
    return Relay()


@pytest.fixture
def cut(program: Program, relay: Relay, tmp_path: Path) -> Cut:
    def cut(
        *paths: Path, start: float = 5.0, end: float = 15.0, profile: Profile | None = None
    ) -> Extraction:
        carries = [Carries.BOTH] if len(paths) == 1 else [Carries.VIDEO, Carries.AUDIO]
        streams = tuple(
            MediaStream(url=str(path), carries=what, container=sniff_container(path))
            for path, what in zip(paths, carries, strict=True)
        )
        segment = Segment(ytid="0123456789A", start=start, end=end, mids=("/m/0bt9lr",), split="eval")
        extractor = Extractor(
            program=program,
            profile=profile or Profile(),
            names=lambda mids: ["Dog" for _ in mids],
            relay=relay,
        )
        return extract(segment, Recording(streams=streams), extractor, tmp_path)

    return cut


@pytest.mark.parametrize("start", [0.0, 0.1, 4.9, 17.3, 33.37, 60.0])
def test_frames_and_sound_lie_on_the_window(timed: TimedMedia, cut: Cut, start: float) -> None:
    assert_aligned(timed, cut(timed.combined, start=start, end=start + 10), start)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "vp9_opus.webm",
            ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
        ),
        ("h264_opus.mkv", (*X264, "-c:a", "libopus")),
        ("transport.ts", (*X264, *AAC)),
        ("fragmented.mp4", (*X264, *AAC, "-movflags", "+frag_keyframe+empty_moov+default_base_moof")),
        ("index_at_end.mp4", (*X264, *AAC)),
        ("b_frames.mp4", ("-c:v", "libx264", "-preset", "fast", "-bf", "3", "-pix_fmt", "yuv420p", *AAC)),
        ("mono_8k.mp4", (*X264, "-c:a", "aac", "-ar", "8000", "-ac", "1")),
        ("mp3.avi", (*X264, "-c:a", "libmp3lame")),
    ],
)
def test_containers_and_codecs_keep_the_clock(
    timed: TimedMedia, cut: Cut, name: str, arguments: tuple[str, ...]
) -> None:
    media = timed.make(name, "-t", "30", *arguments)
    assert_aligned(timed, cut(media, start=7.3, end=17.3), 7.3, priming=0.03)


@pytest.mark.parametrize("arguments", [(*X264, *AAC), (*X264, *AAC, "-movflags", "+faststart")])
def test_a_window_from_the_start_has_the_very_first_samples(
    timed: TimedMedia, cut: Cut, arguments: tuple[str, ...]
) -> None:
    media = timed.make(f"from_zero_{len(arguments)}.mp4", "-t", "30", *arguments)
    extraction = cut(media, start=0.0, end=10.0)
    assert extraction.sample is not None
    pcm, _ = decode_pcm(extraction.sample.audio)
    assert abs(pcm[:1000]).max() > 1000  # an encoder's priming is not taken for sound, nor sound for it
    assert extraction.facts["audio_s"] == pytest.approx(10.0, abs=0.001)


def test_separate_streams_share_one_clock(timed: TimedMedia, cut: Cut) -> None:
    video = timed.make("only.v.mp4", *X264, "-an")
    audio = timed.make("only.a.m4a", *AAC, "-vn")
    assert_aligned(timed, cut(video, audio, start=21.7, end=31.7), 21.7)


def test_a_late_sound_stays_late(timed: TimedMedia, cut: Cut) -> None:
    late = timed.folder / "late_sound.mkv"
    source = str(timed.combined)
    timed.ffmpeg(
        "-i", source, "-itsoffset", "0.4", "-i", source, "-map", "0:v", "-map", "1:a", "-c", "copy", str(late)
    )
    extraction = cut(late, start=0.0, end=10.0)
    assert extraction.sample is not None
    pcm, rate = decode_pcm(extraction.sample.audio)
    assert timed.sound_offset(pcm[rate:, 0], 1.0) == pytest.approx(-0.4, abs=0.002)
    assert abs(pcm[: int(0.35 * rate)]).max() == 0
    assert extraction.facts["audio_s"] == pytest.approx(9.6, abs=0.01)


def test_a_variable_rate_shows_what_a_player_shows(timed: TimedMedia, cut: Cut) -> None:
    media = timed.make(
        "variable.mkv",
        "-t",
        "30",
        "-vf",
        "select='not(mod(n,7))+not(mod(n,11))'",
        "-fps_mode",
        "vfr",
        *X264,
        *AAC,
    )
    assert_aligned(timed, cut(media, start=7.3, end=17.3), 7.3, interval=7 / FPS)


def test_a_slide_show_repeats_its_pictures(timed: TimedMedia, cut: Cut) -> None:
    media = timed.make("slides.mp4", "-t", "30", "-vf", "fps=0.5", *X264, *AAC)
    extraction = cut(media, start=8.0, end=18.0)
    assert extraction.failure is None
    assert extraction.facts["frame_times"] == pytest.approx([0, 0, 2, 2, 4, 4, 6, 6, 8, 8], abs=0.03)


def test_an_edit_list_is_obeyed(timed: TimedMedia, cut: Cut) -> None:
    media = timed.folder / "edited.mp4"
    timed.ffmpeg("-ss", "12.52", "-i", str(timed.combined), "-t", "20", "-c", "copy", str(media))
    assert_aligned(timed, cut(media, start=3.0, end=13.0), 15.52)


def test_rotation_and_pixel_aspect_are_applied(timed: TimedMedia, cut: Cut) -> None:
    wide = timed.make("wide.mp4", "-t", "12", "-vf", "scale=320:240,setsar=4/3", *X264, *AAC)
    portrait = timed.folder / "portrait.mp4"
    timed.ffmpeg("-display_rotation", "90", "-i", str(wide), "-c", "copy", str(portrait))
    sizes = {}
    for name, media in (("wide", wide), ("portrait", portrait)):
        sample = cut(media, start=0.0, end=10.0).sample
        assert sample is not None
        sizes[name] = simplejpeg.decode_jpeg_header(sample.frames[0])[:2]
    assert sizes == {"wide": (256, 456), "portrait": (456, 256)}  # height, width of 16:9


def test_six_channels_become_one_at_full_level(timed: TimedMedia, cut: Cut) -> None:
    media = timed.make(
        "six.mkv", "-t", "12", "-af", "pan=5.1|FL=c0|FR=c0|FC=c0|LFE=c0|BL=c0|BR=c0", *X264, "-c:a", "flac"
    )
    extraction = cut(media, start=0.0, end=10.0)
    assert extraction.failure is None
    assert extraction.facts["source_channels"] == 6
    assert extraction.facts["rms_dbfs"] == pytest.approx(-20.8, abs=1.5)


def test_high_dynamic_range_is_mapped(timed: TimedMedia, cut: Cut) -> None:
    hdr = (
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p10le",
        "-x265-params",
        "log-level=error",
    )
    tags = ("-vf", "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc")
    media = timed.make("hdr.mp4", "-t", "12", *hdr, *tags, *AAC)
    extraction = cut(media, start=0.0, end=10.0)
    assert extraction.failure is None
    assert extraction.facts["hdr"] is True
    assert extraction.sample is not None
    assert len(extraction.sample.frames) == 10


def test_profiles_decide_what_comes_out(timed: TimedMedia, cut: Cut) -> None:
    sound_only = cut(timed.combined, profile=Profile(frames=0)).sample
    assert sound_only is not None
    assert [name for name, _ in sound_only.members()] == ["flac", "json", "txt"]
    stereo = cut(
        timed.combined, profile=Profile(channels=2, sample_rate=48_000, audio_codec="wav", frames=4)
    ).sample
    assert stereo is not None
    with soundfile.SoundFile(io.BytesIO(stereo.audio)) as file:
        assert (file.format, file.channels, file.samplerate, file.frames) == ("WAV", 2, 48_000, 480_000)
    assert [name for name, _ in stereo.members()] == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "wav",
        "jpg",
        "json",
        "txt",
    ]


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (("-t", "30", *X264, "-an"), Outcome.NO_AUDIO),
        (("-t", "30", "-vn", *AAC), Outcome.NO_VIDEO),
        (("-t", "4.9", *X264, *AAC), Outcome.PAST_END),
        (("-t", "12", *X264, *AAC), Outcome.SHORT),
        (("-t", "30", "-af", "atrim=0:9", *X264, *AAC), Outcome.SHORT),
    ],
)
def test_media_without_the_window_are_named(
    timed: TimedMedia, cut: Cut, arguments: tuple[str, ...], outcome: Outcome
) -> None:
    media = timed.make(f"lacking-{outcome}-{len(arguments)}.mp4", *arguments)
    extraction = cut(media)
    assert extraction.sample is None
    assert extraction.failure is not None
    assert extraction.failure.outcome is outcome


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("page.mp4", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("noise.mp4", bytes(range(256)) * 400),
    ],
)
def test_what_is_no_media_is_corrupt(cut: Cut, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    failure = cut(tmp_path / name).failure
    assert failure is not None
    assert failure.outcome is Outcome.CORRUPT


def test_a_truncated_file_is_corrupt(timed: TimedMedia, cut: Cut, tmp_path: Path) -> None:
    whole = timed.combined.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 5])
    failure = cut(tmp_path / "cut.mp4", start=10.0, end=20.0).failure
    assert failure is not None
    assert failure.outcome is Outcome.CORRUPT


def test_a_short_window_is_kept_on_request_and_flagged(timed: TimedMedia, cut: Cut) -> None:
    media = timed.make("short.mp4", "-t", "12", *X264, *AAC)
    profile = Profile(keep_short=0.5)
    extraction = cut(media, profile=profile)
    assert extraction.failure is None
    assert extraction.sample is not None
    assert extraction.facts["short"] is True
    assert len(extraction.sample.frames) == 10
    assert 6.0 <= extraction.facts["audio_s"] <= 7.0
    refused = cut(media, profile=dataclasses.replace(profile, keep_short=0.9))
    assert refused.failure is not None
    assert refused.failure.outcome is Outcome.SHORT


def test_the_same_window_gives_the_same_bytes(timed: TimedMedia, cut: Cut) -> None:
    first, second = (cut(timed.combined, start=3.0, end=13.0).sample for _ in range(2))
    assert first is not None
    assert second is not None
    assert list(first.members()) == list(second.members())
    facts = json.loads(dict(first.members())["json"])
    assert facts["tag"] == ["Dog"]
    assert facts["window"] == [3.0, 13.0]


def test_a_hidden_cover_picture_is_no_video(timed: TimedMedia, cut: Cut, tmp_path: Path) -> None:
    cover = tmp_path / "cover.jpg"
    timed.ffmpeg("-i", str(timed.combined), "-frames:v", "1", str(cover))
    media = timed.make(
        "cover.m4a", "-i", str(cover), "-map", "1:a", "-map", "2:v", "-t", "30", *AAC, "-c:v", "mjpeg",
        "-disposition:v:0", "attached_pic",
    )  # fmt: skip
    failure = cut(media).failure
    assert failure is not None
    assert failure.outcome is Outcome.NO_VIDEO


def test_a_playlist_in_disguise_reaches_neither_network_nor_files(
    cut: Cut, timed: TimedMedia, tmp_path: Path
) -> None:
    """A hostile video must not make us fetch what only we can reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        inner = timed.make("inner.ts", "-t", "20", *X264, *AAC)
        for index, address in enumerate(
            (f"http://127.0.0.1:{server.getsockname()[1]}/x.ts", f"file://{inner}")
        ):
            disguised = tmp_path / f"disguised{index}.mp4"
            disguised.write_text(
                f"#EXTM3U\n#EXT-X-TARGETDURATION:20\n#EXTINF:20,\n{address}\n#EXT-X-ENDLIST\n"
            )
            failure = cut(disguised, start=0.0, end=10.0).failure
            assert failure is not None
            assert failure.outcome is Outcome.CORRUPT
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.05, 0.3])
def test_a_decoder_that_is_told_to_stop_gives_no_outcome(
    program: Program, relay: Relay, tmp_path: Path, number: signal.Signals, after_s: float
) -> None:
    """Whenever the signal comes: before ffmpeg listens, while it opens a source that is slow, or later."""
    stopped = threading.Event()

    def slow(url: str, headers: Mapping[str, str]) -> RangeResponse:
        stopped.wait(10)
        raise MediaError(Failure(Outcome.NETWORK, "nothing ever came"))

    def stop_decoders() -> None:
        while not (children := psutil.Process().children()):
            time.sleep(0.001)
        time.sleep(after_s)
        for child in children:
            child.send_signal(number)

    stream = MediaStream(url="http://127.0.0.1:9/x.mp4", carries=Carries.BOTH, container="mp4")
    segment = Segment(ytid="0123456789A", start=5.0, end=15.0, mids=(), split="eval")
    extractor = Extractor(program=program, profile=Profile(), names=lambda mids: [], relay=relay)
    stopper = threading.Thread(target=stop_decoders)
    stopper.start()
    with pytest.raises(Interrupted):
        extract(segment, Recording(streams=(stream,), open_url=slow), extractor, tmp_path)
    stopped.set()
    stopper.join()
