"""What one ffmpeg run decoded: streams and durations from its log, true times from its timestamps."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ffmpeg import FRAME_TIMES, SOUND_TIMES
from pipeline.window import Window

_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_INPUT = re.compile(r"^Input #\d+, ([^\n]*?), from '", re.MULTILINE)
_STREAM = re.compile(r"^  Stream #\d+:\d+[^\n:]*?: (Video|Audio): ([^\n]*)$", re.MULTILINE)
_OUTPUTS = re.compile(r"^(Stream mapping:|Output #0)", re.MULTILINE)
_SIZE = re.compile(r", (\d{1,5})x(\d{1,5})(?: \[SAR (\d+):(\d+))?")
_FPS = re.compile(r", ([\d.]+)(k?) fps")
_ROTATION = re.compile(
    r"^ +(?:Display Matrix|displaymatrix): rotation of (-?[\d.]+) degrees", re.MULTILINE | re.I
)
_RATE = re.compile(r", (\d+) Hz, ([^,]+)")
_LAYOUTS = {
    "mono": 1,
    "stereo": 2,
    "2.1": 3,
    "3.0": 3,
    "quad": 4,
    "4.0": 4,
    "5.0": 5,
    "5.1": 6,
    "6.1": 7,
    "7.1": 8,
}
_HDR = ("smpte2084", "arib-std-b67")
_BROKEN = re.compile(
    r"partial file|Packet corrupt|Stream ends prematurely|Truncat|moov atom not found|Invalid NAL unit size",
    re.I,
)


_ABSURD = 1e6  # seconds; what ffmpeg prints for a time it does not know lies far beyond


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts:
    """What the inputs say of themselves; None where they say nothing."""

    container: str | None = None
    duration: float | None = None  # seconds; the shortest input's
    video_codec: str | None = None
    width: int | None = None  # as stored, before rotation and pixel aspect
    height: int | None = None
    fps: float | None = None
    rotation: int | None = None  # degrees
    hdr: bool = False
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    broken: bool = False  # the log complains of missing or damaged data

    @property
    def opened(self) -> bool:
        return self.container is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Which part of the window a stream really covers, in seconds from the window's start."""

    begin: float
    end: float
    covered: float  # without the holes that were filled with silence

    def shared(self, other: "Span") -> "Span":
        begin, end = max(self.begin, other.begin), min(self.end, other.end)
        return Span(begin=begin, end=end, covered=min(self.covered, other.covered, max(0.0, end - begin)))


NOTHING = Span(begin=0.0, end=0.0, covered=0.0)


def read_log(log: str) -> SourceFacts:
    """The facts ffmpeg prints of its inputs. What files say of themselves never starts a line as these do."""
    inputs = _OUTPUTS.split(log, maxsplit=1)[0]
    streams = {kind: line for kind, line in reversed(_STREAM.findall(inputs)) if "(attached pic)" not in line}
    video, audio = streams.get("Video"), streams.get("Audio")
    durations = [int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in _DURATION.findall(inputs)]
    rotation = _ROTATION.search(inputs)
    container = _INPUT.search(inputs)
    return SourceFacts(
        container=container[1] if container else None,
        duration=min(durations, default=None),
        rotation=round(float(rotation[1])) if rotation and video else None,
        broken=_BROKEN.search(log) is not None,
        **(_video_facts(video) if video else {}),
        **(_audio_facts(audio) if audio else {}),
    )


def _video_facts(line: str) -> dict[str, Any]:
    size, fps = _SIZE.search(line), _FPS.search(line)
    return {
        "video_codec": line.split(" ", 1)[0].rstrip(","),
        "width": int(size[1]) if size else None,
        "height": int(size[2]) if size else None,
        "fps": float(fps[1]) * (1000 if fps[2] else 1) if fps else None,
        "hdr": any(transfer in line for transfer in _HDR),
    }


def _audio_facts(line: str) -> dict[str, Any]:
    rate = _RATE.search(line)
    return {
        "audio_codec": line.split(" ", 1)[0].rstrip(","),
        "sample_rate": int(rate[1]) if rate else None,
        "channels": _channels(rate[2]) if rate else None,
    }


def _channels(layout: str) -> int | None:
    if match := re.match(r"(\d+) channels", layout):
        return int(match[1])
    return _LAYOUTS.get(re.sub(r"\(.*\)", "", layout).strip())


def read_frame_times(folder: Path, window: Window, fps: float | None) -> tuple[float, ...]:
    """The decoder's own time of each frame written, in seconds from the window's start.

    Old containers (AVI) carry no presentation times; their frames come at a constant rate.
    """
    times = [float(line) - window.origin for line in _lines(folder / FRAME_TIMES)]
    return tuple(
        time if abs(time) < _ABSURD else _shown_at(tick, window, fps) for tick, time in enumerate(times)
    )


def _shown_at(tick: int, window: Window, fps: float | None) -> float:
    """When a constant rate's frame begins that is shown at a tick."""
    wanted = window.duration / window.frames * (tick + 0.5)
    return math.floor((window.start + wanted) * fps + 1e-6) / fps - window.start if fps else wanted


def read_sound_span(folder: Path, window: Window, sample_rate: int) -> Span:
    """What was decoded of the sound. Blocks of silence that ffmpeg made up carry no time of their own."""
    parts: list[tuple[float, float]] = []
    begins: float | None = None  # where the sound after a hole really begins, if known
    hole = True
    for at, own, samples in (map(float, line.split()) for line in _lines(folder / SOUND_TIMES)):
        end, own = at + samples / sample_rate, own - window.origin
        if math.isnan(own):
            hole = True
        elif own >= end:  # silence, but it carries the time of the first sound after it
            begins, hole = own, True
        else:
            after_hole = begins if begins is not None else own
            parts.append((max(0.0, after_hole) if hole else at, end))
            begins, hole = None, False
    covered = sum(end - begin for begin, end in parts)
    return Span(begin=parts[0][0], end=parts[-1][1], covered=covered) if parts else NOTHING


def frames_span(times: Sequence[float], wanted: int, duration: float, fps: float | None) -> Span:
    """What was decoded of the picture: frames come one tick apart, the first perhaps for missing ones."""
    if not times:
        return NOTHING
    interval = 1 / fps if fps else 0.0
    begin = max(0.0, times[0] - interval)
    begin = 0.0 if begin <= duration / wanted / 2 else begin
    end = duration * (1.0 if len(times) == wanted else (len(times) - 0.5) / wanted)
    return Span(begin=begin, end=end, covered=max(0.0, end - begin))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
