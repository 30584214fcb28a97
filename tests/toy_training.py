"""Toy stages and made-up batches for tests of training that need no shards."""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch

from trainer.batch import Batch
from trainer.distributed import Ranks, replicated
from trainer.ema import AveragedWeights
from trainer.feed import Fed
from trainer.learner import build_learner, build_model
from trainer.objectives import Classification, Pairwise
from trainer.optim import build_optimiser
from trainer.stage import Machine, Model, Optim, Schedule, Stage
from trainer.step import Training
from trainer.text import tokenize

CLASSES = 4
SECONDS = 0.25
RATE = 44_100
TEXTS = ("Dog", "Rain", "Speech, Music", "Siren")

FULL = Stage(
    name="toy.full",
    about="all three towers",
    objective=Pairwise(),
    model=Model(size="toy"),
    optim=Optim(lr=0.02, no_decay=("*fbsp*", "log_scales*")),
    schedule=Schedule(law="constant"),
    machine=Machine(precision="float32", save_minutes=0.0),
    epochs=2,
    batch_size=6,
)
STANDALONE = dataclasses.replace(
    FULL,
    name="toy.standalone",
    about="classes",
    objective=Classification(),
    model=Model(size="toy", towers=("audio",), classes=CLASSES),
    optim=Optim(lr=0.05),
)
COOPERATIVE = dataclasses.replace(
    FULL, name="toy.cooperative", about="the audio head learns", trainable=("audio.*", "log_scales.audio_*")
)
FINETUNE = dataclasses.replace(
    FULL,
    name="toy.finetune",
    about="audio and text",
    objective=Pairwise(pairs=("audio_text",)),
    trainable=("audio.*", "log_scales.audio_*"),
)

# no batch normalisation learns, so that none depends on who shares its batch
STILL_NORMS = dataclasses.replace(
    FULL,
    name="toy.still_norms",
    trainable=("audio.fc.*", "audio.fbsp.*", "*.conv*", "text.*", "log_scales.*"),
    optim=Optim(lr=0.001, no_decay=("*fbsp*", "log_scales*")),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share few cores, on which threads that wait for one another are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_batch(stage: Stage, step: int, *, rank: int = 0, world: int = 1, tokens: bool = True) -> Batch:
    """The rank's share of the stage's global batch at `step`: class n has its own pitch and colour."""
    share = stage.batch_size // world
    rows = range(rank * share, (rank + 1) * share)
    classes = torch.tensor([(step + row) % CLASSES for row in rows])
    generator = torch.Generator().manual_seed(1000 + step)
    noise = torch.randn(stage.batch_size, 1, round(SECONDS * RATE), generator=generator)[
        rows.start : rows.stop
    ]
    pixels = torch.randn(stage.batch_size, 3, 64, 64, generator=generator)[rows.start : rows.stop]
    pitch = 200 * 2 ** classes.float()
    time = torch.arange(round(SECONDS * RATE)) / RATE
    needed = getattr(stage.objective, "modalities", ("audio", "image", "text"))
    return Batch(
        keys=tuple(f"sample-{step}-{row}" for row in rows),
        audio=0.3 * (6.2832 * pitch[:, None, None] * time).sin() + 0.01 * noise,
        image=(0.2 * pixels + classes[:, None, None, None].float()) if "image" in needed else None,
        tokens=tokenize(TEXTS) if "text" in needed and tokens else None,
        text_rows=classes if "text" in needed else None,
        targets=torch.nn.functional.one_hot(classes, CLASSES).float(),
        label_sets=classes,
    )


class ToyFeed:
    """Batches from nothing."""

    def __init__(self, stage: Stage, *, steps_per_epoch: int = 4, tokens: bool = True, **place: int) -> None:
        self.stage, self.steps_per_epoch, self.tokens, self.place = stage, steps_per_epoch, tokens, place

    def batches(self, step: int) -> Generator[Fed]:
        while True:
            batch = toy_batch(self.stage, step, tokens=self.tokens, **self.place)
            yield Fed(batch=batch, epoch=step // self.steps_per_epoch)
            step += 1


def toy_training(
    stage: Stage, *, ranks: Ranks | None = None, steps_per_epoch: int = 4, **options: Any
) -> Training:
    """The stage with everything that moves in it, from random weights."""
    ranks = ranks or Ranks()
    learner = build_learner(stage, build_model(stage.model, seed=stage.seed))
    average = AveragedWeights(learner, stage.ema) if stage.ema else None
    return Training(
        stage=stage,
        learner=learner,
        replica=replicated(learner, ranks),
        optimiser=build_optimiser(stage.optim, learner, devices=ranks.world),
        steps_per_epoch=steps_per_epoch,
        ranks=ranks,
        average=average,
        **options,
    )
