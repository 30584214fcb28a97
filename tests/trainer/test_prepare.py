"""Host batches made ready for a model: what is in a batch, and that it is what was recorded."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from shard_folders import shard_folder
from tiny_models import RATE, tiny_encoder

from shards.labels import ClassLabel, read_labels
from shards.layout import LABELS
from shards.sample_reader import SampleReader
from shards.selection import Selection, select_samples
from shards.store import Store
from trainer.host_batch import HostBatch
from trainer.image import ImageTransform
from trainer.label_table import LabelTable, label_table
from trainer.loader import Loader
from trainer.objectives import Classification, Pairwise
from trainer.prepare import Inputs, Preparer
from trainer.run_request import RunError
from trainer.sample_decoder import Wanted
from trainer.stage import Augment, Data, Model, Objective, Stage
from trainer.text import tokenize
from trainer.waveform import resampled

CPU = torch.device("cpu")
BATCH = 6
SECONDS = 0.25


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return shard_folder(
        tmp_path_factory.mktemp("prepare") / "audioset", (9, 4), seconds=SECONDS, sample_rate=RATE, side=96
    )


@pytest.fixture(scope="module")
def selection(store: Store) -> Selection:
    return select_samples(store)


@pytest.fixture(scope="module")
def labels(store: Store, selection: Selection) -> LabelTable:
    with store.open(LABELS) as file:
        return label_table(selection, read_labels(file))


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs.of(tiny_encoder())


def stage(objective: Objective | None = None, **changes: Any) -> Stage:
    given = Stage(name="test", about="", objective=objective or Pairwise(), data=Data(seconds=SECONDS))
    return dataclasses.replace(given, **changes)


def host_batches(
    store: Store, selection: Selection, *, training: bool = True, frame: Any = "random", seed: int = 3
) -> Iterator[HostBatch]:
    loader = Loader(
        selection,
        SampleReader(store=store),
        batch_size=BATCH,
        training=training,
        seed=seed,
        wanted=Wanted(audio=True, frame=frame),
        max_seconds=SECONDS,
        threads=2,
    )
    return loader.batches()


def preparer(labels: LabelTable, inputs: Inputs, of: Stage | None = None, **options: Any) -> Preparer:
    return Preparer(of or stage(), labels, inputs, device=CPU, **{"recorded_rate": RATE, **options})


def test_an_evaluation_holds_every_sample_as_it_was_recorded(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    prepare = preparer(labels, inputs).prepare
    seen = []
    for host in host_batches(store, selection, training=False, frame="central"):
        batch = prepare(host, training=False)
        assert batch.audio is not None
        assert batch.tokens is not None
        assert batch.text_rows is not None
        assert batch.valid is not None
        assert host.audio is not None
        assert torch.equal(batch.audio, host.audio.float() / 32_768)
        assert batch.tokens.shape[0] == len(set(batch.text_rows.tolist()))
        expected = [labels.texts[text] for text in labels.text_rows(host.rows)]
        assert torch.equal(batch.tokens[batch.text_rows], tokenize(expected))
        assert batch.targets is None  # nobody asked for them
        assert batch.text_ids is not None
        assert [labels.texts[text] for text in batch.text_ids] == expected
        assert batch.label_sets is not None
        assert batch.label_sets.tolist() == labels.label_sets[host.rows].tolist()
        seen += [key for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]
    assert seen == list(selection.keys)


def test_a_batch_outlives_its_slot(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    prepare, kept = preparer(labels, inputs).prepare, []
    for host in host_batches(store, selection, training=False, frame="central"):
        batch = prepare(host, training=False)
        copied = [None if each is None else each.clone() for each in (batch.audio, batch.image)]
        kept.append((batch, copied))
        for slot in (host.audio, host.frames):
            assert slot is not None
            slot.zero_()
    for batch, (audio, image) in kept:
        assert batch.audio is not None
        assert batch.image is not None
        assert torch.equal(batch.audio, audio)
        assert torch.equal(batch.image, image)


def test_training_depends_on_the_seed_of_each_sample_alone(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    augment = Augment(time_scaling=1.5, inversion=0.5, noise=0.5)
    prepare = preparer(labels, inputs, stage(augment=augment)).prepare
    hosts = host_batches(store, selection)
    host = next(hosts)
    whole = prepare(host, training=True)
    assert host.audio is not None
    assert host.lengths is not None
    assert host.frames is not None
    order = np.array([4, 0, 3])
    some = dataclasses.replace(
        host,
        rows=host.rows[order],
        keys=tuple(host.keys[place] for place in order),
        audio=host.audio[order],
        lengths=host.lengths[order],
        frames=host.frames[order],
        seeds=host.seeds[order],
        valid=host.valid[order],
    )
    part = prepare(some, training=True)
    for name in ("audio", "image", "label_sets", "text_ids"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name
    assert whole.audio is not None
    assert not torch.equal(whole.audio, host.audio / 32_768)
    assert whole.valid is None


@pytest.mark.parametrize(
    ("objective", "there"),
    [
        (Pairwise(pairs=("audio_text",)), {"audio", "tokens", "text_rows"}),
        (Pairwise(pairs=("audio_image",)), {"audio", "image"}),
        (Pairwise(), {"audio", "image", "tokens", "text_rows"}),
        (Classification(), {"audio"}),
    ],
)
def test_only_what_the_objective_names_is_prepared(
    store: Store,
    selection: Selection,
    labels: LabelTable,
    inputs: Inputs,
    objective: Objective,
    there: set[str],
) -> None:
    prepare = preparer(labels, inputs, stage(objective)).prepare
    batch = prepare(next(host_batches(store, selection)), training=True)
    media = {"audio", "image", "tokens", "text_rows"}
    assert {name for name in media if getattr(batch, name) is not None} == there


def test_with_a_table_of_texts_rows_point_into_it(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    host = next(host_batches(store, selection))
    batch = preparer(labels, inputs, text_table=True).prepare(host, training=True)
    assert batch.tokens is None
    assert batch.text_rows is not None
    assert batch.text_rows.tolist() == labels.text_rows(host.rows, host.seeds).tolist()


def test_mixup_mixes_sounds_and_says_by_what_shares(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    mixing = preparer(labels, inputs, stage(Classification(), augment=Augment(mixup=0.5)))
    host = next(host_batches(store, selection))
    batch = mixing.prepare(host, training=True)
    assert batch.audio is not None
    assert batch.targets is not None
    assert batch.shares is not None
    assert host.audio is not None
    assert torch.equal(batch.targets, labels.targets(host.rows))
    share = float(batch.shares[0])
    assert 0.5 <= share < 1
    sound = host.audio.float() / 32_768
    assert torch.allclose(batch.audio[0], share * sound[0] + (1 - share) * sound[1], atol=1e-6)
    assert mixing.prepare(host, training=False).shares is None


def test_sound_of_another_rate_is_resampled_to_the_towers(
    store: Store, selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    half = dataclasses.replace(inputs, sample_rate=RATE // 2)
    host = next(host_batches(store, selection))
    batch = preparer(labels, half).prepare(host, training=False)
    assert batch.audio is not None
    assert host.audio is not None
    assert torch.allclose(batch.audio, resampled(host.audio / 32_768, RATE, RATE // 2), atol=1e-6)


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("side", [256, 288, 360, 224])
def test_pictures_on_the_device_are_those_of_clips_own_pipeline(side: int) -> None:
    dice = np.random.default_rng(side)
    smooth = PIL.Image.fromarray(dice.integers(0, 256, (20, 20, 3), dtype=np.uint8)).resize((side, side))
    noise = PIL.Image.fromarray(dice.integers(0, 256, (side, side, 3), dtype=np.uint8))
    transform = ImageTransform(size=224)
    for picture in (smooth, noise):
        frames = torch.from_numpy(np.array(picture))[None]
        step = 1 / 255 / 0.26  # of eight bits, after CLIP's normalisation
        off = (transform.of_squares(frames)[0] - transform(picture)).abs()
        assert off.max() < 2.01 * step
        assert (off > 0).float().mean() < 0.01  # PIL's weights are whole numbers


def test_the_released_pictures_are_resized_without_a_low_pass() -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    transform = ImageTransform(size=64, antialias=False)
    frames = torch.from_numpy(np.array(picture))[None]
    assert torch.allclose(transform.of_squares(frames)[0], transform(picture), atol=1e-5)


def test_the_central_square_first_is_close_to_the_central_square_last() -> None:
    across, down = np.linspace(0, 12, 341), np.linspace(0, 9, 256)[:, None]
    colours = [127 + 100 * np.sin(across + phase + down) for phase in range(3)]
    wide = PIL.Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))
    left = round((341 - 256) / 2)
    square = torch.from_numpy(np.array(wide)[:, left : left + 256])[None]
    transform = ImageTransform(size=224)
    off = (transform.of_squares(square)[0] - transform(wide)).abs()
    assert off.mean() < 0.05  # the cut falls between pixels, half of one away


# ------------------------------------------------------------------------------------------------ mistakes


def test_a_text_that_is_too_long_names_its_sample(
    selection: Selection, labels: LabelTable, inputs: Inputs
) -> None:
    texts = ("short", "dog " * 100)
    long = dataclasses.replace(
        labels, texts=texts, _text_of=np.array([0] * 5 + [1] + [0] * 7), _text_offsets=np.arange(14)
    )
    with pytest.raises(RunError, match=f"sample {selection.keys[5]}: the text 'dog dog.* has 102 tokens"):
        preparer(long, inputs)
    preparer(long, inputs, stage(Pairwise(pairs=("audio_image",))))  # nobody reads it


def test_classes_that_are_not_the_models_are_an_error(labels: LabelTable, inputs: Inputs) -> None:
    four = stage(Classification(), model=Model(classes=4))
    with pytest.raises(
        RunError, match=r"model\.classes is 527, .* has 4 classes; .*--set model\.classes=data"
    ):
        preparer(labels, inputs, dataclasses.replace(four, model=Model(classes=527)))
    preparer(labels, inputs, four)


def test_labels_without_a_class_index_fail_a_classifier_only(tmp_path: Path, inputs: Inputs) -> None:
    classes = (ClassLabel(index=0, mid="/m/a", name="A"), ClassLabel(index=None, mid="/m/b", name="B"))
    store = shard_folder(tmp_path / "made", (4,), seconds=0.01, sample_rate=RATE, frames=0, classes=classes)
    with store.open(LABELS) as file:
        table = label_table(select_samples(store), read_labels(file))
    with pytest.raises(RunError, match="labels, such as /m/b, have no class index"):
        preparer(table, inputs, stage(Classification(), model=Model(classes=1)))
    preparer(table, inputs)
