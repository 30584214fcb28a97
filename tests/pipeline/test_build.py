"""Shards from segments: what is published, what a killed worker leaves, what a full disk costs."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset
from timed_media import TimedMedia

from pipeline.attempt import Attempts, FreeMedia, Retries
from pipeline.build import Building, Stop, Stopped, build_shard
from pipeline.extract import Extractor
from pipeline.ffmpeg import Program
from pipeline.local_media import LocalMedia, MediaFolder, MediaKind
from pipeline.relay import Relay
from shards.ledger import Attempt, ShardRecord, read_attempts, read_record
from shards.outcome import Outcome
from shards.profile import Profile
from shards.segment import Segment
from shards.store import open_store
from shards.tar import read_members, read_samples

SHARD = "audioset-eval-000000"


class Counting:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def count(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)


Build = Callable[..., ShardRecord]


@pytest.fixture(scope="module")
def media(timed: TimedMedia, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight whole videos: six good ones, one without sound, one that is no video; a ninth is missing."""
    folder = tmp_path_factory.mktemp("media")
    for index in range(6):
        (folder / f"Y{ytid(index)}.mp4").symlink_to(timed.combined)
    silent = timed.make("silent.mp4", "-t", "30", "-c:v", "libx264", "-preset", "ultrafast", "-an")
    (folder / f"Y{ytid(6)}.mp4").symlink_to(silent)
    (folder / f"Y{ytid(7)}.mp4").write_text("<html>not found</html>")
    return folder


def ytid(index: int) -> str:
    return f"-video-{index:02d}_A"


@pytest.fixture
def segments() -> list[Segment]:
    return [
        Segment(ytid=ytid(i), start=3.0 * i, end=3.0 * i + 10, mids=("/m/0bt9lr",), split="eval")
        for i in range(9)
    ]


@pytest.fixture
def build(media: Path, program: Program) -> Iterator[Build]:
    with ThreadPoolExecutor(2) as pool:

        def build(
            out: Path, segments: list[Segment], progress: Counting | None = None, stop: Stop | None = None
        ) -> ShardRecord:
            source = FreeMedia(
                LocalMedia(folder=MediaFolder(media, "Y{ytid}.*"), kind=MediaKind.VIDEOS).resolve
            )
            extractor = Extractor(
                program=program, profile=Profile(), names=lambda mids: ["Dog" for _ in mids], relay=Relay()
            )
            building = Building(
                store=open_store(out),
                work=out / "_work",
                try_segment=Attempts(
                    source=source, extractor=extractor, retries=Retries(), run="test"
                ).try_segment,
                pool=pool,
                progress=progress or Counting(),
                stop=stop or Stop(),
                profile_hash=Profile().hash,
                run="test",
            )
            return build_shard(SHARD, segments, building)

        yield build


def test_a_shard_holds_what_its_ledger_says(build: Build, segments: list[Segment], tmp_path: Path) -> None:
    record = build(tmp_path, segments)
    assert record == read_record(tmp_path / f"{SHARD}.parquet")
    assert dict(record.outcomes) == {"ok": 6, "no_audio": 1, "corrupt": 1, "missing": 1}
    rows = read_attempts(tmp_path / f"{SHARD}.parquet")
    assert [row["key"] for row in rows] == [segment.key for segment in segments]
    good = [row["key"] for row in rows if row["outcome"] == Outcome.OK]
    assert [key for key, _ in read_samples(tmp_path / f"{SHARD}.tar")] == good
    assert not (tmp_path / "_work" / SHARD).exists()


def test_webdataset_reads_a_shard_as_it_is(build: Build, segments: list[Segment], tmp_path: Path) -> None:
    build(tmp_path, segments)
    samples = list(webdataset.WebDataset(str(tmp_path / f"{SHARD}.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [segment.key for segment in segments[:6]]
    facts = json.loads(samples[0]["json"])
    assert set(samples[0]) - {"__key__", "__url__", "__local_path__"} == {
        *(f"{index}.jpg" for index in range(10)), "flac", "jpg", "json", "txt",
    }  # fmt: skip
    assert samples[0]["jpg"] == samples[0]["5.jpg"]
    assert facts["tag"] == ["Dog"]
    assert set(facts["sha256"]) == set(samples[0]) - {"__key__", "__url__", "__local_path__", "json"}


def test_the_same_segments_give_the_same_bytes(build: Build, segments: list[Segment], tmp_path: Path) -> None:
    build(tmp_path / "first", segments)
    build(tmp_path / "second", segments)
    first, second = ((tmp_path / name / f"{SHARD}.tar").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_stopped_build_goes_on_where_it_was(build: Build, segments: list[Segment], tmp_path: Path) -> None:
    stop, seen = Stop(), Counting()

    class StopAfterThree(Counting):
        def count(self, attempt: Attempt) -> None:
            super().count(attempt)
            if len(self.attempts) == 3:
                stop.set(KeyboardInterrupt())

    halted = StopAfterThree()
    with pytest.raises(Stopped):
        build(tmp_path, segments, halted, stop)
    assert not (tmp_path / f"{SHARD}.parquet").exists()
    build(tmp_path, segments, seen)
    keys = [attempt.key for attempt in (*halted.attempts, *seen.attempts)]
    assert sorted(keys) == sorted(segment.key for segment in segments)
    build(tmp_path / "at_once", segments)
    assert (tmp_path / f"{SHARD}.tar").read_bytes() == (tmp_path / "at_once" / f"{SHARD}.tar").read_bytes()


def test_a_shard_of_failures_has_a_ledger_and_no_tar(
    build: Build, segments: list[Segment], tmp_path: Path
) -> None:
    record = build(tmp_path, segments[6:])
    assert record.samples == 0
    assert (tmp_path / f"{SHARD}.parquet").exists()
    assert not (tmp_path / f"{SHARD}.tar").exists()


def test_members_of_a_sample_lie_together(build: Build, segments: list[Segment], tmp_path: Path) -> None:
    build(tmp_path, segments)
    keys = [member.key for member in read_members(tmp_path / f"{SHARD}.tar")]
    changes = [key for index, key in enumerate(keys) if index == 0 or keys[index - 1] != key]
    assert len(changes) == len(set(keys))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_stops_cleanly_and_loses_nothing(
    build: Build, segments: list[Segment], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        with pytest.raises(Stopped, match="no room left"):
            build(disk, segments)
        kept = len(list((disk / "_work" / SHARD).glob("*.json")))
        assert 0 < kept < len(segments)
        assert not list(disk.glob("*.tar"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        seen = Counting()
        build(disk, segments, seen)
        assert len(seen.attempts) == len(segments) - kept
        build(tmp_path / "at_once", segments)
        assert (disk / f"{SHARD}.tar").read_bytes() == (tmp_path / "at_once" / f"{SHARD}.tar").read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
