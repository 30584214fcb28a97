"""Sound files of every kind as float samples, block by block: by soundfile, else by the ffmpeg program."""

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
from numpy.typing import NDArray

from shards.sound import NoSound, SoundError

Samples = NDArray[np.float32]

BLOCK = 1 << 18  # frames per block: six seconds at 44.1 kHz, so an hour needs no more memory than a minute
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the data, its size, encoding, sample rate, channels


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundStream:
    """A sound being decoded. `blocks` can be read once; each is (frames, channels) in [-1, 1]."""

    sample_rate: int  # Hz
    channels: int
    blocks: Iterator[Samples]


def open_sound(path: Path) -> SoundStream:
    """Begin to decode any file with sound in it, pictures or not, at its own rate and with all its channels.

    Raises SoundError for what neither soundfile nor ffmpeg reads; so do the blocks, where a file breaks off.
    """
    if not path.is_file():
        raise SoundError(f"{path} is no file; expected a sound or video file")
    if path.stat().st_size == 0:
        raise SoundError(f"{path} is empty; expected a sound or video file")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that means headerless samples
        return _by_ffmpeg(path, reason=str(error).removesuffix("."))
    return SoundStream(sample_rate=file.samplerate, channels=file.channels, blocks=_blocks(path, file))


def decode_sound(path: Path) -> tuple[Samples, int]:
    """((frames, channels) float32, sample rate in Hz) of a whole file. Raises SoundError."""
    stream = open_sound(path)
    blocks = list(stream.blocks)
    empty = np.zeros((0, stream.channels), np.float32)
    return np.concatenate(blocks) if blocks else empty, stream.sample_rate


def decode_span(path: Path, start: float, end: float) -> tuple[Samples, int]:
    """As `decode_sound`, of the seconds from `start` to `end`: what lies before is decoded and let go."""
    stream = open_sound(path)
    first, last = round(start * stream.sample_rate), round(end * stream.sample_rate)
    kept, begins = [np.zeros((0, stream.channels), np.float32)], 0
    for block in stream.blocks:
        kept.append(block[max(0, first - begins) : max(0, last - begins)])
        begins += len(block)
        if begins >= last:
            break
    return np.concatenate(kept), stream.sample_rate


def _blocks(path: Path, file: soundfile.SoundFile) -> Iterator[Samples]:
    with file:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield block
        except soundfile.LibsndfileError as error:
            at = file.tell() / file.samplerate
            raise SoundError(f"{path} breaks off after {at:.2f} s: {error}") from None


def _by_ffmpeg(path: Path, *, reason: str) -> SoundStream:
    """ffmpeg's float samples through a pipe, as AU: the format whose header need not know the length."""
    program = find_ffmpeg()
    if program is None:
        raise SoundError(
            f"{path}: {reason}; other formats need ffmpeg: put one on PATH or install imageio-ffmpeg"
        )
    log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `_piped`, which outlives this call
    command = [program, "-hide_banner", "-nostdin", "-loglevel", "error", "-protocol_whitelist", "file"]
    command += ["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    header = process.stdout.read(_AU_HEADER.size)
    if len(header) < _AU_HEADER.size:
        raise _failure(path, process, log)
    _, offset, _, _, sample_rate, channels = _AU_HEADER.unpack(header)
    process.stdout.read(offset - _AU_HEADER.size)
    return SoundStream(
        sample_rate=sample_rate, channels=channels, blocks=_piped(path, process, log, channels)
    )


def _piped(path: Path, process: subprocess.Popen[bytes], log: IO[bytes], channels: int) -> Iterator[Samples]:
    assert process.stdout is not None
    try:
        while data := process.stdout.read(BLOCK * channels * 4):
            yield np.frombuffer(data, ">f4").astype(np.float32).reshape(-1, channels)
        if process.wait():
            raise _failure(path, process, log)
    finally:  # also when the reader has heard enough
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


def _failure(path: Path, process: subprocess.Popen[bytes], log: IO[bytes]) -> SoundError:
    process.wait()
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines() or ["it gave no sound"]
    if "matches no streams" in " ".join(lines):
        return NoSound(f"{path} holds no sound, pictures at most")
    return SoundError(f"{path} is neither sound nor video that ffmpeg reads: {lines[-1].strip()}")


@functools.cache
def find_ffmpeg() -> str | None:
    """The ffmpeg program on PATH, or the one in imageio-ffmpeg's distribution; None without either."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        files = metadata.files("imageio-ffmpeg") or []
    except metadata.PackageNotFoundError:
        return None
    programs = (Path(str(file.locate())) for file in files if file.name.startswith("ffmpeg-"))
    return next((str(program) for program in programs if os.access(program, os.X_OK)), None)
