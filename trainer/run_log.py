"""What a run says while it goes: a header, a live line, and every step in files."""

import importlib.util
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from shards.whole_file import appearing
from trainer.run_folder import RunFolder
from trainer.run_request import RunError

LINE_EVERY_S = 10.0  # where no terminal shows a live line
SMOOTHING = 0.9  # of speeds, per step
ESTIMATE_AFTER = 20  # steps, until speeds have settled
IN_SHORT = ("/accuracy", "/mAP", "_to_audio/R@1", "_to_image/R@1")
WANDB_ID = "wandb-id"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFacts:
    """One step, as the log keeps it."""

    step: int  # from 1: how many are done
    epoch: int  # from 0
    loss: float
    terms: Mapping[str, float]
    floor: Mapping[str, float] = field(default_factory=dict)  # of the terms, by the batch's equal texts
    lr: float
    gradient_norm: float
    scales: Mapping[str, float] = field(default_factory=dict)
    samples: int  # in the step, of all processes
    step_s: float  # all of it
    waited_s: float = 0.0  # for data, of it
    memory_gb: float = 0.0
    replaced: int = 0  # samples that did not decode, by this process, since it began

    def numbers(self) -> dict[str, float]:
        """Each by the name that it has in every log."""
        return {
            "train/loss": self.loss,
            **{f"train/loss/{name}": value for name, value in self.terms.items()},
            **{f"train/floor/{name}": value for name, value in self.floor.items()},
            "train/lr": self.lr,
            "train/gradient_norm": self.gradient_norm,
            **{f"train/scale/{name}": value for name, value in self.scales.items()},
            "speed/samples_per_s": self.samples / max(self.step_s, 1e-9),
            "speed/waited_share": self.waited_s / max(self.step_s, 1e-9),
            "speed/memory_gb": self.memory_gb,
            "speed/samples_replaced": self.replaced,
        }


class Sink(Protocol):
    """Somewhere that numbers go."""

    def log(self, step: int, epoch: int, numbers: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self, *, failed: bool = False) -> None: ...


class JsonLines:
    """`log.jsonl`: one object a line, `step` and `epoch` first; numbers in full, to be compared."""

    def __init__(self, path: Path, *, after: int, evaluated: bool = True) -> None:
        """Drops what an earlier launch logged beyond step `after`, which will be trained again.

        Unless that step is `evaluated`, what was measured after it is dropped, too.
        """
        _truncate(path, after, evaluated)
        self._file = path.open("a", buffering=1)

    def log(self, step: int, epoch: int, numbers: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "epoch": epoch, **numbers}) + "\n")

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, failed: bool = False) -> None:
        self._file.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a `log.jsonl`; one that was cut off by a kill is left out."""
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def _truncate(path: Path, after: int, evaluated: bool) -> None:
    if path.is_file():
        last = after if evaluated else after - 1
        kept = [line for line in read_log(path) if line["step"] <= (after if "train/loss" in line else last)]
        with appearing(path) as unfinished:
            unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept))


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path, *, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer: Any = SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def log(self, step: int, epoch: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, *, failed: bool = False) -> None:
        self._writer.close()


def check_wandb() -> None:
    """Raises RunError where Weights & Biases is not installed."""
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # a folder `wandb`, which it leaves, is no package
        raise RunError(
            "--wandb: wandb is not installed; expected the extra of that name: pip install -e '.[wandb]', or "
            "leave --wandb out"
        )


class Wandb:
    """Weights & Biases, for those who asked for it. A run that goes on has its number in the run's folder."""

    def __init__(self, folder: RunFolder, facts: Mapping[str, Any]) -> None:
        """Raises RunError where it is not installed, or will not begin: nobody is logged in."""
        check_wandb()
        import wandb  # type: ignore[import-not-found,unused-ignore]  # an extra of its own

        name = folder.path / WANDB_ID
        identity = name.read_text().strip() if name.is_file() else uuid.uuid4().hex[:8]
        name.write_text(f"{identity}\n")
        try:
            self._run: Any = wandb.init(
                id=identity,
                name=folder.path.resolve().name,
                resume="allow",
                dir=str(folder.path),
                config=dict(facts),
            )
        except wandb.Error as error:
            told = " ".join(str(error).split()).rstrip(".")
            raise RunError(
                f"--wandb: {told}; `wandb login` first, or WANDB_MODE=offline, or leave --wandb out"
            ) from None

    def log(self, step: int, epoch: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "epoch": epoch}, step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def close(self, *, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))


