"""What every sample of a dataset has in common, fixed by `dataset.json` when its first shard is planned."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from shards.layout import DATASET
from shards.ledger import FORMAT_VERSION
from shards.store import Store

AUDIO_CODECS = ("flac", "wav")


class ProfileError(ValueError):
    """A profile that cannot be made, or that differs from the one the dataset was begun with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How a window of video becomes a sample."""

    frames: int = 10  # AudioCLIP §4.1: ten equally distant frames per video
    short_side: int = 256  # pixels; 0: pictures stay as they are
    jpeg_quality: int = 3  # ffmpeg's quantiser scale: 2 best … 31 worst
    sample_rate: int = 44_100  # Hz; AudioCLIP §4.1
    channels: int = 1  # 0: as many as each source has
    audio_codec: str = "flac"  # 16 bits
    keep_short: float = 0.0  # keep and flag samples with at least this share of the window; 0 keeps none

    def __post_init__(self) -> None:
        checks = {
            "frames": (0 <= self.frames <= 100, "0 to 100"),
            "short_side": (
                self.short_side == 0 or (32 <= self.short_side <= 2160 and self.short_side % 2 == 0),
                "even, 32 to 2160 pixels",
            ),
            "jpeg_quality": (2 <= self.jpeg_quality <= 31, "2 (best) to 31"),
            "sample_rate": (8_000 <= self.sample_rate <= 192_000, "8000 to 192000 Hz"),
            "channels": (self.channels in (0, 1, 2), "1 or 2"),
            "audio_codec": (self.audio_codec in AUDIO_CODECS, " or ".join(AUDIO_CODECS)),
            "keep_short": (0.0 <= self.keep_short < 0.95, "0 (keep none) or a share below 0.95"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise ProfileError(f"{name} is {getattr(self, name)!r}; expected {expected}")

    @property
    def hash(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """`dataset.json`: the profile, and the hashes of the tables that the samples came from."""

    profile: Profile
    name: str = "audioset"
    class_labels_sha256: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)  # split → sha256 of its segments file
    format_version: int = FORMAT_VERSION
    partial: Mapping[str, Any] | None = None  # what a rebuilt dataset lacks; None: it is as published

    def to_json(self) -> bytes:
        facts = dataclasses.asdict(self)
        if self.partial is None:
            del facts["partial"]  # as datasets were written before there was the field
        return (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        facts: dict[str, Any] = json.loads(data)
        return cls(**{**facts, "profile": Profile(**facts["profile"])})


def read_dataset(store: Store) -> Dataset:
    """The dataset's fixed facts; ProfileError where there is no dataset."""
    try:
        return _understood(store, store.read_bytes(DATASET))
    except FileNotFoundError:
        raise ProfileError(
            f"{store.url} holds no {DATASET}; expected a folder that `trichord ingest --out` has made"
        ) from None


def _understood(store: Store, data: bytes) -> Dataset:
    try:
        return Dataset.from_json(data)
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ProfileError(
            f"{store.url}/{DATASET} is not readable ({error}); restore it from a copy"
        ) from None


def join_dataset(store: Store, wanted: Dataset) -> Dataset:
    """Begin the dataset, or check that `wanted` agrees with what it was begun with and add its splits.

    Raises ProfileError naming every difference.
    """
    joined = wanted

    def change(current: bytes | None) -> bytes | None:
        nonlocal joined
        if current is None:
            return wanted.to_json()
        begun = _understood(store, current)
        if differences := _differences(begun, wanted):
            raise ProfileError(
                f"{store.url} was begun with another profile: {'; '.join(differences)}. "
                "Give the same options as then, or another --out"
            )
        joined = dataclasses.replace(begun, splits={**begun.splits, **wanted.splits})
        return None if joined == begun else joined.to_json()

    store.update(DATASET, change)
    return joined


def record_partial(store: Store, partial: Mapping[str, Any] | None) -> None:
    """Say in `dataset.json` what the dataset lacks of what was published; None: nothing."""

    def change(current: bytes | None) -> bytes | None:
        if current is None:
            raise ProfileError(f"{store.url} holds no {DATASET}; begin the dataset first")
        changed = dataclasses.replace(Dataset.from_json(current), partial=partial).to_json()
        return None if changed == current else changed

    store.update(DATASET, change)


def describe_partial(partial: Mapping[str, Any]) -> str:
    """`400 of 2,000 rows, 3 missing, 1 failed`: what a dataset lacks, for whoever is shown its results."""
    counts = ("missing", "extra", "failed", "unbuilt")
    parts = [f"{partial['rows']:,} of {partial['expected']:,} rows"]
    parts += [f"{partial[name]:,} {name}" for name in counts if partial.get(name)]
    if altered := partial.get("altered_splits"):
        parts.append(f"other rows than published in {', '.join(altered)}")
    return ", ".join(parts)


def _differences(begun: Dataset, wanted: Dataset) -> list[str]:
    pairs = [
        (name, getattr(begun.profile, name), getattr(wanted.profile, name))
        for name in Profile.__dataclass_fields__
    ]
    pairs += [(name, getattr(begun, name), getattr(wanted, name)) for name in ("name", "format_version")]
    pairs.append(("class labels (sha256)", begun.class_labels_sha256[:12], wanted.class_labels_sha256[:12]))
    pairs += [
        (f"segments of {split} (sha256)", begun.splits[split][:12], sha[:12])
        for split, sha in wanted.splits.items()
        if split in begun.splits
    ]
    return [f"{name} is {old!r} there, {new!r} here" for name, old, new in pairs if old != new]
