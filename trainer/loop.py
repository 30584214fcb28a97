"""The one loop that runs every stage: steps, evaluations, checkpoints, until it is done or asked to stop."""

import difflib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from trainer.checkpoint import CheckpointWriter, Snapshot, copied, random_states
from trainer.distributed import share_statistics
from trainer.feed import Fed, Feed
from trainer.nonfinite import NonFinite, Verdict, diagnosed, stop, unsound_weights
from trainer.precision import memory_gb
from trainer.preemption import StopRequest
from trainer.run_folder import RunFolder
from trainer.run_log import RunLog, StepFacts
from trainer.run_request import Outcome, RunError
from trainer.step import Stepped, Training, take_step

Evaluate = Callable[[nn.Module], Mapping[str, float]]  # a learner in evaluation mode -> metrics by name


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; all of it goes into checkpoints."""

    step: int = 0  # optimiser steps that are done
    evaluated: int = -1  # the last step that was evaluated after
    best_step: int | None = None
    best_value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation


class Saver(Protocol):
    """Where checkpoints go."""

    def due(self) -> bool:
        """Whether so much time has gone by that work should be saved."""
        ...

    def save(self, training: Training, progress: Progress, *, publish: bool) -> None: ...

    def wait(self) -> None: ...


def train(
    training: Training,
    feed: Feed,
    progress: Progress,
    *,
    log: RunLog,
    request: StopRequest,
    saver: Saver | None = None,
    evaluate: Evaluate | None = None,
    folder: RunFolder | None = None,
) -> Outcome:
    """Trains from where `progress` is; moves it on. `saver` and `folder` are the first process's alone.

    Raises NonFinite; what was saved before stays as it was.
    """
    training.learner.train()
    if _owes_evaluation(training, progress) and evaluate is not None:
        measure(training, progress, evaluate, log)
    started = time.perf_counter()
    with closing(_batches(feed, progress.step, training.steps)) as batches:
        for fed in batches:
            stepped = take_step(training, fed.batch, step=progress.step, stop_code=request.code)
            if not stepped.finite:
                raise _not_finite(training, fed, stepped, progress, folder)
            progress.step += 1
            started, step_s = time.perf_counter(), time.perf_counter() - started
            log.step(_facts(training, fed, stepped, progress, step_s))
            if _owes_evaluation(training, progress) and evaluate is not None and stepped.stop is None:
                measure(training, progress, evaluate, log)
                started = time.perf_counter()
            _save(training, progress, saver, log, stepped.stop)
            if stepped.stop is not None:
                return _ended(saver, stepped.stop)
    return _ended(saver, Outcome.FINISHED)


def _batches(feed: Feed, step: int, steps: int) -> Generator[Fed]:
    if step < steps:
        with closing(feed.batches(step)) as batches:
            for _ in range(step, steps):
                yield next(batches)


def _ended(saver: Saver | None, outcome: Outcome) -> Outcome:
    if saver is not None:
        saver.wait()
    return outcome


# -- evaluation


def evaluation_due(training: Training, step: int) -> bool:
    """Before the first step, every `evaluate_every` epochs, and at the end.

    Before the first, since what cannot be measured should not be found out after a day; and to compare with.
    """
    every = max(round(training.stage.evaluate_every * training.steps_per_epoch), 1)
    return step % every == 0 or step == training.steps


def _owes_evaluation(training: Training, progress: Progress) -> bool:
    return evaluation_due(training, progress.step) and progress.evaluated != progress.step


def measure(training: Training, progress: Progress, evaluate: Evaluate, log: RunLog) -> None:
    """Evaluates the weights that a person would use: the averaged ones, where there are any."""
    model = training.learner if training.average is None else training.average.model
    share_statistics(model, training.ranks)
    model.eval()
    metrics = dict(evaluate(model))
    training.learner.train()
    progress.metrics, progress.evaluated = metrics, progress.step
    if metrics:
        log.evaluation(progress.step, _epoch(training, progress.step), metrics)
    _keep_best(training, progress, metrics)


def _keep_best(training: Training, progress: Progress, metrics: Mapping[str, float]) -> None:
    name = training.stage.best
    if not name or metrics.get(name) != metrics.get(name):  # what is not a number is not the best
        return
    if name not in metrics:
        raise RunError(f"best={name} is not measured; {_measured(name, metrics)}")
    better = progress.best_value is None or metrics[name] > progress.best_value
    if progress.step and better:
        progress.best_step, progress.best_value = progress.step, metrics[name]


def _measured(name: str, metrics: Mapping[str, float]) -> str:
    near = difflib.get_close_matches(name, metrics, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    groups = ", ".join(dict.fromkeys(metric.rpartition("/")[0] for metric in metrics))
    return f"{hint}expected a measure of {groups}" if metrics else "expected `evaluations` that measure it"


# -- saving


def _save(
    training: Training, progress: Progress, saver: Saver | None, log: RunLog, asked: Outcome | None
) -> None:
    if saver is None:
        return
    due = evaluation_due(training, progress.step)
    if due or asked is not None or saver.due():
        log.flush()
        best = progress.best_step == progress.step if training.stage.best else True
        saver.save(training, progress, publish=due and best)


class CheckpointSaver:
    """Takes snapshots and has them written beside training."""

    def __init__(self, writer: CheckpointWriter, *, save_minutes: float, facts: Mapping[str, Any]) -> None:
        """`facts` go into every checkpoint: stage, data, versions."""
        self._writer, self._facts = writer, dict(facts)
        self._every_s = save_minutes * 60
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        return not self._writer.busy and time.monotonic() - self._saved_at >= self._every_s

    def save(self, training: Training, progress: Progress, *, publish: bool) -> None:
        """Raises NonFinite rather than writing weights that nothing can be done with."""
        if faults := list(unsound_weights(training.learner)):
            cause = "wavelets" if "fbsp" in faults[0] else "weights"
            raise NonFinite(
                f"step {progress.step} left {faults[0]}; it was not saved, the checkpoint before it stays. "
                f"Not finite by {cause}: lower optim.lr"
            )
        self._writer.write(
            snapshot(training, progress, self._facts), best_step=progress.best_step, publish=publish
        )
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        self._writer.wait()


def snapshot(training: Training, progress: Progress, facts: Mapping[str, Any]) -> Snapshot:
    """Everything at the end of a step, copied."""
    raw = copied(training.learner.state_dict())
    average = None if training.average is None else copied(training.average.state_dict())
    return Snapshot(
        step=progress.step,
        weights=_model_weights(average or raw),
        config=training.learner.config,
        state={
            "format": 1,
            # kept twice only where the weights to use are averaged
            "model": raw if average is not None else _objective_weights(raw),
            "average": None if average is None else _objective_weights(average),
            "optimiser": copied(training.optimiser.state_dict()),
            "random": random_states(training.ranks.device),
            "progress": {name: copied(getattr(progress, name)) for name in Progress.__slots__},
            "loader": {
                "seed": training.stage.seed,
                "epoch": _epoch(training, progress.step),
                "step": progress.step % training.steps_per_epoch,
            },
            "world": training.ranks.world,
            "facts": dict(facts),
        },
    )


def restore(training: Training, weights: Mapping[str, Any], state: Mapping[str, Any]) -> Progress:
    """Puts a checkpoint's weights and state into `training`."""
    if training.average is None:
        training.learner.load_state_dict({**weights, **state["model"]}, strict=True)
    else:
        training.learner.load_state_dict(state["model"], strict=True)
        training.average.load_state_dict({**weights, **state["average"]})
    training.optimiser.load_state_dict(state["optimiser"])
    return Progress(**state["progress"])


def _model_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("objective.")}


def _objective_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if name.startswith("objective.")}


# -- what is said


def _epoch(training: Training, step: int) -> int:
    return step // training.steps_per_epoch


def _facts(training: Training, fed: Fed, stepped: Stepped, progress: Progress, step_s: float) -> StepFacts:
    return StepFacts(
        step=progress.step,
        epoch=fed.epoch,
        loss=stepped.loss,
        terms=stepped.terms,
        floor=stepped.floor,
        lr=stepped.rate,
        gradient_norm=stepped.gradient_norm,
        scales=stepped.scales,
        samples=len(fed.batch) * training.ranks.world,
        step_s=step_s,
        waited_s=fed.waited_s,
        replaced=fed.replaced,
        memory_gb=memory_gb(training.ranks.device),
    )


def _not_finite(
    training: Training, fed: Fed, stepped: Stepped, progress: Progress, folder: RunFolder | None
) -> NonFinite:
    verdict: Verdict = diagnosed(training.learner, fed.batch, stepped.terms)
    return stop(verdict, fed.batch, folder, step=progress.step, epoch=fed.epoch)
