"""Pictures of a video at moments of it, by the ffmpeg program."""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from shards.decode import find_ffmpeg

THREADS = 2  # of a decoder that is wanted for one picture: several of them run side by side
# that a container may be longer than its pictures: the last one's own time, and sound's padding
SLACK_S = 0.5
_WHOLE = re.compile(r"Duration: (\d+):(\d\d):(\d\d\.\d+)")
_LAST = re.compile(r"^out_time_us=(\d+)", re.MULTILINE)
# pixels square, as they are meant to be seen; an unknown aspect counts as 1
_SQUARE = "scale='max(1,round(iw*sar))':ih,setsar=1"


class VideoError(ValueError):
    """Pictures that do not decode."""


class NoPictures(VideoError):
    """A file that has none that move: a cover in a sound file is none."""


def picture_seconds(path: Path) -> float:
    """How long the pictures of a file last, its packets counted and nothing decoded.

    Raises NoPictures, and VideoError for what ffmpeg does not read.
    """
    done = _ffmpeg(path, "-map", "0:V:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-")
    log, last = done.stderr.decode("utf-8", "replace"), _LAST.findall(done.stdout.decode("ascii", "replace"))
    if done.returncode or not last:
        raise _failure(path, log)
    shown, whole = int(last[-1]) / 1e6, _WHOLE.search(log)
    if whole is None:
        return shown
    hours, minutes, seconds = whole.groups()
    named = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return named if 0 <= named - shown <= SLACK_S else shown


def stills(path: Path, moments: Iterable[float]) -> Iterator[bytes]:
    """What is on screen so many seconds into a video, upright and with square pixels, each as a PPM file.

    Where no picture follows a moment, it is the key frame before. Raises VideoError.
    """
    for moment in moments:
        yield _still(path, moment) or _still(path, moment, "-noaccurate_seek") or _nothing(path, moment)


def _still(path: Path, moment: float, *seek: str) -> bytes:
    """Nothing where the pictures end before."""
    first = ("-map", "0:V:0", "-frames:v", "1", "-vf", _SQUARE, "-c:v", "ppm", "-f", "image2pipe", "-")
    done = _ffmpeg(path, *first, before=("-threads", str(THREADS), *seek, "-ss", f"{moment:.6f}"))
    if done.returncode:
        raise _failure(path, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def _nothing(path: Path, moment: float) -> bytes:
    raise VideoError(f"{path} has no picture at {moment:.2f} s or before; expected one")


def _ffmpeg(path: Path, *after: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    program = find_ffmpeg()
    if program is None:
        raise VideoError(
            f"{path}: pictures of a video need ffmpeg: put one on PATH or install imageio-ffmpeg"
        )
    command = [program, "-hide_banner", "-nostdin", "-nostats", "-protocol_whitelist", "file,pipe"]
    return subprocess.run([*command, *before, "-i", f"file:{path}", *after], capture_output=True, check=False)


def _failure(path: Path, log: str) -> VideoError:
    if "matches no streams" in log:
        return NoPictures(f"{path} holds no moving pictures, sound at most")
    lines = log.strip().splitlines() or ["it gave no picture"]
    return VideoError(f"{path} is no video that ffmpeg reads: {lines[-1].strip()}")
