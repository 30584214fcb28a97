"""Where a step's time goes, and so what bounds the speed."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.feed import Feed
from trainer.run_folder import RunFolder
from trainer.step import Training, take_step

WARM_UP = 5  # steps: kernels are searched for, memory is asked for
TRACED = 3  # steps in the trace, which grows by megabytes with each
DATA_BOUND = 0.1  # share of time spent waiting from which on data are the bound


@dataclass(kw_only=True, slots=True)
class Spent:
    """Seconds by part, over some steps."""

    steps: int = 0
    data: float = 0.0
    forward: float = 0.0
    optimiser: float = 0.0
    total: float = 0.0
    marks: list[float] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Of the total; what is neither waiting, forward nor optimiser is the backward pass."""
        backward = max(self.total - self.data - self.forward - self.optimiser, 0.0)
        parts = {
            "data": self.data,
            "forward": self.forward,
            "backward": backward,
            "optimiser": self.optimiser,
        }
        return {name: spent / self.total for name, spent in parts.items()}


def profiled(training: Training, feed: Feed, folder: RunFolder, *, steps: int) -> list[str]:
    """Runs some steps that are not kept, writes a trace for chrome://tracing, and says what it shows."""
    training.learner.train()
    spent = Spent()
    with contextlib.closing(feed.batches(0)) as batches, _timed_parts(training, spent):
        _steps(training, batches, range(WARM_UP), Spent())
        spent.forward = spent.optimiser = 0.0
        _steps(training, batches, range(WARM_UP, WARM_UP + steps), spent)
        first = WARM_UP + steps
        with torch.profiler.profile(activities=_activities(training)) as profiler:
            _steps(training, batches, range(first, first + TRACED), Spent())
    folder.profile.mkdir(parents=True, exist_ok=True)
    trace = folder.profile / "trace.json"
    profiler.export_chrome_trace(str(trace))
    return [*_verdict(spent, training.stage.batch_size), f"trace of {TRACED} steps: {trace}"]


def _steps(training: Training, batches: Iterator[Any], steps: range, spent: Spent) -> None:
    for step in steps:
        started = time.perf_counter()
        fed = next(batches)
        _finish(training)
        spent.data += time.perf_counter() - started
        take_step(training, fed.batch, step=step)
        _finish(training)
        spent.total += time.perf_counter() - started
        spent.steps += 1


@contextlib.contextmanager
def _timed_parts(training: Training, spent: Spent) -> Iterator[None]:
    """Counts time in the learner's forward pass and in the optimiser, waiting for the device at both ends."""

    def begin(*_: Any) -> None:
        _finish(training)
        spent.marks.append(time.perf_counter())

    def end_forward(*_: Any) -> None:
        _finish(training)
        spent.forward += time.perf_counter() - spent.marks.pop()

    def end_optimiser(*_: Any) -> None:
        _finish(training)
        spent.optimiser += time.perf_counter() - spent.marks.pop()

    model: nn.Module = training.learner
    hooks = [
        model.register_forward_pre_hook(begin),
        model.register_forward_hook(end_forward),
        training.optimiser.register_step_pre_hook(begin),
        training.optimiser.register_step_post_hook(end_optimiser),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _finish(training: Training) -> None:
    if training.ranks.device.type == "cuda":
        torch.cuda.synchronize(training.ranks.device)


def _activities(training: Training) -> list[Any]:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    return [*kinds, torch.profiler.ProfilerActivity.CUDA] if training.ranks.device.type == "cuda" else kinds


def _verdict(spent: Spent, batch_size: int) -> Iterator[str]:
    shares = spent.shares()
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    yield f"{spent.steps} steps, {batch_size * spent.steps / spent.total:.3g} samples/s: {told}"
    if shares["data"] > DATA_BOUND:
        yield "bound by data: more decoding threads (machine.threads), a nearer copy, or shards of WAV"
    else:
        part = max(("forward", "backward", "optimiser"), key=lambda name: shares[name])
        yield f"bound by computing, most of it {part}: machine.compile, or a faster device"
