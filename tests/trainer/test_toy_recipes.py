"""Every recipe at toy size lowers its loss and moves only what is its own.

The road of docs/stages.md goes through `run`, on shards; recipes that are near to one of its stages, and what
the released files have otherwise, take steps on one batch.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from ledgered_dataset import CLASSES
from shard_folders import shard_folder
from torch import Tensor
from toy_training import CLASSES as TOY_CLASSES
from toy_training import toy_batch, toy_training

from trainer.freeze import matches
from trainer.learner import build_model
from trainer.recipes import RECIPES
from trainer.recipes.audioclip import RELEASED_STAGES
from trainer.recipes.debug import TOY_STAGES, toy
from trainer.run import run
from trainer.run_request import RunRequest
from trainer.stage import Stage, derive
from trainer.stage_view import stage_to_json
from trainer.step import take_step
from trainer.weights import WEIGHTS, read_state

torch.set_num_threads(1)
SMALL = ("data.seconds=0.3", "data.dev_share=0", "evaluations=", "best=", "machine.threads=1")
ON = {"debug.finetune_esc50": "folds", "debug.finetune_esc50_standalone": "folds"}


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and the runs of every stage, each from the one before it."""
    folder = tmp_path_factory.mktemp("road")
    shard_folder(folder / "audioset", (10, 14), seconds=0.3, frames=2)
    for fold in range(1, 6):
        shard_folder(folder / "folds", (6,), seconds=0.3, frames=2, split=f"fold{fold}")
    train(folder, "debug.standalone")
    train(folder, "debug.cooperative", start="debug.standalone")
    train(folder, "debug.modern", start="debug.standalone")
    train(folder, "debug.full", start="debug.cooperative")
    train(folder, "debug.finetune_esc50", start="debug.full")
    train(folder, "debug.finetune_esc50_standalone", start="debug.standalone")
    return folder


def train(folder: Path, name: str, *overrides: str, start: str = "") -> None:
    request = RunRequest(
        recipe=name,
        data=str(folder / ON.get(name, "audioset")),
        out=folder / name,
        start_run=str(folder / start) if start else "",
        overrides=(*SMALL, *overrides),
        device="cpu",
    )
    run(request)


STAGES = {  # and where each starts
    "debug.standalone": "",
    "debug.cooperative": "debug.standalone",
    "debug.modern": "debug.standalone",
    "debug.full": "debug.cooperative",
    "debug.finetune_esc50": "debug.full",
    "debug.finetune_esc50_standalone": "debug.standalone",
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lowers_its_loss(road: Path, name: str) -> None:
    lines = [json.loads(line) for line in (road / name / "log.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines]
    assert len(losses) == 9
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_moves_its_own_parameters_and_statistics_and_no_others(road: Path, name: str) -> None:
    stage = RECIPES[name]
    before, after = begun(road, name), read_state(road / name / WEIGHTS)
    for entry, was in before.items():
        if not matches(entry, stage.trainable):
            assert torch.equal(after[entry], was), entry
    moved = {entry for entry, was in before.items() if not torch.equal(after[entry], was)}
    heads = {entry.split(".")[0] for entry in moved}
    assert heads == ({"audio", "image", "text", "log_scales"} if name == "debug.full" else expected(name))
    assert any("running_mean" in entry for entry in moved)


def expected(name: str) -> set[str]:
    return {"audio", "log_scales"} if name in ("debug.cooperative", "debug.modern") else {"audio"}


def begun(road: Path, name: str) -> Mapping[str, Tensor]:
    """What a stage started from; without entries whose shape it changed."""
    stage = RECIPES[name]
    classes = len(CLASSES) if stage.model.classes else 0
    drawn = build_model(dataclasses.replace(stage.model, classes=classes), seed=stage.seed).state_dict()
    given = read_state(road / STAGES[name] / WEIGHTS) if STAGES[name] else {}
    replaced = {entry for entry in given if matches(entry, stage.start.replaced)}
    return {**drawn, **{entry: tensor for entry, tensor in given.items() if entry not in replaced}}


# -- the others


def values(stage: Stage) -> object:
    return stage_to_json(stage)["values"]


ON_THE_ROAD = [values(RECIPES[name]) for name in STAGES]
OTHERS = [
    stage
    for stage in (*TOY_STAGES, *map(toy, RELEASED_STAGES))
    if values(stage) not in ON_THE_ROAD  # as the 5 epochs of `standalone`, which are 3 of both at toy size
]


@pytest.mark.parametrize("stage", OTHERS, ids=lambda stage: stage.name)
def test_a_recipe_lowers_its_loss_on_a_batch_and_moves_only_its_own(stage: Stage) -> None:
    own = {"model__classes": TOY_CLASSES} if stage.model.classes else {}
    stage = derive(stage, "a test", batch_size=4, **own)
    training, batch = toy_training(stage), toy_batch(stage, 0)
    batch = dataclasses.replace(batch, audio=batch.audio.repeat(1, stage.data.channels, 1))
    before = {entry: tensor.clone() for entry, tensor in training.learner.state_dict().items()}
    training.learner.train()
    losses = [take_step(training, batch, step=step).loss for step in range(3)]
    assert losses[-1] < losses[0]
    moved = {
        entry
        for entry, tensor in training.learner.state_dict().items()
        if not torch.equal(tensor, before[entry])
    }
    assert all(matches(entry, stage.trainable) for entry in moved)
    heads = {parameter.split(".")[0] for parameter in moved} - {"log_scales"}
    assert heads == ({"audio", "image", "text"} if "debug.full" in stage.name else {"audio"})
    assert any("running_mean" in entry for entry in moved)


def test_the_class_layer_gives_way_to_a_random_one_of_the_embeddings_size(road: Path) -> None:
    classes = read_state(road / "debug.standalone" / WEIGHTS)["audio.fc.weight"]
    embedding = read_state(road / "debug.cooperative" / WEIGHTS)["audio.fc.weight"]
    assert (len(classes), len(embedding)) == (len(CLASSES), 64)
