import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.decode import decode_sound, find_ffmpeg, open_sound
from shards.sound import SoundError

RATE = 22_050
TIME = np.arange(2 * RATE) / RATE
STEREO = np.stack([0.5 * np.sin(2 * np.pi * 440 * TIME), 0.25 * np.sin(2 * np.pi * 660 * TIME)], axis=1)


def encoded(folder: Path, suffix: str, *options: str) -> Path:
    """The two tones, made into another format by the real program."""
    wav, target = folder / "tones.wav", folder / f"tones{suffix}"
    soundfile.write(wav, STEREO, RATE, subtype="FLOAT")
    program = find_ffmpeg()
    assert program is not None
    subprocess.run([program, "-loglevel", "error", "-y", "-i", wav, *options, target], check=True)
    return target


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".aiff"])
def test_what_soundfile_reads_keeps_rate_channels_and_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tones{suffix}"
    soundfile.write(path, STEREO, RATE)
    samples, rate = decode_sound(path)
    assert rate == RATE
    assert samples.dtype == np.float32
    assert samples.shape == (len(TIME), 2)
    assert np.corrcoef(samples[:, 1], STEREO[:, 1])[0, 1] > 0.999


@pytest.mark.parametrize("suffix", [".m4a", ".mka", ".wma"])
def test_what_only_ffmpeg_reads_keeps_rate_and_channels(tmp_path: Path, suffix: str) -> None:
    samples, rate = decode_sound(encoded(tmp_path, suffix))
    assert rate == RATE
    assert samples.shape[1] == 2
    assert abs(len(samples) - len(TIME)) < 4096  # a codec's own padding
    spectrum = np.abs(np.fft.rfft(samples[:RATE, 1]))
    assert int(spectrum.argmax()) == 660


def test_the_sound_of_a_video_is_heard(tmp_path: Path) -> None:
    video = encoded(tmp_path, ".mp4", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=2")
    assert decode_sound(video)[0].shape[1] == 2


def test_int16_samples_become_their_share_of_full_scale(tmp_path: Path) -> None:
    path = tmp_path / "edges.wav"
    soundfile.write(path, np.array([-32768, 0, 16384, 32767], np.int16), 8000)
    assert decode_sound(path)[0][:, 0].tolist() == [-1.0, 0.0, 0.5, 32767 / 32768]


def test_a_long_file_comes_in_blocks_and_may_be_left_early(tmp_path: Path) -> None:
    path = tmp_path / "long.m4a"
    program = find_ffmpeg()
    assert program is not None
    sine = "sine=frequency=300:sample_rate=44100:duration=120"
    subprocess.run([program, "-loglevel", "error", "-f", "lavfi", "-i", sine, path], check=True)
    stream = open_sound(path)
    first = next(stream.blocks)
    assert len(first) < 10 * 44_100
    stream.blocks.close()  # type: ignore[attr-defined]  # a generator: ends the program behind it


def test_a_wav_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, STEREO, RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:40_000])
    samples, _ = decode_sound(path)
    assert len(samples) == (40_000 - 44) // 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("words.mp3", b"these are words, not sound\n" * 50, "neither sound nor video"),
        ("headerless.raw", b"\0" * 1000, "holds no sound"),
        ("missing.wav", None, "is no file"),
    ],
)
def test_what_is_no_sound_is_named_with_a_reason(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SoundError, match=message):
        decode_sound(path)


def test_a_video_without_sound_is_told_from_a_broken_one(tmp_path: Path) -> None:
    program, path = find_ffmpeg(), tmp_path / "mute.mp4"
    assert program is not None
    source = "testsrc=size=64x64:rate=5:duration=1"
    subprocess.run([program, "-loglevel", "error", "-f", "lavfi", "-i", source, path], check=True)
    with pytest.raises(SoundError, match="pictures at most"):
        decode_sound(path)


def test_an_m4a_that_lost_its_end_is_an_error(tmp_path: Path) -> None:
    path = encoded(tmp_path, ".m4a")
    path.write_bytes(path.read_bytes()[:8000])  # the index, which lies at the end, is gone
    with pytest.raises(SoundError, match=r"cut\.m4a|tones\.m4a"):
        decode_sound(path)


def test_a_flac_that_was_cut_off_says_where(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((2 * RATE, 1)), RATE)
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(SoundError, match=r"breaks off after 0\.[1-9]"):
        decode_sound(path)
