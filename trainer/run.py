"""A request carried out: everything is put together, checked, said aloud, trained, and left in a folder."""

import contextlib
import errno
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.checkpoint import CheckpointWriter, find_checkpoint, read_checkpoint, restore_random_states
from trainer.distributed import Ranks, process_group, replicated
from trainer.ema import AveragedWeights
from trainer.feed import Feed
from trainer.freeze import head_counts
from trainer.learner import Learner, build_learner, build_model
from trainer.loop import CheckpointSaver, Evaluate, Progress, evaluation_due, measure, restore, train
from trainer.optim import build_optimiser
from trainer.precision import backends_set, device_name, memory_gb
from trainer.preemption import stop_requests
from trainer.profiling import profiled
from trainer.provenance import git_sha, versions
from trainer.requested import Requested, requested
from trainer.run_folder import RunFolder, locked
from trainer.run_log import Display, RunLog, check_wandb, duration, open_log
from trainer.run_request import Outcome, RunError, RunFailed, RunRequest, RunResult
from trainer.shard_feed import open_shards
from trainer.stage import Stage
from trainer.stage_checks import check_machine
from trainer.stage_view import differences, shown, source_of, stage_to_json
from trainer.start import Origin, start_from
from trainer.step import Training, take_step
from trainer.user_code import keep
from trainer.weights import few

PROFILED_STEPS = 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk, a quota, a disk mounted anew for its errors
_MACHINE = "machine."  # what may differ between launches of one run
_DATA_FACTS = ("query", "key_list_sha256")


class RunData(Protocol):
    """A stage's data, opened: what to train on and how to evaluate."""

    @property
    def feed(self) -> Feed: ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """`samples`, `query`, `key_list_sha256` and what else is worth keeping; plain values."""
        ...

    @property
    def evaluate(self) -> Evaluate | None:
        """Metrics on `dev`, by name; None where the stage names no evaluations."""
        ...


OpenData = Callable[[RunRequest, Stage, Learner, Ranks], AbstractContextManager[RunData]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Launch:
    """What all parts of one launch share."""

    request: RunRequest
    stage: Stage
    training: Training
    data: RunData
    origins: tuple[Origin, ...]
    precision: str  # in words
    code: Mapping[str, str] = field(default_factory=dict)  # sha256 of a user's own code, by role
    notes: Sequence[str] = ()

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.request.out)

    @property
    def ranks(self) -> Ranks:
        return self.training.ranks


def run(request: RunRequest, *, open_data: OpenData = open_shards) -> RunResult:
    """Trains what `request` asks for, in this process and those that torchrun started beside it.

    Raises RunError, one line, for what was asked wrongly, and RunFailed for a run that had to stop by itself.
    `open_data` stands in for the shards.
    """
    with _said_in_one_line(request), ExitStack() as stack:
        request_to_stop = stack.enter_context(stop_requests())
        ranks = stack.enter_context(process_group(request.device))
        asked = requested(request, ranks=ranks.world)
        check_machine(asked.stage, ranks.device)
        if request.wandb:
            check_wandb()
        if ranks.first and not request.dry_run:
            stack.enter_context(locked(RunFolder(request.out)))
        launch = stack.enter_context(_launched(request, asked, ranks, open_data))
        if request.dry_run:
            return _tried(launch)
        if request.profile:
            return _profiled(launch)
        progress = _resumed(launch)
        log = _log(launch, progress)
        stack.enter_context(log.shown())
        _write_facts(launch, asked, progress)
        log.say(*_header(launch, progress))
        return _trained(launch, progress, log, request_to_stop)


