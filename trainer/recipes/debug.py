"""Each of AudioCLIP's stages at toy size: the same code in seconds on a CPU, from random weights."""

import dataclasses

from trainer.recipes.audioclip import STAGES
from trainer.stage import CLASSES_OF_DATA, Stage, derive

_TOY = "ours: toy size"
_OF_DATA = "ours: as many as the data's class table has"


def toy(stage: Stage) -> Stage:
    """`stage` with a small model, short sounds, small batches and few epochs; it may start from nothing."""
    name = stage.name.partition(".")[2]
    stage = dataclasses.replace(stage, name=f"debug.{name}", about=f"{stage.name} at toy size: {stage.about}")
    if "balanced_train" in stage.data.train:
        stage = derive(stage, _TOY, data__train=("balanced_train",), data__dev_share=0.2)
    if stage.optim.name == "sgd":  # its published rates move weights that have been trained; these are random
        stage = derive(stage, _TOY, optim__name="adam", optim__weight_decay=0.0)
    if stage.ema:  # of few steps
        stage = derive(stage, _TOY, ema=0.9)
    if stage.model.classes:
        stage = derive(stage, _OF_DATA, model__classes=CLASSES_OF_DATA)
    return derive(
        stage,
        _TOY,
        model__size="toy",
        start__audio="random",
        start__clip="random",
        start__wants="",
        data__seconds=1.0,
        optim__lr=1e-3,
        schedule__law="constant",
        epochs=3,
        batch_size=8,
        machine__precision="float32",
    )


TOY_STAGES = tuple(toy(stage) for stage in STAGES)
