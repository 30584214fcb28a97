"""The ffmpeg program: which one, how its command lines are built, and how a run of it ends."""

import functools
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from pipeline.relay import between
from pipeline.window import HLS_PREROLL_S, Window
from shards.profile import Profile

MINIMUM = (
    6,
    1,
)  # -stats_enc_pre, which tells the chosen frames' true times, came with 6.0 and settled in 6.1
BLOCK = 4608  # samples per FLAC frame: the encoder's own choice at 44.1 kHz
# Bytes of the first range request (the index should fit) and of each further one: a third or so of ten
# seconds at 360 lines. Smaller ones fetch less beyond the window, at a millisecond of CPU each.
COMBINED_REQUESTS = (128 << 10, 256 << 10)
PICTURE_REQUESTS = (64 << 10, 192 << 10)
SOUND_REQUESTS = (64 << 10, 128 << 10)
_READ_TIMEOUT_S = 600  # the relay answers sooner, with the upstream's failure
# A hostile file can name others: local media may not reach the network, remote media no file of ours, and
# what is not announced as a playlist is not read as one.
_LOCAL = "file,crypto,data"
_REMOTE = "http,tcp,crypto,data"
_FORMATS = (
    "mov,mp4,matroska,webm,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,avi,asf,ogg,wav,w64,aiff,caf,flac,mp3,aac,"
    "amr,ac3,eac3,dts,rm,ivf,mxf,nut,3gp,dv,gif"
)


class FfmpegError(Exception):
    """There is no ffmpeg that can do the work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a run ended. `returncode` is None for one that was killed at its deadline."""

    returncode: int | None
    log: str
    cpu_s: float
    wall_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """An ffmpeg binary that has been looked at."""

    path: str
    version: str
    request_size: bool  # reads http by bounded requests (since 8.0)

    @property
    def label(self) -> str:
        return f"ffmpeg {self.version}"


@functools.cache
def find_program(wanted: str | None = None) -> Program:
    """The bundled ffmpeg, or the one that `wanted` names; FfmpegError when it is missing or too old."""
    path = shutil.which(wanted) if wanted else imageio_ffmpeg.get_ffmpeg_exe()
    if path is None:
        raise FfmpegError(f"no program {wanted!r}; expected a path or a name on PATH, or leave --ffmpeg out")
    version = _version(path)
    if version < MINIMUM:
        found = ".".join(map(str, version))
        raise FfmpegError(
            f"{path} is ffmpeg {found}; expected {MINIMUM[0]}.{MINIMUM[1]} or newer, or leave --ffmpeg out"
        )
    return Program(path=path, version=".".join(map(str, version)), request_size=version >= (8, 0))


def _version(path: str) -> tuple[int, ...]:
    try:
        text = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise FfmpegError(f"{path} does not run ({error}); expected an ffmpeg program") from None
    if match := re.match(r"ffmpeg version n?(\d+(?:\.\d+)*)", text):
        return tuple(int(part) for part in match[1].split("."))
    if re.match(r"ffmpeg version (N-|git)", text):
        return (99,)  # a build of the day
    raise FfmpegError(f"{path} answers {text[:60]!r} to -version; expected 'ffmpeg version …'")


SOUND_TIMES = "sound.times"
FRAME_TIMES = "frames.times"


def one_pass(
    program: Program, window: Window, profile: Profile, folder: Path, *, hdr: bool = False
) -> list[str]:
    """One process, one decode: the window's sound and frames into `folder`, with the true times of both."""
    sound = _input(program, window.sound, window)
    outputs = [_sound_output(sound, window, profile, folder)]
    if window.picture is not None:
        picture = sound if window.picture == window.sound else _input(program, window.picture, window)
        outputs.append(_frames_output(picture, window, profile, folder, hdr=hdr))
    # or the first times after a seek would move the clock
    clock = ("-copyts", "-start_at_zero") if window.from_first else ()
    command = ffmpeg.merge_outputs(*outputs).global_args(
        "-hide_banner", "-nostdin", "-nostats", "-filter_threads", "1", *clock
    )
    arguments = list(map(str, command.overwrite_output().compile(cmd=program.path)))
    return _in_step(arguments, sound) if window.one_clock and len(outputs) > 1 else arguments


def _in_step(arguments: list[str], reference: Any) -> list[str]:
    """The picture's input to keep its distance from the sound's: not to count from its own first packet."""
    inputs = [at for at, argument in enumerate(arguments) if argument == "-i"]
    of_sound = next(
        n for n, at in enumerate(inputs) if arguments[at + 1] == reference.node.kwargs["filename"]
    )
    for number, at in enumerate(inputs):
        if number != of_sound:
            return [*arguments[:at], "-isync", str(of_sound), *arguments[at:]]
    return arguments


