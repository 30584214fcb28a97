"""The forms in which the demo's site offers a video: separate streams, smaller ones, playlists, fragments."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.demo_media import GROUP_S, Probe, convert, convert_in_place, probe
from pipeline.media import Carries, Delivery

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".m4a", ".mp3", ".ogg")


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
        options = dict(rendition.options or {})
        carried = {
            "video": rendition.carries is not Carries.AUDIO,
            "audio": rendition.carries is not Carries.VIDEO,
        }
        if rendition.delivery is not Delivery.FILE:
            return convert_in_place(source, target, **carried, options=options)
        options.setdefault("format", rendition.extension)
        full = self.probe(source).height or 0
        height = None if rendition.scale == 1.0 else even(full * rendition.scale)
        convert(source, target, **carried, height=height, options=options)


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
