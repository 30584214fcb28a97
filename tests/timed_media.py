"""Media that tell their own time: frames that show their number, sound that can be found in its source."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import soundfile
from numpy.typing import NDArray

from pipeline.extract import Extraction
from pipeline.ffmpeg import Program
from shards.sound import decode_pcm

FPS = 25
RATE = 44_100
SECONDS = 72
BITS = 12  # of the frame number, one 8×16 block each, above its complement
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-g", "125", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-b:a", "128k")


@dataclass(frozen=True)
class TimedMedia:
    """A video whose frame k shows k in black and white blocks, and whose sound is one long noise."""

    folder: Path
    program: Program
    sound: NDArray[np.int16]

    @property
    def combined(self) -> Path:
        return self.folder / "combined.mp4"

    def make(self, name: str, *arguments: str) -> Path:
        """Another form of the media, by ffmpeg arguments after its two raw inputs."""
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            self.ffmpeg(*self._raw(), *arguments, str(target))
        return target

    def _raw(self) -> list[str]:
        size = f"{8 * BITS}x64"
        video = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", size, "-r", str(FPS)]
        return [*video, "-i", str(self.folder / "video.raw"), "-i", str(self.folder / "sound.wav")]

    def ffmpeg(self, *arguments: str) -> None:
        subprocess.run([self.program.path, "-v", "error", "-nostdin", "-y", *arguments], check=True)

    def frame_number(self, jpeg: bytes) -> int:
        """The number that a frame shows; fails when blocks and complement disagree."""
        picture = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[..., 0].astype(float)
        height, width = picture.shape
        columns = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
        ones = [picture[height // 4, column] > 128 for column in columns]
        zeros = [picture[3 * height // 4, column] > 128 for column in columns]
        assert all(one != zero for one, zero in zip(ones, zeros, strict=True)), "not a numbered frame"
        return sum(1 << bit for bit, one in enumerate(ones) if one)

    def sound_offset(self, pcm: NDArray[np.int16], start: float, search: float = 0.5) -> float:
        """By how many seconds a window's sound is later than it should be, found within ± `search`.

        The window's beginning and its end must agree on it.
        """
        length = round(1.5 * RATE)
        first = self._offset(pcm[:length], start, search)
        last = self._offset(pcm[-length:], start + (len(pcm) - length) / RATE, search)
        assert abs(first - last) < 0.001, f"{first:.4f} s at the window's beginning, {last:.4f} s at its end"
        return first

    def _offset(self, pcm: NDArray[np.int16], start: float, search: float) -> float:
        margin = round(search * RATE)
        at = round(start * RATE)
        before = max(0, margin - at)  # samples of silence ahead of the sound
        part = np.pad(
            self.sound[max(0, at - margin) : at + len(pcm) + margin].astype(np.float32), (before, 0)
        )
        size = 1 << (len(part) + len(pcm)).bit_length()
        spectrum = np.conj(np.fft.rfft(pcm.astype(np.float32), size))
        match = np.fft.irfft(np.fft.rfft(part, size) * spectrum, size)[: len(part)]
        lag = int(np.argmax(match))
        assert match[lag] > 10 * match.std(), f"the sound is not within {search} s of its place"
        return (lag - margin) / RATE


def assert_aligned(
    timed: TimedMedia,
    extraction: Extraction,
    start: float,
    *,
    interval: float = 1 / FPS,
    priming: float = 0.002,
) -> None:
    """Sound where it should be, and ten numbered frames within one interval of their times on its clock.

    `priming` is how much later the sound may be: containers without edit lists keep the encoder's delay.
    """
    assert extraction.failure is None, extraction.failure
    sample = extraction.sample
    assert sample is not None
    assert len(sample.frames) == 10
    pcm, rate = decode_pcm(sample.audio)
    assert len(pcm) == 10 * rate
    lag = timed.sound_offset(pcm[:, 0], start)
    assert abs(lag) < priming
    for index, (frame, said) in enumerate(zip(sample.frames, extraction.facts["frame_times"], strict=True)):
        shown = timed.frame_number(frame) / FPS - start - lag
        assert abs(shown - (index + 0.5)) <= interval + 1e-3, f"frame {index} is of {shown:.3f} s"
        assert abs(shown - said) < 0.5 / FPS + abs(lag), (
            f"frame {index} is of {shown:.3f} s, recorded {said:.3f}"
        )


def make_timed_media(folder: Path, program: Program) -> TimedMedia:
    """The media, as a combined MP4 with its index in front; other forms by `make`."""
    dice = np.random.default_rng(7)
    sound = (dice.standard_normal(SECONDS * RATE) * 3000).astype(np.int16)
    soundfile.write(folder / "sound.wav", sound, RATE)
    numbers = np.arange(SECONDS * FPS)
    bits = (numbers[:, None] >> np.arange(BITS)) & 1
    rows = np.stack([bits, 1 - bits], axis=1).astype(np.uint8) * 255  # (frames, 2, BITS)
    rows.repeat(32, axis=1).repeat(8, axis=2).tofile(folder / "video.raw")
    media = TimedMedia(folder=folder, program=program, sound=sound)
    media.make("combined.mp4", *X264, *AAC, "-movflags", "+faststart")
    return media