class Display:
    """The live line on a terminal; elsewhere a line now and then."""

    def __init__(self, *, steps: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._steps = steps  # in all
        self._step_s: float | None = None
        self._waited = 0.0
        self._seen = 0
        self._said_at = 0.0
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def step(self, facts: StepFacts) -> None:
        self._seen += 1
        before = facts.step_s if self._step_s is None else self._step_s
        keep = SMOOTHING if self._seen > 2 else 0.0  # the first step compiles and searches
        self._step_s = keep * before + (1 - keep) * facts.step_s
        self._waited = keep * self._waited + (1 - keep) * facts.waited_s
        if self._seen == ESTIMATE_AFTER:
            self.say(f"about {duration((self._steps - facts.step) * self._step_s)} to go")
        self._show(facts)

    def _show(self, facts: StepFacts) -> None:
        if self._live is not None:
            self._live.update(Text(self._line(facts), no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._said_at >= LINE_EVERY_S or facts.step in (1, self._steps):
            self._said_at = time.monotonic()
            self.say(self._line(facts))

    def _line(self, facts: StepFacts) -> str:
        assert self._step_s is not None
        terms = " ".join(f"{name} {_with_floor(name, facts)}" for name in facts.terms)
        scales = " ".join(f"{name} {value:.1f}" for name, value in facts.scales.items())
        parts = [
            f"step {facts.step:,}/{self._steps:,} epoch {facts.epoch}",
            f"loss {facts.loss:.4g}"
            + (f" ({terms})" if len(facts.terms) > 1 or any(facts.floor.values()) else ""),
            f"{facts.samples / self._step_s:.3g} samples/s",
            f"waiting {self._waited / self._step_s:.0%}",
            f"lr {facts.lr:.3g}",
            f"scales {scales}" if scales else "",
            f"{facts.memory_gb:.1f} GB",
            f"{facts.replaced} samples did not decode" if facts.replaced else "",
            f"{duration((self._steps - facts.step) * self._step_s)} to go",
        ]
        return " | ".join(part for part in parts if part)


def _with_floor(name: str, facts: StepFacts) -> str:
    value = f"{facts.terms[name]:.4g}"
    return f"{value} of at least {facts.floor[name]:.3g}" if facts.floor.get(name, 0) > 0 else value


def duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = max(round(seconds), 0)
    for size, name, next_size, next_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // next_size} {next_name}"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"


class RunLog:
    """All that one process says for the run; of the other ranks, nobody says anything."""

    def __init__(self, display: Display | None, sinks: Sequence[Sink] = ()) -> None:
        self._display, self._sinks = display, tuple(sinks)

    def say(self, *lines: str) -> None:
        for line in lines:
            if self._display is not None:
                self._display.say(line)

    def step(self, facts: StepFacts) -> None:
        for sink in self._sinks:
            sink.log(facts.step, facts.epoch, facts.numbers())
        if self._display is not None:
            self._display.step(facts)

    def evaluation(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """`metrics` by group/subject/measure."""
        for sink in self._sinks:
            sink.log(step, epoch, metrics)
        self.say(f"after step {step:,}: {_in_short(metrics)}")

    def flush(self) -> None:
        """To the disk: what a checkpoint is about to rely on."""
        for sink in self._sinks:
            sink.flush()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The live line, as long as this lasts; files are closed afterwards."""
        with ExitStack() as stack:  # one that cannot be closed, on a full disk, leaves the others to be
            for sink in self._sinks:
                stack.push(partial(_close, sink))
            with nullcontext() if self._display is None else self._display.shown():
                yield


def _close(sink: Sink, kind: type[BaseException] | None, *_: object) -> None:
    sink.close(failed=kind is not None)


def _in_short(metrics: Mapping[str, float]) -> str:
    """The measures that people ask for first; all are in the log."""
    first = {name: value for name, value in metrics.items() if name.endswith(IN_SHORT)} or dict(metrics)
    told = ", ".join(f"{name} {value:.3f}" for name, value in first.items())
    rest = len(metrics) - len(first)
    return f"{told}; {rest} more in log.jsonl" if rest else told


def open_log(
    folder: RunFolder,
    *,
    steps: int,
    after: int = 0,
    evaluated: bool = True,
    facts: Mapping[str, Any],
    wandb: bool = False,
) -> RunLog:
    """JSONL and TensorBoard always, and what else was asked for; going on after step `after`."""
    sinks: list[Sink] = [Wandb(folder, facts)] if wandb else []  # first: it may not be there
    lines = JsonLines(folder.log, after=after, evaluated=evaluated)
    sinks += [lines, TensorBoard(folder.tensorboard, after=after)]
    return RunLog(Display(steps=steps), sinks)
