"""A small dataset of real shards, made by the project's own writers: its classes can be heard and seen."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import soundfile
from ledgered_dataset import CLASSES, attempt
from numpy.typing import NDArray

from shards.labels import ClassLabel, Labels, write_labels
from shards.layout import DATASET, LABELS, ledger_name, shard_name, tar_name
from shards.ledger import Attempt, ShardRecord, write_ledger
from shards.outcome import Outcome
from shards.profile import Dataset, Profile
from shards.sample import Sample
from shards.segment import Segment
from shards.store import Store, open_store
from shards.tar import TarFacts, entries, write_tar

LAST = "048AEIMQUYcgkosw"  # what a YouTube id may end with


def shard_folder(
    path: str | Path,
    samples_per_shard: Sequence[int] = (7, 5, 9),
    *,
    seconds: float = 1.0,
    sample_rate: int = 44_100,
    channels: int = 1,
    codec: str = "wav",
    classes: Sequence[ClassLabel] = CLASSES,
    frames: int = 3,
    side: int = 64,
    split: str = "balanced_train",
    seed: int = 0,
    failures: int = 1,
) -> Store:
    """Write a dataset at `path`, a folder or `s3://…`, or one more split of it; the store it lies in.

    Sample n has class n modulo the number of classes, and every fourth the next one too. Each shard's ledger
    also tells of `failures` segments that gave no sample. Frames are `side` high and half as wide again.
    """
    store = open_store(path)
    profile = Profile(
        frames=frames, short_side=side, sample_rate=sample_rate, channels=channels, audio_codec=codec
    )
    _begin(store, profile, Labels.of(classes), split)
    first = 0
    for index, samples in enumerate(samples_per_shard):
        numbers = range(first, first + samples)
        _write_shard(
            store, shard_name(split, index), numbers, profile, classes, split, seed, seconds, failures
        )
        first += samples
    return store


def segment_of(number: int, classes: Sequence[ClassLabel], split: str, seed: int) -> Segment:
    """Ten seconds of a video whose id follows from the split, the seed and the number."""
    digest = hashlib.sha256(f"{split} {seed} {number}".encode()).hexdigest()
    chosen = [classes[number % len(classes)]]
    if number % 4 == 3:
        chosen.append(classes[(number + 1) % len(classes)])
    mids = tuple(dict.fromkeys(label.mid for label in chosen))
    return Segment(ytid=digest[:10] + LAST[number % 16], start=30.0, end=40.0, mids=mids, split=split)


def sound_of(number: int, mids: Sequence[str], rate: int, seconds: float, channels: int) -> NDArray[np.int16]:
    """(T, C): for each class a tone of its own pitch with an overtone, in noise that differs by sample."""
    random = np.random.default_rng(number)
    time = np.arange(round(seconds * rate)) / rate
    tones = np.zeros((len(time), channels))
    for mid in mids:
        pitch = 150 * 2 ** (_number_of(mid, 64) / 12)
        phase = random.uniform(0, 6.28, channels)
        tones += np.sin(6.2832 * pitch * time[:, None] + phase) + 0.3 * np.sin(18.85 * pitch * time[:, None])
    mixed = 0.2 * tones / len(mids) + 0.02 * random.standard_normal(tones.shape)
    return np.round(mixed.clip(-1, 1) * 32_767).astype(np.int16)


def picture_of(number: int, mids: Sequence[str], side: int) -> NDArray[np.uint8]:
    """(side, 1.5 side, 3): the classes' mean colour, with stripes whose width and place differ by sample."""
    random = np.random.default_rng(number)
    colours = [[_number_of(mid + channel, 200) for channel in "rgb"] for mid in mids]
    across = np.arange(side * 3 // 2)
    stripes = 40 * np.sin(across / random.uniform(2, 8) + random.uniform(0, 6))
    picture = np.mean(colours, axis=0) + stripes[None, :, None] + random.uniform(0, 15, (side, 1, 3))
    return np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))


