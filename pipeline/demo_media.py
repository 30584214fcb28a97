"""The demo's media files: a video encoded from frames and sound, and the forms in which a site offers it."""

import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from pipeline.media import Carries, Delivery

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".m4a", ".mp3", ".ogg")
GROUP_S = 2.0  # seconds between key frames
CONSTANT = {"map_metadata": -1, "fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact"}


class EncodingError(Exception):
    """ffmpeg refused; the message is what it said."""


@cache
def ffmpeg_command() -> str:
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def run_ffmpeg(stream: Any, feed: Iterable[bytes] = ()) -> None:
    """Run a command built with ffmpeg-python, feeding its standard input; EncodingError when it fails."""
    command = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "error").overwrite_output()
    process = subprocess.Popen(
        command.compile(cmd=ffmpeg_command()),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        for piece in feed:
            process.stdin.write(piece)
    except BrokenPipeError:
        pass  # ffmpeg has ended; its words below say why
    _, said = process.communicate()
    if process.returncode:
        raise EncodingError(
            said.decode(errors="replace").strip() or f"ffmpeg exited with {process.returncode}"
        )


def encode_video(
    target: Path, frames: Iterable[bytes], sound: Path, *, size: tuple[int, int], frame_rate: float
) -> None:
    """Encode raw RGB frames of (width, height) and a sound file to H.264 and mono AAC in an MP4."""
    width, height = size
    picture = ffmpeg.input(
        "pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=frame_rate, threads=1
    )
    options = {"preset": "ultrafast", "crf": 26, "g": round(GROUP_S * frame_rate), "pix_fmt": "yuv420p"}
    _publish(
        target,
        lambda partial: run_ffmpeg(
            ffmpeg.output(
                picture.video,
                ffmpeg.input(str(sound)).audio,
                str(partial),
                vcodec="libx264",
                acodec="aac",
                aac_coder="fast",  # half of the encoding time otherwise
                ac=1,
                audio_bitrate="96k",
                movflags="+faststart",
                format="mp4",
                threads=1,
                **options,
                **CONSTANT,
            ),
            frames,
        ),
    )


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    partial = target.with_name(target.name + ".partial")
    write(partial)
    partial.replace(target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What ffmpeg says about a file. What it lacks is None."""

    duration: float | None  # seconds
    width: int | None
    height: int | None
    fps: float | None
    video_codec: str | None
    audio_codec: str | None
    sample_rate: int | None  # hertz


def probe(source: Path) -> Probe:
    """Read a file's header through ffmpeg (the bundled one comes without ffprobe)."""
    said = subprocess.run(
        [ffmpeg_command(), "-nostdin", "-hide_banner", "-i", str(source)], capture_output=True, check=False
    ).stderr.decode(errors="replace")
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
    video = re.search(r"Video: (\w+).*?, (\d+)x(\d+)(?:.*?, ([\d.]+) fps)?", said)
    audio = re.search(r"Audio: (\w+).*?(\d+) Hz", said)
    return Probe(
        duration=int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else None,
        width=int(video[2]) if video else None,
        height=int(video[3]) if video else None,
        fps=float(video[4]) if video and video[4] else None,
        video_codec=video[1] if video else None,
        audio_codec=audio[1] if audio else None,
        sample_rate=int(audio[2]) if audio else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendition:
    """One form of a video that the site offers, under YouTube's number for that form."""

    format_id: str
    suffix: str  # what follows `{ytid}.` in its URL
    carries: Carries
    delivery: Delivery = Delivery.FILE
    scale: float = 1.0  # of the source's height
    options: Mapping[str, Any] | None = None  # ffmpeg's output options; None: the source file itself
    video_codec: str = ""  # empty: the source's
    audio_codec: str = ""
    audio_kbps: float | None = None

    @property
    def extension(self) -> str:
        return "mp4" if self.delivery is not Delivery.FILE else self.suffix.rpartition(".")[2]


_VP9 = {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "crf": 40, "video_bitrate": 0, "g": 60}
_AVC = {"vcodec": "libx264", "preset": "ultrafast", "crf": 30, "g": 60, "pix_fmt": "yuv420p"}
_FAST = {"movflags": "+faststart"}

RENDITIONS = {
    rendition.format_id: rendition
    for rendition in (
        Rendition(
            format_id="18",
            suffix="mp4",
            carries=Carries.BOTH,
            audio_kbps=96,
        ),
        Rendition(
            format_id="160",
            suffix="v144.mp4",
            carries=Carries.VIDEO,
            scale=0.4,
            options=_AVC | _FAST,
            video_codec="avc1.42c00c",
        ),
        Rendition(
            format_id="242",
            suffix="v240.webm",
            carries=Carries.VIDEO,
            scale=2 / 3,
            options=_VP9,
            video_codec="vp9",
        ),
        Rendition(
            format_id="134",
            suffix="v360.mp4",
            carries=Carries.VIDEO,
            options={"vcodec": "copy"} | _FAST,
        ),
        Rendition(
            format_id="250",
            suffix="a64.webm",
            carries=Carries.AUDIO,
            options={"acodec": "libopus", "audio_bitrate": "64k"},
            audio_codec="opus",
            audio_kbps=64,
        ),
        Rendition(
            format_id="140",
            suffix="a128.m4a",
            carries=Carries.AUDIO,
            options={"acodec": "copy", "format": "mp4"} | _FAST,
            audio_kbps=128,
        ),
        Rendition(
            format_id="93",
            suffix="hls/index.m3u8",
            carries=Carries.BOTH,
            delivery=Delivery.HLS,
            options={"c": "copy", "format": "hls", "hls_time": GROUP_S, "hls_playlist_type": "vod"},
            audio_kbps=96,
        ),
        Rendition(
            format_id="dash-134",
            suffix="dash-134/manifest.mpd",
            carries=Carries.VIDEO,
            delivery=Delivery.FRAGMENTS,
            options={"vcodec": "copy", "format": "dash", "seg_duration": GROUP_S},
        ),
        Rendition(
            format_id="dash-140",
            suffix="dash-140/manifest.mpd",
            carries=Carries.AUDIO,
            delivery=Delivery.FRAGMENTS,
            options={"acodec": "copy", "format": "dash", "seg_duration": GROUP_S},
            audio_kbps=128,
        ),
    )
}
USUAL_FORMATS = ("160", "242", "134", "250", "140", "18")


class Renditions:
    """The forms of the videos in one folder: a form nobody has asked for yet is made when somebody does.

    A file `{ytid}.mp4` (or another of SUFFIXES) is the video. A file named like a form, `{ytid}.a128.m4a`, is
    served as that form. What is made lies in `folder/_renditions`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._making: dict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._probes: dict[Path, Probe] = {}

    def source(self, ytid: str) -> Path | None:
        """The video itself; None when there is none of that id."""
        candidates = (self.folder / f"{ytid}{suffix}" for suffix in SUFFIXES)
        return next((path for path in candidates if path.is_file()), None)

    def probe(self, source: Path) -> Probe:
        if source not in self._probes:
            self._probes[source] = probe(source)
        return self._probes[source]

    def offered(self, ytid: str, format_ids: Iterable[str]) -> list[Rendition]:
        """Those of the named forms that this video can have: no sound, no audio format."""
        source = self.source(ytid)
        if source is None:
            return []
        facts = self.probe(source)
        missing = {Carries.VIDEO} if facts.video_codec is None else set()
        missing |= {Carries.AUDIO} if facts.audio_codec is None else set()
        return [RENDITIONS[name] for name in format_ids if RENDITIONS[name].carries not in missing]

    def path(self, ytid: str, suffix: str) -> Path | None:
        """The file behind `/media/{ytid}.{suffix}`, made if need be; None when there can be none."""
        given = self.folder / f"{ytid}.{suffix}"
        if given.is_file():
            return given
        source = self.source(ytid)
        made = self.folder / "_renditions" / f"{ytid}.{suffix}"
        rendition = next((one for one in RENDITIONS.values() if _same_place(one.suffix, suffix)), None)
        if source is None or rendition is None or rendition.options is None:
            return None
        first = made.with_name(Path(rendition.suffix).name) if "/" in suffix else made
        with self._making[first]:  # two readers of a new form wait for one ffmpeg
            if not first.is_file():
                self._make(source, first, rendition)
        return made if made.is_file() else None

    def made(self, ytid: str, suffix: str) -> Path | None:
        """The file behind a form if it is there already."""
        places = (self.folder / f"{ytid}.{suffix}", self.folder / "_renditions" / f"{ytid}.{suffix}")
        return next((path for path in places if path.is_file()), None)

    def fragments(self, ytid: str, rendition: Rendition) -> list[tuple[str, float | None]]:
        """A DASH form's pieces as (name beside the manifest, seconds); the initialisation comes first."""
        manifest = self.path(ytid, rendition.suffix)
        if manifest is None:
            return []
        return _fragments(manifest.read_text(encoding="utf-8"))

    def _make(self, source: Path, target: Path, rendition: Rendition) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        media = ffmpeg.input(str(source), threads=1)
        options = {**(rendition.options or {}), "threads": 1}
        streams = {
            Carries.BOTH: [media.video, media.audio],
            Carries.VIDEO: [media.video],
            Carries.AUDIO: [media.audio],
        }[rendition.carries]
        if rendition.scale != 1.0:
            height = even((self.probe(source).height or 0) * rendition.scale)
            streams = [streams[0].filter("scale", -2, height)]
        if rendition.delivery is Delivery.FILE:
            options.setdefault("format", rendition.extension)
            _publish(target, lambda partial: run_ffmpeg(ffmpeg.output(*streams, str(partial), **options)))
        else:  # these muxers write their list of pieces last, under a temporary name
            run_ffmpeg(ffmpeg.output(*streams, str(target), **options))


def _same_place(ours: str, asked: str) -> bool:
    return ours == asked or ("/" in ours and ours.partition("/")[0] == asked.partition("/")[0])


def even(length: float) -> int:
    """The nearest even number: chroma is sampled at half the size."""
    return max(2, round(length / 2) * 2)


def _fragments(manifest: str) -> list[tuple[str, float | None]]:
    """Read ffmpeg's own DASH manifest: one representation, a template and a timeline."""
    scale = int(_attribute(manifest, "timescale"))
    durations = [
        int(piece[1]) / scale
        for piece in re.finditer(r'<S (?:t="\d+" )?d="(\d+)"(?: r="(\d+)")?', manifest)
        for _ in range(int(piece[2] or 0) + 1)
    ]
    names = [f"chunk-stream0-{number:05d}.m4s" for number in range(1, len(durations) + 1)]
    return [("init-stream0.m4s", None), *zip(names, durations, strict=True)]


def _attribute(text: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]+)"', text)
    if found is None:
        raise ValueError(f"no {name} in a DASH manifest that ffmpeg wrote: {text[:200]}")
    return found[1]
