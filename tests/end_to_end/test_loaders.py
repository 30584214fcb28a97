"""One tar in the loaders that people have: open_clip's own, and the rules of those that read sound."""

import csv
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import soundfile
import webdataset
from ingestions import ROOT, Videos

Trichord = Callable[..., "CompletedProcess[str]"]
OPEN_CLIP = ROOT / ".venv-openclip" / "bin" / "python"
PLANNED = 12
NAMES = ["Dog", "Animal"]  # of each segment's labels, in the file's order


@pytest.fixture
def dataset(videos: Videos, trichord: Trichord, tmp_path: Path) -> Path:
    """Two tars at 48 kHz, as LAION-CLAP wants it."""
    media = ("--media", videos.folder, "--media-pattern", "{ytid}.mp4", "--audio-rate", 48_000)
    shards = ("--limit", PLANNED, "--segments-per-shard", 8, "--min-free", 0)
    done = trichord("ingest", "--segments", videos.segments, "--out", tmp_path / "out", *media, *shards)
    assert done.returncode == 0, done.stderr
    return tmp_path / "out"


def samples(dataset: Path) -> list[dict[str, Any]]:
    """As webdataset groups them; every loader here stands on it."""
    tars = sorted(map(str, dataset.glob("*.tar")))
    return list(webdataset.WebDataset(tars, shardshuffle=False))


@pytest.mark.slow
@pytest.mark.skipif(not OPEN_CLIP.exists(), reason="no .venv-openclip; `make openclip` makes it")
def test_open_clip_trains_on_pictures_and_texts(dataset: Path) -> None:
    shards = f"{dataset}/audioset-eval-{{000000..000001}}.tar"
    texts = [sample["txt"].decode() for sample in samples(dataset)]
    command = [str(OPEN_CLIP), str(ROOT / "tests" / "open_clip_reader.py"), shards, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert all(name in text for text in texts for name in NAMES)
    assert seen["train"]["num_samples"] == PLANNED
    for loader in seen.values():
        assert loader["images"] == [[4, 3, 224, 224]] * 3
        assert sorted(loader["texts"]) == sorted(texts)


def test_the_rules_of_open_clips_sound_loader_hold(dataset: Path) -> None:
    """open_clip_train/audio_data.py: a member named by the extension, its text in `json`, sizes.json."""
    for sample in samples(dataset):
        assert read_sound(sample)[1] == 48_000
        text = json.loads(sample["json"])["text"]
        assert isinstance(text, str)
        assert text == sample["txt"].decode() != ""
    assert sizes(dataset) == {"audioset-eval-000000.tar": 8, "audioset-eval-000001.tar": 4}


def test_the_rules_of_laion_claps_loader_hold(dataset: Path, videos: Videos) -> None:
    """laion_clap/training/data.py: flac at the model's 48 kHz, `text`, and `tag` as names of classes."""
    with videos.segments.with_name("class_labels_indices.csv").open(newline="") as file:
        class_index = {row["display_name"]: int(row["index"]) for row in csv.DictReader(file)}
    found = samples(dataset)
    assert len(found) == sum(sizes(dataset).values()) == PLANNED
    for sample in found:
        sound, rate = read_sound(sample)
        facts = json.loads(sample["json"])
        assert rate == 48_000
        assert sound.shape == (480_000,)
        assert isinstance(facts["text"], str | list)
        assert class_vector(facts["tag"], class_index).tolist() == [1.0, 1.0]


def test_the_members_of_a_sample_lie_side_by_side(dataset: Path) -> None:
    for tar in dataset.glob("*.tar"):
        with tarfile.open(tar) as opened:
            keys = [key for key, _ in groupby(name.partition(".")[0] for name in opened.getnames())]
        assert len(keys) == len(set(keys)) == sizes(dataset)[tar.name]


def read_sound(sample: Mapping[str, Any]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], int]:
    return soundfile.read(io.BytesIO(sample["flac"]))


def class_vector(tags: list[str], class_index: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One at each tag's class, as the loader makes it; a tag of no class is a KeyError there too."""
    vector = np.zeros(len(class_index))
    for tag in tags:
        vector[class_index[tag]] = 1
    return vector


def sizes(dataset: Path) -> dict[str, int]:
    return json.loads((dataset / "sizes.json").read_text())
