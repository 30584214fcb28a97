"""What makes a stage impossible to run, said before anything is loaded."""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.batch import MODALITIES
from trainer.devices import check_compiler
from trainer.objectives import knows_mixup
from trainer.published import FILES
from trainer.run_request import RunError
from trainer.stage import CLASSES_OF_DATA, Stage
from trainer.stage_view import leaves, objective_name, shown

_AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda value: value >= 1, "at least 1")
_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda value: value > 0, "more than 0")
_NOT_NEGATIVE: tuple[Callable[[Any], bool], str] = (lambda value: value >= 0, "0 or more")
_SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value <= 1, "a share from 0 to 1")
_BELOW_1: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "0 or more, below 1")
_BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("epochs", "batch_size", "machine.accumulate", "augment.time_scaling"), _AT_LEAST_1),
    **dict.fromkeys(("optim.lr", "data.seconds", "evaluate_every", "schedule.gamma"), _POSITIVE),
    **dict.fromkeys(
        ("augment.inversion", "augment.noise", "data.max_bad_share", "schedule.warmup_start"), _SHARE
    ),
    **dict.fromkeys(("data.dev_share", "ema", "optim.momentum"), _BELOW_1),
    **dict.fromkeys(
        (
            "augment.mixup",
            "optim.weight_decay",
            "optim.clip_norm",
            "filter_norm",
            "schedule.warmup_epochs",
            "machine.threads",
            "machine.cache_gb",
            "machine.save_minutes",
            "seed",
        ),
        _NOT_NEGATIVE,
    ),
    "model.classes": (lambda value: value == CLASSES_OF_DATA or value >= 0, "0 or more, or data"),
    "data.channels": (lambda value: value in (1, 2), "1 or 2"),
    "data.train": (bool, "at least one split"),
    "trainable": (bool, "at least one pattern of parameter names, such as audio.*"),
}


class StageError(RunError):
    """A stage whose values do not go together; the message is one line."""


def check_stage(stage: Stage, *, ranks: int = 1) -> None:
    """Raises StageError with the first thing that is wrong. `ranks` is the number of processes."""
    for complaint in complaints(stage, ranks):
        raise StageError(f"{stage.name}: {complaint}")


def check_machine(stage: Stage, device: torch.device) -> None:
    """Raises StageError for what `device` cannot do, before anything is built."""
    if stage.machine.sync_batch_norm and device.type != "cuda":
        raise StageError(
            f"{stage.name}: machine.sync_batch_norm is true on {device.type}; expected CUDA devices, where "
            "alone PyTorch synchronises batch statistics: --set machine.sync_batch_norm=false"
        )
    if stage.machine.compile and device.type == "cpu":  # CUDA's code is written by Triton
        try:
            check_compiler()
        except ValueError:
            raise StageError(
                f"{stage.name}: machine.compile is true, and no C++ compiler is here; expected g++, clang++ "
                "or one that CXX names, or --set machine.compile=false"
            ) from None


def complaints(stage: Stage, ranks: int = 1) -> Iterator[str]:
    """Each with the value, what is expected, and what to type."""
    yield from _out_of_bounds(stage)
    yield from _batches(stage, ranks)
    yield from _data(stage)
    yield from _towers(stage)
    yield from _mixup(stage, ranks)
    yield from _starts(stage)
    yield from _evaluations(stage)


def _evaluations(stage: Stage) -> Iterator[str]:
    """Last: it takes seconds to import what knows them."""
    if stage.evaluations:
        from trainer.evaluations import EvaluationError, named_evaluations

        try:
            named_evaluations(stage.evaluations)
        except EvaluationError as error:
            yield str(error)


def _out_of_bounds(stage: Stage) -> Iterator[str]:
    values = {leaf.path: leaf.value for leaf in leaves(stage)}
    for path, (holds, expected) in _BOUNDS.items():
        if not holds(values[path]):
            yield f"{path} is {shown(values[path]) or 'empty'}; expected {expected}"


def _batches(stage: Stage, ranks: int) -> Iterator[str]:
    parts = ranks * stage.machine.accumulate
    if stage.batch_size % max(parts, 1):
        near = max(parts, stage.batch_size // parts * parts)
        yield (
            f"batch_size {stage.batch_size} cannot be divided among {ranks} processes x "
            f"{stage.machine.accumulate} parts; expected a multiple of {parts}: --set batch_size={near}"
        )
    elif stage.batch_size < 2 * parts:
        each = f" in {ranks} processes x {stage.machine.accumulate} parts" if parts > 1 else ""
        yield (
            f"batch_size is {stage.batch_size}{each}; expected at least 2 examples in each, which batch "
            "statistics are of"
        )


def _data(stage: Stage) -> Iterator[str]:
    data = stage.data
    both = [split for split in data.train if split in data.test]
    if both and not data.train_on_test:
        yield (
            f"data.train holds {both[0]}, which data.test tests on; expected other splits, or, "
            "if you mean it, --set data.train_on_test=true"
        )
    if data.dev_share and not data.dev_from:
        yield f"data.dev_share is {data.dev_share:g} of no split; expected --set data.dev_from=SPLIT"
    if data.dev_from and data.dev_from in data.test and not data.train_on_test:
        yield f"data.dev_from is {data.dev_from}, which data.test tests on; expected a training split"
    if stage.best and not stage.evaluations:
        yield f"best is {stage.best}, and evaluations is empty; expected one that measures it, or --set best="


def _towers(stage: Stage) -> Iterator[str]:
    model = stage.model
    if unknown := [tower for tower in model.towers if tower not in MODALITIES] or not model.towers:
        told = ",".join(model.towers) or "empty"
        yield f"model.towers is {told}; expected some of {','.join(MODALITIES)}"
    elif model.classes and model.towers != ("audio",):
        yield (
            f"model.classes is {model.classes}, for {','.join(model.towers)}; expected the audio tower "
            "alone, or --set model.classes=0"
        )
    wanted = tuple(getattr(stage.objective, "modalities", ()))
    if not unknown and (missing := [each for each in wanted if each not in model.towers]):
        yield (
            f"the objective compares {','.join(wanted)}, and model.towers has no {missing[0]}; expected "
            f"--set model.towers={','.join(wanted)}"
        )


def _mixup(stage: Stage, ranks: int) -> Iterator[str]:
    alpha = stage.augment.mixup
    if alpha and not knows_mixup(stage.objective):
        yield (
            f"augment.mixup is {alpha:g}, and {objective_name(stage.objective)} would take a mixed sound for "
            "a whole one; expected an objective that says `mixes` and reads Batch.shares, or "
            "--set augment.mixup=0"
        )
    elif alpha and stage.batch_size // ranks % 2:
        yield (
            f"augment.mixup mixes neighbours, and each of {ranks} processes has {stage.batch_size // ranks} "
            f"examples; expected an even number: --set batch_size={stage.batch_size + ranks}"
        )


def _starts(stage: Stage) -> Iterator[str]:
    start = stage.start
    names = [file.name for file in FILES]
    for path, value in (("start.audio", start.audio), ("start.clip", start.clip)):
        if value not in ("random", *names) and not Path(value).expanduser().exists():
            near = difflib.get_close_matches(value, names, n=1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"expected random, a file, or one of {', '.join(names)}"
            )
            yield f"{path} is {value!r}, which is no file and no published name; {hint}"
    if start.wants and not start.run and start.audio == "random":
        yield (
            f"it goes on from {start.wants}; expected --from RUN, or published weights with "
            "--set start.audio=NAME (trichord weights list)"
        )