def _number_of(text: str, below: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % below


def _begin(store: Store, profile: Profile, labels: Labels, split: str) -> None:
    table = io.BytesIO()
    write_labels(table, labels)
    store.publish_bytes(table.getvalue(), LABELS)
    begun = (
        Dataset.from_json(store.read_bytes(DATASET)) if store.exists(DATASET) else Dataset(profile=profile)
    )
    begun = replace(begun, splits={**begun.splits, split: hashlib.sha256(split.encode()).hexdigest()})
    store.publish_bytes(begun.to_json(), DATASET, replace=True)


def _write_shard(
    store: Store,
    shard: str,
    numbers: range,
    profile: Profile,
    classes: Sequence[ClassLabel],
    split: str,
    seed: int,
    seconds: float,
    failures: int,
) -> None:
    segments = [segment_of(number, classes, split, seed) for number in numbers]
    numbers_lost = range(-numbers.start - failures, -numbers.start)
    lost = [
        _attempt(segment_of(number, classes, split, seed), Outcome.PRIVATE, shard=shard)
        for number in numbers_lost
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = list(_made(folder, segments, numbers, profile, classes, seconds))
        facts = write_tar((part for part, _ in made), folder / tar_name(shard))
        attempts = [replace(row, shard=shard) for _, row in made]
        attempts[1:1] = lost  # among them, so that a row's place in the ledger is not its place in the tar
        write_ledger(folder / ledger_name(shard), attempts, _record(shard, split, attempts, facts, profile))
        if facts.samples:
            store.publish(folder / tar_name(shard), tar_name(shard))
        store.publish(folder / ledger_name(shard), ledger_name(shard))


def _made(
    folder: Path,
    segments: Sequence[Segment],
    numbers: range,
    profile: Profile,
    classes: Sequence[ClassLabel],
    seconds: float,
) -> Iterator[tuple[Path, Attempt]]:
    """Each sample's part of the tar, and its row."""
    names = Labels.of(classes)
    for number, of in zip(numbers, segments, strict=True):
        pcm = sound_of(number, of.mids, profile.sample_rate, seconds, profile.channels)
        # a ledger's facts, cut down to what a made-up sample has
        facts: dict[str, Any] = {
            "audio_s": seconds,
            "sample_rate": profile.sample_rate,
            "channels": profile.channels,
            "frame_times": tuple((frame + 0.5) * seconds / profile.frames for frame in range(profile.frames)),
            "pcm_sha256": hashlib.sha256(pcm.tobytes()).hexdigest(),
        }
        text = ", ".join(names.names(of.mids))
        content = entries(
            Sample(
                key=of.key,
                audio=_encoded(pcm, profile),
                audio_codec=profile.audio_codec,
                frames=_frames(number, of, profile),
                text=text,
                facts={"key": of.key, "split": of.split, "text": text, "mids": of.mids, **facts},
            )
        )
        part = folder / f"{number:06d}.part"
        part.write_bytes(content)
        facts |= {"sample_sha256": hashlib.sha256(content).hexdigest(), "sample_bytes": len(content)}
        # a loudness to select by: -10 dB for sample 0, one less for each next
        yield part, _attempt(of, rms_dbfs=-10.0 - number, still=number % 5 == 0, **facts)


def _attempt(of: Segment, outcome: Outcome = Outcome.OK, **facts: Any) -> Attempt:
    # `attempt` makes its facts of the number in an id of its own kind
    named = Segment(ytid="video00000A", start=of.start, end=of.end, mids=of.mids, split=of.split)
    return replace(attempt(named, outcome), key=of.key, ytid=of.ytid, **facts)


def _encoded(pcm: NDArray[np.int16], profile: Profile) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, pcm, profile.sample_rate, format=profile.audio_codec.upper(), subtype="PCM_16")
    return file.getvalue()


def _frames(number: int, of: Segment, profile: Profile) -> tuple[bytes, ...]:
    return tuple(
        simplejpeg.encode_jpeg(picture_of(100 * number + index, of.mids, profile.short_side), quality=90)
        for index in range(profile.frames)
    )


def _record(
    shard: str, split: str, attempts: Sequence[Attempt], facts: TarFacts, profile: Profile
) -> ShardRecord:
    return ShardRecord(
        shard=shard,
        split=split,
        rows=len(attempts),
        samples=facts.samples,
        tar_bytes=facts.bytes if facts.samples else 0,
        tar_sha256=facts.sha256 if facts.samples else "",
        outcomes=dict(Counter(str(row.outcome) for row in attempts)),
        profile_hash=profile.hash,
        written_at="2026-11-20T12:00:00+00:00",
        run="run-1",
    )
