"""The demo's media files: how they are encoded, and what is in one."""

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from pipeline.ffmpeg import find_program

GROUP_S = 2.0  # seconds between key frames
_REPEATABLE = {"map_metadata": -1, "fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact"}


class EncodingError(Exception):
    """ffmpeg refused; the message is what it said."""


def ffmpeg_command() -> str:
    return find_program().path


def encode_video(
    target: Path, frames: Iterable[bytes], sound: Path, *, size: tuple[int, int], frame_rate: float
) -> None:
    """Encode raw RGB frames of (width, height) and a sound file to H.264 and mono AAC in an MP4."""
    width, height = size
    picture = ffmpeg.input(
        "pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=frame_rate, threads=1
    )
    options = {"preset": "ultrafast", "crf": 26, "g": round(GROUP_S * frame_rate), "pix_fmt": "yuv420p"}
    publish(
        target,
        lambda partial: _run(
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
                **_REPEATABLE,
            ),
            frames,
        ),
    )


def convert(
    source: Path, target: Path, *, video: bool, audio: bool, height: int | None, options: dict[str, Any]
) -> None:
    """Write the source's picture, sound or both in another form; `height` None keeps the size."""
    media = ffmpeg.input(str(source), threads=1)
    picture = media.video if height is None else media.video.filter("scale", -2, height)
    streams = [*([picture] if video else []), *([media.audio] if audio else [])]
    publish(target, lambda partial: _run(ffmpeg.output(*streams, str(partial), threads=1, **options)))


def convert_in_place(
    source: Path, target: Path, *, video: bool, audio: bool, options: dict[str, Any]
) -> None:
    """A form of many files: its muxer writes the list of them, `target`, last and renames it itself."""
    media = ffmpeg.input(str(source), threads=1)
    streams = [*([media.video] if video else []), *([media.audio] if audio else [])]
    _run(ffmpeg.output(*streams, str(target), threads=1, **options))


def publish(target: Path, write: Callable[[Path], None]) -> None:
    partial = target.with_name(target.name + ".partial")
    write(partial)
    partial.replace(target)


def _run(stream: Any, feed: Iterable[bytes] = ()) -> None:
    """Run a command built with ffmpeg-python, feeding its standard input; EncodingError when it fails."""
    command = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "error").overwrite_output()
    with subprocess.Popen(
        command.compile(cmd=ffmpeg_command()), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            _feed(process, feed)
            _, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        words = said.decode(errors="replace").strip()
        raise EncodingError(words or f"ffmpeg exited with {process.returncode}")


def _feed(process: subprocess.Popen[bytes], feed: Iterable[bytes]) -> None:
    assert process.stdin is not None
    try:
        for piece in feed:
            process.stdin.write(piece)
    except BrokenPipeError:
        pass  # ffmpeg has ended; its own words say why


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
