"""The road of docs/stages.md at toy size: each stage lowers its loss and moves only what is its own."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from ledgered_dataset import CLASSES
from shard_folders import shard_folder
from torch import Tensor

from trainer.freeze import matches
from trainer.learner import build_model
from trainer.recipes import RECIPES
from trainer.run import run
from trainer.run_request import RunRequest
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
    train(folder, "debug.standalone", f"model.classes={len(CLASSES)}")
    train(folder, "debug.cooperative", start="debug.standalone")
    train(folder, "debug.full", start="debug.cooperative")
    train(folder, "debug.finetune_esc50", start="debug.full")
    classes = f"model.classes={len(CLASSES)}"
    train(folder, "debug.finetune_esc50_standalone", classes, start="debug.standalone")
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
    return {"audio", "log_scales"} if name == "debug.cooperative" else {"audio"}


def begun(road: Path, name: str) -> Mapping[str, Tensor]:
    """What a stage started from; without entries whose shape it changed."""
    stage = RECIPES[name]
    classes = len(CLASSES) if stage.model.classes else 0
    drawn = build_model(dataclasses.replace(stage.model, classes=classes), seed=stage.seed).state_dict()
    given = read_state(road / STAGES[name] / WEIGHTS) if STAGES[name] else {}
    replaced = {entry for entry in given if matches(entry, stage.start.replaced)}
    return {**drawn, **{entry: tensor for entry, tensor in given.items() if entry not in replaced}}


def test_the_class_layer_gives_way_to_a_random_one_of_the_embeddings_size(road: Path) -> None:
    classes = read_state(road / "debug.standalone" / WEIGHTS)["audio.fc.weight"]
    embedding = read_state(road / "debug.cooperative" / WEIGHTS)["audio.fc.weight"]
    assert (len(classes), len(embedding)) == (len(CLASSES), 64)
