"""The demo's events agree in sound and picture, differ between videos, and become a data set."""

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.demo_behaviour import Behaviour
from pipeline.demo_events import EVENTS, Event, Scene, onsets, render_audio, render_frame, seed_of
from pipeline.demo_media import ffmpeg_command
from pipeline.demo_videos import (
    FRAME_RATE,
    SIZE,
    DemoDataset,
    DemoVideo,
    draw_videos,
    render_video,
    some_troubles,
    write_demo_dataset,
)
from shards.segment import Segment, is_ytid

RATE = 16_000
SMALL = (128, 96)
STRUCK = [event for event in EVENTS if event.rhythm.__name__ != "none"]

each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)


def scene(event: Event, seed: int = 5) -> Scene:
    return Scene(events=(event,), seed=seed, seconds=4.0)


def pictures(scene: Scene, frames: int = 24) -> NDArray[np.float64]:
    """(frames, H, W, 3)"""
    times = np.linspace(0, scene.seconds, frames, endpoint=False)
    return np.stack([render_frame(scene, float(t), SMALL) for t in times]).astype(float)


def decoded(video: Path, *options: str) -> bytes:
    command = [ffmpeg_command(), "-nostdin", "-loglevel", "error", "-i", str(video), *options, "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@each_event
def test_the_same_scene_gives_the_same_sound_and_picture(event: Event) -> None:
    assert np.array_equal(render_audio(scene(event), RATE), render_audio(scene(event), RATE))
    assert np.array_equal(render_frame(scene(event), 1.5, SMALL), render_frame(scene(event), 1.5, SMALL))


@each_event
def test_another_seed_looks_and_sounds_different(event: Event) -> None:
    one, other = scene(event, 5), scene(event, 6)
    assert np.abs(render_audio(one, RATE) - render_audio(other, RATE)).mean() > 0.005
    assert np.abs(pictures(one, 4) - pictures(other, 4)).mean() > 5


@each_event
def test_an_event_is_heard_and_moves(event: Event) -> None:
    sound = render_audio(scene(event), RATE)
    assert sound.shape == (4 * RATE,)
    assert sound.dtype == np.float32
    assert 0.3 < np.abs(sound).max() <= 1
    assert np.abs(np.diff(pictures(scene(event)), axis=0)).max() > 60


def heard(scene: Scene) -> NDArray[np.float64]:
    """How loud twenty-odd bands are, how much that varies, and how fast."""
    sound = render_audio(scene, RATE)
    frames = sound[: len(sound) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    edges = np.unique(np.geomspace(1, 256, 25).astype(int))
    bands = np.array_split(np.abs(np.fft.rfft(frames)) ** 2, edges, axis=1)
    levels = np.log10(np.stack([band.sum(1) for band in bands], axis=1) + 1e-4)
    speed = np.abs(np.diff(levels, axis=0)).mean(0)
    return np.concatenate([*np.quantile(levels, [0.1, 0.5, 0.9, 1], axis=0), speed])


def seen(scene: Scene) -> NDArray[np.float64]:
    """What eight small pictures have in common, and in what they differ."""
    shown = np.stack([render_frame(scene, float(t), (32, 24)) for t in np.linspace(0.2, 3.8, 8)]) / 255
    return np.concatenate([shown.mean(0).ravel(), shown.std(0).ravel()])


@pytest.mark.parametrize("sense", [heard, seen])
def test_a_linear_model_learns_the_classes(sense: Callable[[Scene], NDArray[np.float64]]) -> None:
    """Ridge regression on seven videos of each class tells three unseen ones of each: chance is 0.08."""
    found = np.array([[sense(scene(event, 1000 * seed + 7)) for seed in range(10)] for event in EVENTS])
    found = (found - found.mean((0, 1))) / (found.std((0, 1)) + 1e-3)
    size, classes = found.shape[-1], len(EVENTS)
    known, unseen = found[:, :7].reshape(-1, size), found[:, 7:].reshape(-1, size)
    wanted = np.eye(classes)[np.repeat(np.arange(classes), 7)]
    weights = np.linalg.solve(known @ known.T + 0.3 * size * np.eye(len(known)), wanted)
    guessed = (unseen @ known.T @ weights).argmax(1)
    assert (guessed == np.repeat(np.arange(classes), 3)).mean() > 0.8


@pytest.mark.parametrize("event", STRUCK, ids=lambda event: event.name)
def test_the_loudness_jumps_where_the_picture_does(event: Event) -> None:
    chosen = scene(event, 11)
    first = onsets(chosen)[0][0]
    sound = render_audio(chosen, RATE)
    before = sound[max(0, round((first - 0.1) * RATE)) : round(first * RATE)]
    after = sound[round(first * RATE) : round((first + 0.1) * RATE)]
    assert np.sqrt(np.mean(after**2)) > 4 * np.sqrt(np.mean(before**2))
    waiting = render_frame(chosen, first - 1e-3, SMALL).astype(float)
    struck = render_frame(chosen, first + 0.05, SMALL).astype(float)
    assert np.abs(struck - waiting).max() > 50


def test_two_events_share_one_picture() -> None:
    dog, bell = EVENTS[0], EVENTS[1]
    both = Scene(events=(dog, bell), seed=3)
    assert len(onsets(both)) == 2
    left, right = np.split(np.diff(pictures(both, 30), axis=0), 2, axis=2)
    assert min(np.abs(left).max(), np.abs(right).max()) > 60


def test_a_seed_follows_from_the_id_alone() -> None:
    assert seed_of("-abcdefgh0A") == 132900608191343
    assert seed_of("-abcdefgh0A") != seed_of("-abcdefgh0E")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return write_demo_dataset(tmp_path_factory.mktemp("demo"), count=6, seed=1)


def test_the_segments_are_in_audiosets_format(dataset: DemoDataset) -> None:
    row = re.compile(r'[\w-]{11}, \d+\.000, \d+\.000, "/[mt]/\w+(,/[mt]/\w+)*"')
    for split in ("balanced_train", "eval"):
        lines = dataset.segments(split).read_text().splitlines()
        assert [line[0] for line in lines[:3]] == ["#"] * 3
        assert len(lines) > 3
        assert all(row.fullmatch(line) for line in lines[3:])
        assert f"num_segs={len(lines) - 3}," in lines[1]


def test_the_ids_have_youtubes_form_and_one_starts_with_a_dash(dataset: DemoDataset) -> None:
    ids = [video.segment.ytid for video in dataset.videos]
    assert all(map(is_ytid, ids))
    assert len(set(ids)) == 6
    assert any(ytid.startswith("-") for ytid in ids)


def test_every_label_is_listed_and_in_the_ontology(dataset: DemoDataset) -> None:
    with dataset.labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    names = {row["mid"]: row["display_name"] for row in rows}
    nodes = {node["id"]: node for node in json.loads(dataset.ontology.read_text())}
    for event in EVENTS:
        assert names[event.mid] == nodes[event.mid]["name"] == event.name
    children = {child for node in nodes.values() for child in node["child_ids"]}
    assert children <= set(nodes)
    assert sum("/m/0395lw" in node["child_ids"] for node in nodes.values()) == 2  # a graph, no tree


def test_only_the_window_shows_the_events(dataset: DemoDataset) -> None:
    video = max(dataset.videos, key=lambda video: video.segment.start)
    raw = decoded(dataset.media / f"{video.segment.ytid}.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24")
    shown = np.frombuffer(raw, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3).astype(int)
    assert len(shown) == round(video.length * FRAME_RATE)
    start, end = (round(at * FRAME_RATE) for at in (video.segment.start, video.segment.end))
    colourful = (shown.max(-1) - shown.min(-1)).max(axis=(1, 2)) > 40
    assert colourful[start:end].all()
    assert not colourful[:start].any()
    assert not colourful[end:].any()


def test_a_flash_and_its_thunder_are_encoded_within_one_frame(tmp_path: Path) -> None:
    thunder = next(event for event in EVENTS if event.name == "Thunder")
    segment = Segment(ytid="abcdefghij0", start=3.0, end=13.0, mids=(thunder.mid,), split="eval")
    path = render_video(DemoVideo(segment=segment, length=14.0), tmp_path)
    gray = np.frombuffer(decoded(path, "-f", "rawvideo", "-pix_fmt", "gray"), np.uint8)
    brightness = gray.reshape(-1, SIZE[0] * SIZE[1]).mean(1)[3 * FRAME_RATE : 13 * FRAME_RATE]
    lit = (np.diff(brightness).argmax() + 1) / FRAME_RATE
    sound = np.frombuffer(decoded(path, "-f", "s16le", "-ac", "1", "-ar", "16000"), "<i2")
    power = (sound[: len(sound) // 160 * 160].reshape(-1, 160).astype(float) ** 2).mean(1)
    near = power[round(100 * (3 + lit - 0.3)) : round(100 * (3 + lit + 0.3))]
    struck = lit - 0.3 + np.diff(near).argmax() / 100
    assert abs(struck - lit) <= 1 / FRAME_RATE + 0.02


def test_writing_again_keeps_what_is_there_and_repairs_what_is_not(tmp_path: Path) -> None:
    first = write_demo_dataset(tmp_path, count=2)
    kept, lost = (first.media / f"{video.segment.ytid}.mp4" for video in first.videos)
    content, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert write_demo_dataset(tmp_path, count=2) == first
    assert kept.stat().st_mtime_ns == stamp
    assert lost.read_bytes() == content
    assert not list(tmp_path.rglob("*.partial"))


def test_some_videos_are_in_trouble_and_most_are_not() -> None:
    videos = tuple(draw_videos(60, 0))
    troubles = some_troubles(DemoDataset(folder=Path("unused"), videos=videos))
    assert {behaviour.page_status for behaviour in troubles.values()} >= {403, 404, 410, 429}
    assert len(troubles) == len(set(troubles.values())) == 8
    assert Behaviour() not in troubles.values()
