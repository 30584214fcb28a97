"""Sound at another sample rate: ffmpeg's soxr, at the precision that its authors call very high quality."""

import errno
from pathlib import Path

import numpy as np

from pipeline.decoding import Interrupted
from pipeline.ffmpeg import FfmpegError, Program, run
from pipeline.sound_file import Samples

TIMEOUT_S = 600.0
_STOPPED = (None, 255)  # at the deadline, or by a signal that ffmpeg caught


def resample(samples: Samples, rate: int, wanted: int, program: Program, scratch: Path) -> Samples:
    """(T, C) at `rate` Hz as (ceil(T·wanted/rate), C) at `wanted` Hz, no channel mixed with another.

    Files live in `scratch` meanwhile. Raises Interrupted when ffmpeg is told to stop.
    """
    source, target = scratch / "sound.in", scratch / "sound.out"
    source.write_bytes(np.ascontiguousarray(samples, dtype="<f8").data)
    channels = samples.shape[1]
    command = [
        *(program.path, "-hide_banner", "-nostdin", "-nostats", "-y", "-threads", "1"),
        *("-protocol_whitelist", "file", "-f", "f64le", "-ar", str(rate), "-ac", str(channels)),
        *("-i", f"file:{source}", "-af", f"aresample={wanted}:resampler=soxr:precision=28:osf=dbl"),
        *("-f", "f64le", str(target)),
    ]
    ended = run(command, TIMEOUT_S)
    if ended.returncode != 0:
        raise _failure(ended.returncode, ended.log, program)
    found: Samples = np.fromfile(target, "<f8").reshape(-1, channels)
    return _of_length(found, -(-len(samples) * wanted // rate))


def _failure(returncode: int | None, log: str, program: Program) -> Exception:
    if "No space left on device" in log:
        return OSError(errno.ENOSPC, "ffmpeg found no room")
    if returncode in _STOPPED or (returncode or 0) < 0:
        return Interrupted("ffmpeg was told to stop while it resampled")
    last = (log.strip().splitlines() or [""])[-1]
    return FfmpegError(f"{program.path} cannot resample with soxr ({last}); leave --ffmpeg out")


def _of_length(samples: Samples, length: int) -> Samples:
    """soxr ends a sample early or late at some rates."""
    missing = max(0, length - len(samples))
    return np.pad(samples[:length], ((0, missing), (0, 0)))
