"""What a person asks for when they launch a stage, what comes back, and how it can fail."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """One launch of one stage; `trainer.run.run` executes it."""

    recipe: str  # a name, or file.py:name
    data: str  # folder or address of the shards
    out: Path  # the run's folder
    overrides: tuple[str, ...] = ()  # "optim.lr=3e-4"
    start_run: str = ""  # run folder, weights file or published name to start from (`--from`)
    where: str = ""  # SQL over samples, in place of the recipe's
    objective: str = ""  # file.py:Name, in place of the recipe's
    resume: str = "auto"  # auto | never | a run folder or checkpoint to go on from
    dry_run: bool = False  # one step, nothing saved
    profile: bool = False  # some steps under the profiler, and what bounds them
    device: str = "auto"
    wandb: bool = False


class Outcome(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    PREEMPTED = "preempted"  # asked to stop by SIGTERM or SIGUSR1: saved, wants to be queued again
    INTERRUPTED = "interrupted"  # by Ctrl-C: saved
    TRIED = "tried"  # a dry run


class ExitCode(IntEnum):
    """What a process that runs a request ends with."""

    OK = 0
    USAGE = 2  # something typed or given is wrong
    FAILED = 3  # numbers that are no numbers, data that do not decode
    REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
    INTERRUPTED = 130


_CODES = {
    Outcome.FINISHED: ExitCode.OK,
    Outcome.PREEMPTED: ExitCode.REQUEUE,
    Outcome.INTERRUPTED: ExitCode.INTERRUPTED,
    Outcome.TRIED: ExitCode.OK,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run left."""

    outcome: Outcome
    out: Path
    step: int  # optimiser steps so far, those of earlier launches included
    checkpoint: Path | None = None  # the last one
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last evaluation, by name

    @property
    def exit_code(self) -> ExitCode:
        return _CODES[self.outcome]


class RunError(ValueError):
    """A request that cannot be run as it was made; one line with the value and the next step."""

    code = ExitCode.USAGE


class RunFailed(RunError):
    """A run that had to stop by itself."""

    code = ExitCode.FAILED
