"""The demo's data set: videos of the events, and files about them in AudioSet's own formats."""

import io
import json
import wave
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.demo_behaviour import Behaviour
from pipeline.demo_events import BY_MID, EVENTS, WINDOW_S, Event, Scene, render_audio, render_frame, seed_of
from pipeline.demo_media import encode_video
from shards.segment import Segment

SIZE = (256, 192)  # pixels: width, height
FRAME_RATE = 12
SAMPLE_RATE = 44_100
SPLITS = ("balanced_train", "eval")
LAST_START = 24  # seconds
PAIRS = 0.2  # share of videos with two events

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST = "048AEIMQUYcgkosw"  # the last character of a video id carries four bits

# AudioSet's ontology above the events: (mid, name, restrictions, children). Bell and Tick have two parents.
_ABOVE: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("/m/0dgw9r", "Human sounds", ("abstract",), ("/m/01w250",)),
    ("/m/0jbk", "Animal", (), ("/m/068hy", "/m/01280g")),
    ("/m/068hy", "Domestic animals, pets", (), ("/m/0bt9lr",)),
    ("/m/01280g", "Wild animals", (), ("/m/015p6",)),
    ("/m/04rlf", "Music", (), ("/m/04szw",)),
    ("/m/04szw", "Musical instrument", (), ("/m/0395lw", "/m/0l14md")),
    ("/m/0l14md", "Percussion", (), ("/m/026t6",)),
    ("/m/059j3w", "Natural sounds", ("blacklist",), ("/m/0838f", "/m/0jb2l")),
    ("/m/0838f", "Water", (), ("/m/06mb1",)),
    ("/m/0jb2l", "Thunderstorm", (), ("/m/0ngt1",)),
    (
        "/t/dd00041",
        "Sounds of things",
        ("blacklist",),
        ("/m/0395lw", "/m/07pp_mv", "/m/02mk9", "/t/dd00077", "/t/dd00133"),
    ),
    ("/m/07pp_mv", "Alarm", (), ("/m/03kmc9", "/m/07cx4")),
    ("/m/07cx4", "Telephone", (), ("/m/07pp8cl",)),
    ("/t/dd00077", "Mechanisms", (), ("/m/01x3z",)),
    ("/m/01x3z", "Clock", (), ("/m/07qjznt",)),
    ("/t/dd00133", "Specific impact sounds", ("abstract",), ("/m/018w8",)),
    ("/t/dd00098", "Source-ambiguous sounds", ("abstract",), ("/m/05n1m",)),
    ("/m/05n1m", "Onomatopoeia", ("abstract",), ("/m/07qc9xj",)),
    ("/m/07qc9xj", "Clicking", (), ("/m/07qjznt",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoVideo:
    """A segment and the video around it: outside the window there are only a test card and a hum."""

    segment: Segment
    length: float  # seconds

    @property
    def scene(self) -> Scene:
        events = tuple(BY_MID[mid] for mid in self.segment.mids)
        return Scene(events=events, seed=seed_of(self.segment.ytid), seconds=self.segment.duration)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoDataset:
    """What lies where."""

    folder: Path
    videos: tuple[DemoVideo, ...]

    @property
    def media(self) -> Path:
        return self.folder / "videos"

    @property
    def labels(self) -> Path:
        return self.folder / "class_labels_indices.csv"

    @property
    def ontology(self) -> Path:
        return self.folder / "ontology.json"

    def segments(self, split: str) -> Path:
        return self.folder / f"{split}_segments.csv"


def write_demo_dataset(folder: Path, *, count: int = 96, seed: int = 0, jobs: int = 2) -> DemoDataset:
    """Draw `count` videos, a third of them for `eval`; write the files about them and render them.

    The same count and seed give the same files; a video that is there already is kept.
    """
    dataset = DemoDataset(folder=folder, videos=tuple(draw_videos(count, seed)))
    dataset.media.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        chosen = [video.segment for video in dataset.videos if video.segment.split == split]
        _write(dataset.segments(split), segments_csv(chosen))
    _write(dataset.labels, labels_csv())
    _write(dataset.ontology, json.dumps(ontology(), indent=2) + "\n")
    with ThreadPoolExecutor(jobs) as pool:  # drawing here, encoding in one ffmpeg each
        for _ in pool.map(lambda video: render_video(video, dataset.media), dataset.videos):
            pass
    return dataset


def some_troubles(dataset: DemoDataset) -> dict[str, Behaviour]:
    """A few of the videos, and what a real site would do with them: some are gone, some only seem so."""
    kinds = (
        Behaviour(page_status=404),
        Behaviour(media_status=403, first=1),
        Behaviour(page_status=410, reason="This video has been removed by the uploader"),
        Behaviour(disconnect_after=30_000, first=1),
        Behaviour(page_status=429, first=2, retry_after_s=1),
        Behaviour(kept_share=0.4),
        Behaviour(page_status=403, reason="Private video"),
        Behaviour(html_as_media=True),
    )
    step = max(1, len(dataset.videos) // (len(kinds) + 1))
    chosen = dataset.videos[step // 2 :: step]
    return {video.segment.ytid: kind for video, kind in zip(chosen, kinds, strict=False)}


def draw_videos(count: int, seed: int) -> Iterator[DemoVideo]:
    """Decide on every video; nothing is rendered."""
    rng = np.random.default_rng([seed, count])
    taken: set[str] = set()
    for number in range(count):
        ytid = _draw_ytid(rng, first={0: "-", 1: "_"}.get(number))
        while ytid in taken:
            ytid = _draw_ytid(rng)
        taken.add(ytid)
        start = float(rng.integers(0, LAST_START + 1)) if number % 8 else 0.0
        segment = Segment(
            ytid=ytid,
            start=start,
            end=start + WINDOW_S,
            mids=tuple(event.mid for event in _draw_events(number, rng)),
            split=SPLITS[(number + number // len(EVENTS)) % 3 == 2],  # each class meets both,
        )
        yield DemoVideo(segment=segment, length=segment.end + float(rng.integers(1, 6)))


def _draw_events(number: int, rng: np.random.Generator) -> tuple[Event, ...]:
    """Each class in turn, now and then with another one beside it."""
    event = EVENTS[number % len(EVENTS)]
    if rng.random() >= PAIRS:
        return (event,)
    others = [other for other in EVENTS if other is not event]
    return event, others[int(rng.integers(len(others)))]


def _draw_ytid(rng: np.random.Generator, first: str | None = None) -> str:
    drawn = "".join(_ALPHABET[index] for index in rng.integers(0, len(_ALPHABET), 10))
    return (first or drawn[0]) + drawn[1:] + _LAST[int(rng.integers(len(_LAST)))]


def segments_csv(segments: Iterable[Segment]) -> str:
    """A segments file as AudioSet's own: three comment lines, a blank after each comma, labels in quotes."""
    rows = sorted(segments, key=lambda segment: segment.ytid)
    labels = [mid for row in rows for mid in row.mids]
    lines = [
        "# Segments csv created for Trichord's demo",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
        *(f'{row.ytid}, {row.start:.3f}, {row.end:.3f}, "{",".join(sorted(row.mids))}"' for row in rows),
    ]
    return "\n".join(lines) + "\n"


def labels_csv() -> str:
    """The classes that may be labels, numbered, as class_labels_indices.csv lists them."""
    names = [(mid, name) for mid, name, restrictions, _ in _ABOVE if not restrictions]
    names += [(event.mid, event.name) for event in EVENTS]
    rows = (f'{index},{mid},"{name}"' for index, (mid, name) in enumerate(names))
    return "\n".join(["index,mid,display_name", *rows]) + "\n"


def ontology() -> list[dict[str, object]]:
    """The events and what is above them, as ontology.json lists nodes."""
    nodes = [(mid, name, restrictions, children) for mid, name, restrictions, children in _ABOVE]
    nodes += [(event.mid, event.name, (), ()) for event in EVENTS]
    return [
        {
            "id": mid,
            "name": name,
            "description": "",
            "citation_uri": "",
            "positive_examples": [],
            "child_ids": list(children),
            "restrictions": list(restrictions),
        }
        for mid, name, restrictions, children in nodes
    ]


def render_video(video: DemoVideo, folder: Path) -> Path:
    """The video's file in `folder`, encoded now unless it is there."""
    target = folder / f"{video.segment.ytid}.mp4"
    if target.exists():
        return target
    sound = target.with_suffix(".wav.partial")
    sound.write_bytes(_wave(_sound(video)))
    try:
        encode_video(target, _frames(video), sound, size=SIZE, frame_rate=FRAME_RATE)
    finally:
        sound.unlink()
    return target


def _frames(video: DemoVideo) -> Iterator[bytes]:
    """Raw RGB frames of the whole video."""
    card = _test_card().tobytes()
    segment = video.segment
    for number in range(round(video.length * FRAME_RATE)):
        t = number / FRAME_RATE
        if segment.start <= t < segment.end:
            yield render_frame(video.scene, t - segment.start, SIZE).tobytes()
        else:
            yield card


def _test_card() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Seven grey bars: nothing that a window may show."""
    width, height = SIZE
    bars = np.linspace(40, 215, 7).astype(np.uint8)[np.arange(width) * 7 // width]
    return np.repeat(np.repeat(bars[None, :, None], height, axis=0), 3, axis=2)


def _sound(video: DemoVideo) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(T,) sound of the whole video: a quiet 100 Hz hum, and the scene in its window."""
    count = round(video.length * SAMPLE_RATE)
    period = np.sin(2 * np.pi * np.arange(SAMPLE_RATE // 100) / (SAMPLE_RATE // 100)).astype(np.float32)
    sound = np.resize(0.02 * period, count)
    start = round(video.segment.start * SAMPLE_RATE)
    scene = render_audio(video.scene, SAMPLE_RATE)
    sound[start : start + len(scene)] = scene
    return sound


def _wave(sound: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return content.getvalue()


def _write(target: Path, text: str) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
