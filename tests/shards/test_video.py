"""Pictures of videos that the real program made: their moments, their shape, and where there are none."""

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from shards.decode import find_ffmpeg
from shards.video import NoPictures, VideoError, picture_seconds, stills

COLOURS = ("red", "lime", "blue")


def made(target: Path, *options: str) -> Path:
    program = find_ffmpeg()
    assert program is not None
    subprocess.run([program, "-loglevel", "error", "-y", *options, target], check=True)
    return target


def film(target: Path, *options: str, rate: int = 10) -> Path:
    """Three seconds of red, three of green, three of blue; a key frame at the beginning alone."""
    colours = [f"color={name}:s=64x48:r={rate}:d=3[{name}]" for name in COLOURS]
    graph = f"{';'.join(colours)};{''.join(f'[{name}]' for name in COLOURS)}concat=n=3"
    return made(target, "-filter_complex", graph, *options, "-pix_fmt", "yuv420p", "-g", "999")


def colour(picture: bytes) -> str:
    with PIL.Image.open(BytesIO(picture)) as opened:
        return COLOURS[int(np.asarray(opened).mean(axis=(0, 1)).argmax())]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_stills_are_of_their_moments(tmp_path: Path, suffix: str) -> None:
    path = film(tmp_path / f"film{suffix}")

    assert picture_seconds(path) == pytest.approx(9, abs=0.2)
    assert [colour(still) for still in stills(path, [0, 2.5, 3.5, 7.5])] == ["red", "red", "lime", "blue"]


def test_a_moment_after_the_last_picture_has_one(tmp_path: Path) -> None:
    path = made(tmp_path / "slide.mp4", "-f", "lavfi", "-i", "color=blue:s=64x48:r=1/60:d=60")

    assert [colour(still) for still in stills(path, [30.0])] == ["blue"]


def test_pixels_become_square(tmp_path: Path) -> None:
    path = made(tmp_path / "wide.mp4", "-f", "lavfi", "-i", "color=red:s=64x48:d=1,setsar=2")

    with PIL.Image.open(BytesIO(next(stills(path, [0.5])))) as picture:
        assert picture.size == (128, 48)


def test_a_sound_file_has_no_pictures_even_with_a_cover(tmp_path: Path) -> None:
    cover = made(tmp_path / "cover.png", "-f", "lavfi", "-i", "color=red:s=64x48", "-frames:v", "1")
    inputs = ("-f", "lavfi", "-i", "sine=duration=1", "-i", str(cover))
    copied = ("-c:v", "copy", "-disposition:v", "attached_pic")
    path = made(tmp_path / "song.m4a", *inputs, "-map", "0", "-map", "1", *copied)

    with pytest.raises(NoPictures, match="sound at most"):
        picture_seconds(path)


@pytest.mark.parametrize("content", [b"", b"words, not a film\n" * 99, None])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "words.mp4"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(VideoError, match=r"words\.mp4 is no video that ffmpeg reads"):
        picture_seconds(path)