@contextmanager
def _said_in_one_line(request: RunRequest) -> Iterator[None]:
    """What fills up while a run goes on, as RunFailed; the last checkpoint stays."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"the device's memory is full: {' '.join(str(error).split())}; more parts, as by "
            "--set machine.accumulate=4, --set machine.checkpoint_activations=true, or a smaller batch_size"
        ) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RunFailed(
            f"{request.out}: {error.strerror}; what was saved before stays, and the same command goes on "
            "once there is room"
        ) from error


# -- putting together


@contextmanager
def _launched(request: RunRequest, asked: Requested, ranks: Ranks, open_data: OpenData) -> Iterator[_Launch]:
    stage = asked.stage
    with backends_set(ranks.device, stage.machine.precision) as precision:
        model = build_model(stage.model, seed=stage.seed)
        origins = start_from(stage, model) if _begins(request) else ()
        learner = build_learner(stage, model).to(ranks.device).to(memory_format=torch.channels_last)
        with open_data(request, stage, learner, ranks) as data:
            yield _Launch(
                request=request,
                stage=stage,
                training=_training(stage, learner, data, ranks),
                data=data,
                origins=origins,
                precision=precision,
                code={code.role: code.sha256 for code in asked.code},
                notes=asked.notes,
            )


def _begins(request: RunRequest) -> bool:
    """Whether the first weights matter: a run that goes on has its own."""
    return request.dry_run or find_checkpoint(request.resume, RunFolder(request.out)) is None


def _training(stage: Stage, learner: Learner, data: RunData, ranks: Ranks) -> Training:
    average = AveragedWeights(learner, stage.ema) if stage.ema else None
    learner.accelerate(stage.machine)
    return Training(
        stage=stage,
        learner=learner,
        replica=replicated(learner, ranks, sync_batch_norm=stage.machine.sync_batch_norm),
        optimiser=build_optimiser(stage.optim, learner, devices=ranks.world),
        steps_per_epoch=data.feed.steps_per_epoch,
        ranks=ranks,
        average=average,
    )


# -- going on


def _resumed(launch: _Launch) -> Progress:
    """Where the run is: at its beginning, or where its checkpoint was, once all of it is found to fit."""
    found = launch.ranks.from_first(
        find_checkpoint(launch.request.resume, launch.folder) if launch.ranks.first else None
    )
    if found is None:
        return Progress()
    weights, state = read_checkpoint(found)
    _check_same(launch, state["facts"], found)
    progress = restore(launch.training, weights, state)
    restore_random_states(state["random"], launch.ranks.device)
    return progress


def _check_same(launch: _Launch, before: Mapping[str, Any], found: Path) -> None:
    """Raises RunError with everything that is not as it was, but for the machine."""
    now = _facts(launch)
    changed = [
        f"{path} was {_shown(old)}, is {_shown(new)}"
        for path, old, new in differences(before["stage"], now["stage"])
        if not path.startswith(_MACHINE)
    ]
    changed += [
        f"data {name} was {_shown(before['data'].get(name))}, is {_shown(now['data'].get(name))}"
        for name in _DATA_FACTS
        if before["data"].get(name) != now["data"].get(name)
    ]
    if changed:
        raise RunError(
            f"{found} is of another run: {'; '.join(changed)}. Give what it was begun with to go on, or "
            f"begin another: --from {launch.request.out} --out ANOTHER"
        )


def _shown(value: Any) -> str:
    return "unset" if value is None else shown(value) or "empty"


def _facts(launch: _Launch) -> dict[str, Any]:
    """What the run is, in plain values."""
    request = launch.request
    return {
        "stage": stage_to_json(launch.stage),
        "recipe": request.recipe,
        "overrides": list(request.overrides),
        "data": {**launch.data.facts, "address": request.data},
        "code": dict(launch.code),
        "git_sha": git_sha(),
        "versions": versions(),
        "device": device_name(launch.ranks.device),
        "ranks": launch.ranks.world,
        "precision": launch.precision,
        "start": [{"source": each.source, "tensors": len(each.account.loaded)} for each in launch.origins],
    }


def _write_facts(launch: _Launch, asked: Requested, progress: Progress) -> None:
    if launch.ranks.first:
        if progress.step == 0 or not launch.folder.facts.is_file():  # or it goes on from another run
            for code in asked.code:
                keep(code, launch.request.out)
            launch.folder.write(launch.folder.facts, {**_facts(launch), **_beginning()})
        _status(launch, "running", progress)


def _beginning() -> dict[str, str]:
    """Of the run's first launch: for people, compared with nothing."""
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": shlex.join(sys.argv)}