def _input(program: Program, source: str, window: Window) -> Any:
    remote = source.startswith("http://")
    playlist = remote and source.endswith(".m3u8")
    begin = window.start - window.preroll
    until = window.start + window.duration
    if window.one_clock and window.picture != window.sound:
        until += HLS_PREROLL_S  # a picture that begins before the sound is further behind at the end
    options: dict[str, Any] = {
        "threads": 1,  # many processes run side by side; more threads in each cost 5–10 % CPU
        "t": f"{until - begin:.6f}",
        "protocol_whitelist": _REMOTE if remote else _LOCAL,
        "format_whitelist": f"{_FORMATS},hls,applehttp,webvtt" if playlist else _FORMATS,
    }
    if begin > 0:  # a seek to 0 lands behind an encoder's priming, and takes the first block for it
        options["ss"] = f"{begin:.6f}"
    if not window.from_first:
        options["seek_timestamp"] = 1  # -ss counts on the media's clock, not from its first packet
    if not remote:
        return ffmpeg.input(f"file:{source}", **options)
    options |= _playlist_options(program) if playlist else _file_options(program, source, window)
    options["rw_timeout"] = _READ_TIMEOUT_S * 1_000_000
    # as far again, for a key frame ahead of where the seek aims
    return ffmpeg.input(between(source, max(0.0, begin - window.preroll), until), **options)


def _playlist_options(program: Program) -> dict[str, Any]:
    """The relay's addresses end as the upstream's do; the segment after this may lie beyond the window."""
    return {"extension_picky": 0, "http_multiple": 0} if program.request_size else {}


def _file_options(program: Program, source: str, window: Window) -> dict[str, Any]:
    if not program.request_size:
        return {}
    first, further = _request_sizes(source, window)
    return {"multiple_requests": 1, "initial_request_size": first, "request_size": further}


def _request_sizes(source: str, window: Window) -> tuple[int, int]:
    if window.picture == window.sound:
        return COMBINED_REQUESTS
    return SOUND_REQUESTS if source == window.sound else PICTURE_REQUESTS


def _sound_output(source: Any, window: Window, profile: Profile, folder: Path) -> Any:
    chain = (
        *_from_window("a", window),
        # a late start and gaps become silence
        f"aresample={profile.sample_rate}:async=1:first_pts=0"
        f":osf=s16:ochl={'mono' if profile.channels == 1 else 'stereo'}",
        f"atrim=end_sample={round(window.duration * profile.sample_rate)}",
        f"asetnsamples={BLOCK}:p=0",  # a seek can leave a first block too small for the FLAC encoder: regroup
    )
    return source["a:0"].output(
        str(folder / f"sound.{profile.audio_codec}"),
        af=",".join(chain),
        **{"c:a": {"flac": "flac", "wav": "pcm_s16le"}[profile.audio_codec]},
        **_timed("a", folder / SOUND_TIMES, "{t} {ti} {samp}"),
        **_exact("a"),
    )


def _frames_output(source: Any, window: Window, profile: Profile, folder: Path, *, hdr: bool) -> Any:
    part = window.duration / window.frames
    half = profile.short_side // 2
    chain = (
        *_from_window("", window),
        # each tick takes the last frame shown by then: a still picture repeats, a variable rate is right
        f"fps=1000000/{round(part * 1e6)}:start_time={part / 2:.6f}:round=up",
        *(_TONE_MAPPED if hdr else ()),
        # square pixels; the matrix and range that JPEG means
        f"scale='2*round({half}*max(1,iw*sar/ih))':'2*round({half}*max(1,ih/(iw*sar)))'"
        ":out_color_matrix=bt601:out_range=pc",
        "setsar=1",
        "format=yuv420p",
    )
    return source["V:0"].output(
        str(folder / "%d.jpg"),
        vf=",".join(chain),
        start_number=0,
        fps_mode="passthrough",
        **{"frames:v": window.frames, "q:v": profile.jpeg_quality},
        **_timed("v", folder / FRAME_TIMES, "{ti}"),
        **_exact("v"),
    )


def _from_window(kind: str, window: Window) -> tuple[str, ...]:
    """Filters that drop the preroll; `kind` is "a" for sound, "" for pictures."""
    if not window.origin:
        return ()
    cut = f"{window.origin:.6f}"
    # a picture that began before the window may still be shown in it: one second's worth is kept
    begin = cut if kind else f"{max(0.0, window.origin - 1):.6f}"
    return f"{kind}trim=start={begin}", f"{kind}setpts=PTS-{cut}/TB"


_TONE_MAPPED = (
    "zscale=t=linear:npl=100",
    "format=gbrpf32le",
    "zscale=p=bt709",
    "tonemap=hable:desat=0",
    "zscale=t=bt709:m=bt709:r=tv",
    "format=yuv420p",
)


def _timed(kind: str, target: Path, pattern: str) -> dict[str, str]:
    return {f"stats_enc_pre:{kind}": str(target), f"stats_enc_pre_fmt:{kind}": pattern}


def _exact(kind: str) -> dict[str, str]:
    """No versions and no dates in the files: equal media give equal bytes."""
    return {"fflags": "+bitexact", f"flags:{kind}": "+bitexact", "map_metadata": "-1", "threads": "1"}


def run(command: Sequence[str], timeout_s: float) -> Ended:
    """Run to the end or the deadline; the process's own CPU time is measured and its log kept."""
    begun = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            log = _read_until(process, begun + timeout_s)
        except BaseException:
            process.kill()
            raise
        if log is None:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        returncode=None if log is None else process.returncode,
        log=(log or b"").decode("utf-8", "replace"),
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.monotonic() - begun,
    )


def _read_until(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """All that the process writes to its log; None when the deadline passes first."""
    assert process.stderr is not None
    pieces: list[bytes] = []
    with selectors.DefaultSelector() as ready:
        ready.register(process.stderr, selectors.EVENT_READ)
        while ready.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(process.stderr.fileno(), 1 << 16)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
    return None
