"""Real videos, odd ones among them: those with sound, picture and enough length become samples, no others."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, run

import numpy as np
import pytest
import simplejpeg
import soundfile
from ingestions import ENDS
from numpy.typing import NDArray

from pipeline.demo_site import DemoSite
from pipeline.ffmpeg import find_program
from shards.query import open_manifest, run_query
from shards.store import open_store
from shards.tar import read_samples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRICHORD_TEST_DATA" not in os.environ, reason="TRICHORD_TEST_DATA names no folder"),
]
Trichord = Callable[..., "CompletedProcess[str]"]
LONGEST_S = 10.0
ENOUGH = 0.95  # of the window, for a sample to be made
PICTURES = [f"{place}.jpg" for place in range(10)]


@dataclass(frozen=True)
class RealVideo:
    """A file, the window that is wanted, and whether the file is that window alone."""

    path: Path
    ytid: str
    start: float
    end: float
    cut: bool
    has_sound: bool

    @property
    def row(self) -> str:
        return f'{self.ytid}, {self.start:.3f}, {self.end:.3f}, "/m/0bt9lr"\n'


@pytest.fixture(scope="module")
def real_videos() -> list[RealVideo]:
    folder = Path(os.environ["TRICHORD_TEST_DATA"]) / "av"
    with (folder / "manifest.csv").open(newline="") as file:
        return [real_video(folder, number, row) for number, row in enumerate(csv.DictReader(file))]


def real_video(folder: Path, number: int, row: Mapping[str, str]) -> RealVideo:
    """Those of unknown origin get an id of our own, and the window that they begin with."""
    cut = bool(row["ytid"])
    return RealVideo(
        path=folder / row["file"],
        ytid=row["ytid"] or f"-real{number:05d}{ENDS[number % 16]}",
        start=float(row["start_seconds"] or 0),
        end=float(row["end_seconds"] or min(LONGEST_S, float(row["seconds"]))),
        cut=cut,
        has_sound=row["has_audio"] == "1",
    )


def arguments_for(videos: Sequence[RealVideo], tmp_path: Path, *more: object) -> list[str]:
    segments = tmp_path / "eval_segments.csv"
    segments.write_text("".join(video.row for video in videos))
    (tmp_path / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/0bt9lr,"Dog"\n')
    return ["ingest", "--segments", str(segments), "--out", str(tmp_path / "out"), *map(str, more)]


def outcomes(out: Path) -> dict[str, str]:
    answer = run_query(open_manifest(open_store(out)), "select ytid, outcome from segments")
    return {str(ytid): str(outcome) for ytid, outcome in answer.rows()}


def samples(out: Path) -> dict[str, Mapping[str, bytes]]:
    """id → members."""
    found = (sample for tar in sorted(out.glob("*.tar")) for sample in read_samples(tar))
    return {key.rpartition("_")[0]: members for key, members in found}


def check(videos: Sequence[RealVideo], out: Path) -> None:
    """The true outcome of each, and whole samples for those that are ok."""
    wanted = {video.ytid: "ok" if video.has_sound else "no_audio" for video in videos}
    assert outcomes(out) == wanted
    found = samples(out)
    assert set(found) == {ytid for ytid, outcome in wanted.items() if outcome == "ok"}
    for video in videos:
        if video.has_sound:
            check_sample(found[video.ytid], video)


def check_sample(members: Mapping[str, bytes], video: RealVideo) -> None:
    assert sorted(name for name in members if name.endswith(".jpg")) == PICTURES
    assert len({simplejpeg.decode_jpeg_header(members[name])[:2] for name in PICTURES}) == 1
    pcm, rate = sound_of(members)
    assert rate == 44_100
    assert ENOUGH <= len(pcm) / rate / (video.end - video.start) <= 1.0001
    if video.cut:
        check_it_is_the_window(pcm, members, video)


def check_it_is_the_window(pcm: NDArray[np.int16], members: Mapping[str, bytes], video: RealVideo) -> None:
    """The sound rises and falls as in the file itself, and the pictures are none of the padding's."""
    command = [find_program().path, "-v", "error", "-i", f"file:{video.path}", "-f", "s16le", "-ac", "1"]
    raw = run([*command, "-ar", "44100", "-"], check=True, capture_output=True).stdout
    mine, theirs = loudness(pcm), loudness(np.frombuffer(raw, np.int16))
    count = min(len(mine), len(theirs))
    assert np.corrcoef(mine[:count], theirs[:count])[0, 1] > 0.95
    bright = [simplejpeg.decode_jpeg(members[name], colorspace="GRAY").max() > 40 for name in PICTURES]
    assert sum(bright) >= 9, bright  # one of the videos begins in black


def loudness(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    """Root mean square of blocks of 50 ms."""
    blocks = pcm[: len(pcm) // 2205 * 2205].reshape(-1, 2205).astype(np.float64)
    return np.sqrt((blocks**2).mean(axis=1))


def sound_of(members: Mapping[str, bytes]) -> tuple[NDArray[np.int16], int]:
    pcm, rate = soundfile.read(io.BytesIO(members["flac"]), dtype="int16")
    return pcm, rate


def test_files_that_are_their_windows_are_told_and_ingested(
    real_videos: list[RealVideo], trichord: Trichord, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for video in real_videos:
        (media / f"Y{video.ytid}{video.path.suffix}").symlink_to(video.path)
    done = trichord(*arguments_for(real_videos, tmp_path, "--media", media), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    check(real_videos, tmp_path / "out")


def test_windows_are_found_within_whole_videos_of_a_site(
    real_videos: list[RealVideo], trichord: Trichord, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for video in real_videos:
        if video.cut:
            pad(video, whole / f"{video.ytid}.mp4")
        else:
            (whole / f"{video.ytid}{video.path.suffix}").symlink_to(video.path)
    with DemoSite(whole) as site:
        arguments = arguments_for(real_videos, tmp_path, "--url-template", site.url_template)
        done = trichord(*arguments, "--rate", "none", "--jobs", 4, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    check(real_videos, tmp_path / "out")


def pad(video: RealVideo, target: Path) -> None:
    """The cut window where it was in its video: before it black and silence, one frame a second."""
    source = (
        f"color=black:s=426x240:r=1:d={video.start}[black];anullsrc=r=44100:cl=stereo:d={video.start}[silence];"
        "[0:v]scale=426:240,setsar=1[picture];[black]setsar=1[before];"
        "[before][silence][picture][0:a]concat=n=2:v=1:a=1"
    )
    plain = ("-filter_complex", "[0:v]scale=426:240,setsar=1")
    arguments = ("-filter_complex", source) if video.start else plain
    coded = ("-fps_mode", "vfr", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-shortest")
    command = [find_program().path, "-v", "error", "-nostdin", "-i", f"file:{video.path}", *arguments, *coded]
    run([*command, "-movflags", "+faststart", str(target)], check=True)