def _status(launch: _Launch, outcome: str, progress: Progress) -> None:
    launch.folder.write(
        launch.folder.status,
        {
            "outcome": outcome,
            "step": progress.step,
            "steps": launch.training.steps,
            "best_step": progress.best_step,
            "best": progress.best_value,
            "metrics": progress.metrics,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


# -- training


def _trained(launch: _Launch, progress: Progress, log: RunLog, request_to_stop: Any) -> RunResult:
    writer = CheckpointWriter(launch.folder, after=progress.step) if launch.ranks.first else None
    minutes = launch.stage.machine.save_minutes
    saver = CheckpointSaver(writer, save_minutes=minutes, facts=_facts(launch)) if writer else None
    try:
        outcome = train(
            launch.training,
            launch.data.feed,
            progress,
            log=log,
            request=request_to_stop,
            saver=saver,
            evaluate=launch.data.evaluate,
            folder=launch.folder if launch.ranks.first else None,
        )
        if writer is not None:
            writer.wait()
    except BaseException as error:
        _left(launch, writer, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed", progress)
        raise
    if writer is not None:
        _status(launch, str(outcome), progress)
    checkpoint = writer.last if writer else None
    log.say(_last_words(launch, outcome, progress, checkpoint))
    return RunResult(
        outcome=outcome,
        out=launch.request.out,
        step=progress.step,
        checkpoint=checkpoint,
        metrics=dict(progress.metrics),
    )


def _left(launch: _Launch, writer: CheckpointWriter | None, outcome: str, progress: Progress) -> None:
    """What can still be done for a run that ends by an error, which is what will be told."""
    if writer is not None:
        with contextlib.suppress(RunError):
            writer.wait()
        with contextlib.suppress(OSError):
            _status(launch, outcome, progress)


def _last_words(launch: _Launch, outcome: Outcome, progress: Progress, checkpoint: Path | None) -> str:
    done = f"{progress.step:,} of {launch.training.steps:,} steps"
    if outcome is Outcome.FINISHED:
        return f"{done}; the model is in {launch.request.out}, its last checkpoint {checkpoint}"
    return f"{outcome} after {done}, saved in {checkpoint}; the same command goes on from there"


def _tried(launch: _Launch) -> RunResult:
    """Builds, reads and computes one step; leaves nothing behind."""
    display = RunLog(Display(steps=launch.training.steps) if launch.ranks.first else None)
    display.say(*_header(launch, Progress()))
    launch.training.learner.train()
    feed = launch.data.feed
    with contextlib.closing(feed.batches(0)) as batches:
        fed = next(batches)
        warm = take_step(launch.training, fed.batch, step=0)
        started = time.perf_counter()
        take_step(launch.training, fed.batch, step=1)
        step_s = time.perf_counter() - started
    steps = launch.training.steps
    if launch.data.evaluate is not None:
        measure(launch.training, Progress(), launch.data.evaluate, display)
    display.say(
        f"one step: loss {warm.loss:.4g}, {launch.stage.batch_size / step_s:.3g} samples/s, "
        f"{memory_gb(launch.ranks.device):.1f} GB at most",
        f"the whole run: {steps:,} steps, about {duration(steps * step_s)} if data keep up; nothing is saved",
    )
    return RunResult(outcome=Outcome.TRIED, out=launch.request.out, step=0)


def _profiled(launch: _Launch) -> RunResult:
    display = RunLog(Display(steps=launch.training.steps) if launch.ranks.first else None)
    display.say(*_header(launch, Progress()))
    display.say(*profiled(launch.training, launch.data.feed, launch.folder, steps=PROFILED_STEPS))
    return RunResult(outcome=Outcome.TRIED, out=launch.request.out, step=0)


# -- saying


def _log(launch: _Launch, progress: Progress) -> RunLog:
    if not launch.ranks.first:
        return RunLog(None)
    owed = evaluation_due(launch.training, progress.step) and progress.evaluated != progress.step
    return open_log(
        launch.folder,
        steps=launch.training.steps,
        after=progress.step,
        evaluated=not owed,
        facts=_facts(launch),
        wandb=launch.request.wandb,
    )


def _header(launch: _Launch, progress: Progress) -> Iterator[str]:
    """What a person wants to see before waiting for days."""
    stage, training = launch.stage, launch.training
    world = f", {launch.ranks.world} processes" if launch.ranks.world > 1 else ""
    yield f"{stage.name}: {stage.about}"
    yield f"device     {device_name(launch.ranks.device)}{world}; {launch.precision}"
    for count in head_counts(training.learner):
        yield f"parameters {count.head:<10} {count.trainable:>11,} of {count.total:>11,} learn"
    yield f"learning   {', '.join(stage.trainable)}"
    if stage.model.classes:
        yield f"classes    {stage.model.classes} ({source_of(stage, 'model.classes')})"
    for origin in launch.origins:
        kept = [name for name in origin.account.kept if name.startswith("audio.")]
        beside = f"; drawn anew: {few(kept)}" if kept else ""
        yield f"start      {origin.source}: {len(origin.account.loaded)} tensors{beside}"
    yield from _data_lines(launch)
    yield from launch.notes
    if progress.step:
        yield f"going on after step {progress.step:,} of {training.steps:,}"


def _data_lines(launch: _Launch) -> Iterator[str]:
    facts, training = launch.data.facts, launch.training
    yield (
        f"data       {facts.get('samples', 0):,} samples, {training.steps_per_epoch:,} steps of "
        f"{launch.stage.batch_size} an epoch, {launch.stage.epochs} epochs, {training.steps:,} steps"
    )
    for name, fact in facts.items():
        if name != "samples" and isinstance(fact, str | int | float):
            yield f"           {name.replace('_', ' ')}: {' '.join(str(fact).split())}"
