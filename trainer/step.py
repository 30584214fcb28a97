"""One step of training: gradients of the whole batch, what is done to them, and a move."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.accumulation import forward_backward
from trainer.batch import Batch
from trainer.collisions import loss_floor
from trainer.distributed import Ranks, reduce_scales
from trainer.ema import AveragedWeights
from trainer.learner import Learner
from trainer.optim import base_rate, finish_gradients, set_rate
from trainer.preemption import outcome_of
from trainer.run_request import Outcome
from trainer.schedule import learning_rate_factor
from trainer.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A stage with everything that moves in it."""

    stage: Stage
    learner: Learner
    replica: nn.Module  # the learner, under DDP where there are several processes
    optimiser: Optimizer
    steps_per_epoch: int
    ranks: Ranks = field(default_factory=Ranks)
    average: AveragedWeights | None = None

    @property
    def steps(self) -> int:
        """In all."""
        return self.stage.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        return base_rate(self.stage.optim, self.ranks.world) * learning_rate_factor(
            self.stage.schedule, step=step, steps_per_epoch=self.steps_per_epoch, epochs=self.stage.epochs
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """What became of a step."""

    terms: Mapping[str, float]
    gradient_norm: float
    rate: float
    floor: Mapping[str, float]  # of the terms, where equal texts give one
    scales: Mapping[str, float]  # that the loss was computed with
    stop: Outcome | None = None  # what some process has been asked for
    finite: bool = True  # otherwise nothing was moved, on any process

    @property
    def loss(self) -> float:
        return sum(self.terms.values())


def take_step(training: Training, batch: Batch, *, step: int, stop_code: int = 0) -> Stepped:
    """Computes gradients at `step`, from 0, and moves what learns, unless a number is not finite.

    All processes take it together; `stop_code` (`StopRequest.code`) is told to all in passing.
    """
    stage = training.stage
    seed_step(stage.seed, step, training.ranks.rank)
    set_rate(training.optimiser, rate := training.rate(step))
    training.optimiser.zero_grad(set_to_none=True)
    terms = forward_backward(
        training.replica,
        stage.objective,
        batch,
        parts=stage.machine.accumulate,
        negatives=stage.negatives,
        filter_norm=stage.filter_norm,
    )
    reduce_scales(training.learner, training.ranks)
    norm = finish_gradients(stage.optim, training.learner)
    numbers = {"terms": terms, "floor": _floor(training, batch), "scales": training.learner.scales()}
    told = _told({**numbers, "norm": {"": norm}}, stop_code, training.ranks)
    stepped = Stepped(
        terms=told["terms"],
        floor=told["floor"],
        scales=told["scales"],
        gradient_norm=told["norm"][""],
        rate=rate,
        stop=_asked(**told["asked"]),
        finite=all(map(math.isfinite, (*told["terms"].values(), told["norm"][""]))),
    )
    if stepped.finite:
        _move(training)
    return stepped


def _move(training: Training) -> None:
    training.optimiser.step()
    training.learner.clamp_scales()
    if training.average is not None:
        training.average.update(training.learner)


def _floor(training: Training, batch: Batch) -> dict[str, Tensor]:
    if batch.label_sets is None and batch.text_ids is None:
        return {}
    return loss_floor(training.stage.objective, batch, gathered=training.stage.negatives == "global")


def _told(
    groups: Mapping[str, Mapping[str, Tensor]], stop_code: int, ranks: Ranks
) -> dict[str, dict[str, float]]:
    """Each number as a mean over the processes; and under `asked`, how many were asked to stop, by kind.

    One wait for the device and one collective a step.
    """
    numbers = [number.detach() for group in groups.values() for number in group.values()]
    asked = torch.tensor([stop_code == 1, stop_code == 2], device=ranks.device)
    vector = torch.stack([number.float().to(ranks.device) for number in numbers]) / ranks.world
    told = iter(ranks.summed(torch.cat([vector, asked.float()])).tolist())
    given = {group: {name: next(told) for name in names} for group, names in groups.items()}
    return {**given, "asked": {"preempted": next(told), "interrupted": next(told)}}


def _asked(preempted: float, interrupted: float) -> Outcome | None:
    return outcome_of(2 if interrupted else 1 if preempted else 0)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Sets the global generators, from which dropout or a user's objective may draw, by step and process."""
    number = (seed * 1_000_003 + step) * 65_537 + rank
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
