"""The demo's second half: the road of stages at toy size on its shards, judged on what no stage has heard."""

import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.cli import Exit
from flows.demo_story import Stopwatch, Story
from pipeline.settings import SettingsError
from shards.query import open_manifest, run_query
from shards.store import open_store

LEAST_TO_LEARN = 48  # videos; fewer are too few to learn from, and to judge by
JUDGED = "eval"  # the split that no stage learns from
QUESTION = "Bird"
STOP_WITHIN_S = 60.0  # for a step and a checkpoint
ENDS = 0.2  # share of a run's steps at its beginning and at its end whose losses are compared
INTERRUPTED = (Exit.INTERRUPTED, Exit.REQUEUE)
DECISIVE = "text_to_audio/mAP"
SHOWN = ("text_to_audio/R@1", DECISIVE, "text_to_image/mAP", "audio_to_image/mAP")


class TrainingError(Exception):
    """A command failed, or nothing was learned; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRun:
    """A stage of the road, and how long it takes here."""

    recipe: str
    epochs: int
    evaluations: int = 1  # besides that before the first step
    others: tuple[str, ...] = ()  # more overrides

    @property
    def name(self) -> str:
        """Of its run's folder."""
        return self.recipe.partition(".")[2]

    @property
    def overrides(self) -> tuple[str, ...]:
        """What it is given besides its recipe, as `--set` takes it."""
        every = self.epochs // self.evaluations
        return (f"epochs={self.epochs}", f"evaluate_every={every}", *self.others)


ROAD = (
    StageRun(recipe="debug.standalone", epochs=4),
    StageRun(recipe="debug.cooperative", epochs=4),
    StageRun(recipe="debug.full", epochs=16, evaluations=4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lab:
    """Where it learns from, where it leaves what, and whom it tells."""

    dataset: Path
    folder: Path
    story: Story

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def curves(self) -> Path:
        return self.folder / "runs.html"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def found(self) -> Path:
        return self.folder / "search.html"


def learn(lab: Lab, road: Sequence[StageRun] = ROAD) -> None:
    """Train the road, judge its end, ask it something, draw it.

    Raises TrainingError when a loss does not fall or retrieval does not beat chance, KeyboardInterrupt when
    a command was interrupted, SettingsError where the trainer's packages are missing.
    """
    _check_installed()
    last = train_road(lab, road)
    judge(lab, last)
    search(lab, last)
    draw(lab, last)


def _check_installed() -> None:
    if importlib.util.find_spec("torch") is None:
        raise SettingsError(
            "No module named 'torch'; expected the trainer's extras: pip install -e '.[train]'"
        )


# ---------------------------------------------------------------------------------------- training


def train_road(lab: Lab, road: Sequence[StageRun]) -> Path:
    """The run of the last stage; each starts from the one before it."""
    lab.story.chapter("Training: AudioCLIP's road at toy size, each stage from the one before")
    before = None
    for stage in road:
        before = train_stage(lab, stage, before)
    if before is None:
        raise ValueError("a road without stages; expected at least one")
    return before


def train_stage(lab: Lab, stage: StageRun, before: Path | None) -> Path:
    """Its run, finished: begun, gone on with, or there already."""
    run, overrides, watch = lab.runs / stage.name, stage.overrides, Stopwatch()
    words = ["train", stage.recipe, "--data", str(lab.dataset), "--out", str(run)]
    words += ["--from", str(before)] if before else []
    words += [word for override in overrides for word in ("--set", override)]
    lab.story.ask(f"{stage.recipe}: {_about(stage)}", _typed(words))
    there = _finished(run, overrides)
    if not there:
        carry_out(words)
    begun, ended = loss_ends(run)
    took = "there already" if there else f"in {watch}"
    lab.story.say(f"{stage.name}, {took}: loss {begun:.2f} at first, {ended:.2f} at last")
    if not ended < begun:
        raise TrainingError(
            f"{run}: the loss went from {begun:.3f} to {ended:.3f}; expected it to fall. "
            f"Look at {run}/log.jsonl"
        )
    return run


def _about(stage: StageRun) -> str:
    from trainer.recipes import RECIPES

    return RECIPES[stage.recipe].about.rpartition(": ")[2]


def _finished(run: Path, overrides: Sequence[str]) -> bool:
    """Whether just this was trained to its end."""
    from trainer.run_view import find_runs, read_run

    if not find_runs(run):
        return False
    view = read_run(run)
    return view.state == "finished" and view.changes == tuple(overrides)


def loss_ends(run: Path) -> tuple[float, float]:
    """Means of the loss over a run's first and last steps."""
    from trainer.run_view import read_run

    losses = [loss for _, loss in read_run(run).curves.get("train/loss", ())]
    if len(losses) < 2:
        raise TrainingError(f"{run} has {len(losses)} steps; expected at least two, to compare their losses")
    some = max(1, round(ENDS * len(losses)))
    return statistics.fmean(losses[:some]), statistics.fmean(losses[-some:])


# ----------------------------------------------------------------------------------------- judging


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """What a ranking in random order comes to, in the mean over the queries."""

    recall_at_1: float
    average_precision: float


def chance(relevant: Sequence[int], items: int) -> Chance:
    """`relevant`: to each query, how many of the `items` are.

    In a random order of n items, r of them relevant, the first is one with probability r / n, which is 1 / n
    of them; and precision at the place k of a relevant one is in the mean (1 + (k - 1)(r - 1) / (n - 1)) / k.
    """
    harmonic = sum(1 / k for k in range(1, items + 1))
    others = max(items - 1, 1)
    each = [(harmonic + (items - harmonic) * (r - 1) / others) / items for r in relevant]
    return Chance(recall_at_1=1 / items, average_precision=statistics.fmean(each))


def judge(lab: Lab, run: Path) -> None:
    """Held-out retrieval beside chance. Raises TrainingError where it does not beat it."""
    words = ["evaluate", str(run), "--task", "query", "--data", str(lab.dataset), "--split", JUDGED]
    lab.story.chapter(f"Evaluation: {JUDGED}, of which no stage has heard or seen anything")
    lab.story.command(_typed(words))
    if not _is_newer(_results(run), run / "model.safetensors"):
        carry_out(words, aloud=False)
    rows = _rows(run)
    expected = chances(lab.dataset)
    lab.story.show(_beside_chance(rows, expected))
    check_beats_chance(rows[DECISIVE], expected[DECISIVE])
    sure = "beats chance" if rows[DECISIVE]["low"] > expected[DECISIVE] else "is above chance, but not surely"
    lab.story.say(f"{len(rows)} numbers with their definitions in {_results(run)}; {DECISIVE} {sure}")


def check_beats_chance(measured: Mapping[str, Any], expected: float) -> None:
    """Raises TrainingError for a measure that is no better."""
    if not measured["value"] > expected:
        raise TrainingError(
            f"{measured['metric']} on {JUDGED} is {measured['value']:.3f}; expected more than "
            f"{expected:.3f}, which is chance"
        )


def chances(dataset: Path) -> dict[str, float]:
    """What chance gives of each measure that is shown, by how many samples of `JUDGED` share their labels."""
    sql = f"select list_sort(mids) as labels from segments where outcome = 'ok' and split = '{JUDGED}'"
    rows = run_query(open_manifest(open_store(dataset)), sql).rows()
    sharing = Counter(tuple(map(str, labels)) for (labels,) in rows)  # type: ignore[call-overload]
    samples = sharing.total()
    by_text = chance(list(sharing.values()), samples)
    by_sample = chance([count for count in sharing.values() for _ in range(count)], samples)
    return {
        "text_to_audio/R@1": by_text.recall_at_1,
        DECISIVE: by_text.average_precision,
        "text_to_image/mAP": by_text.average_precision,
        "audio_to_image/mAP": by_sample.average_precision,
    }


def _results(run: Path) -> Path:
    return run / "results.jsonl"


def _rows(run: Path) -> Mapping[str, dict[str, Any]]:
    """The last number of each measure of the whole split."""
    lines = map(json.loads, _results(run).read_text(encoding="utf-8").splitlines())
    return {row["metric"].removeprefix("retrieval/"): row for row in lines if not row["fold"]}


def _beside_chance(rows: Mapping[str, dict[str, Any]], expected: Mapping[str, float]) -> Table:
    table = Table("retrieval", "chance", "held out", "95 % interval", "queries", box=None, pad_edge=False)
    for name in SHOWN:
        row = rows[name]
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{expected[name]:.3f}", f"{row['value']:.3f}", interval, str(row["n"]))
    return table


# ----------------------------------------------------------------------------- searching, drawing


def search(lab: Lab, run: Path) -> None:
    """One question in words, answered by sounds of the split that was held out."""
    index = ["index", str(lab.dataset), "--model", str(run), "--index", str(lab.index)]
    ask = ["search", "--text", QUESTION, "--index", str(lab.index), "--modality", "audio"]
    ask += ["--split", JUDGED, "--top", "5", "--html", str(lab.found)]
    lab.story.chapter("Search: what sounds like these words?")
    for words in (index, ask):
        lab.story.command(_typed(words))
        carry_out(words)


def draw(lab: Lab, run: Path) -> None:
    """Learning curves of all stages, and the last one as a page."""
    lab.story.chapter("What was learned, drawn")
    for words in (["runs", str(lab.runs), "--plot", str(lab.curves)], ["report", str(run)]):
        lab.story.command(_typed(words))
        carry_out(words)


# ---------------------------------------------------------------------------------------- commands


def _typed(words: Sequence[str]) -> str:
    return shlex.join(["trichord", *words])


def carry_out(words: Sequence[str], *, aloud: bool = True) -> None:
    """A command as a person types it, in a process of its own; what it says is said here.

    Raises TrainingError when it fails, KeyboardInterrupt when it was interrupted: it has saved by then.
    """
    sys.stdout.flush()
    # waiting threads sleep: on few cores, those that spin take the time of those that work
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    command = [sys.executable, "-m", "flows.cli", *words]
    out, errors = (None, _to_the_story()) if aloud else (subprocess.DEVNULL, subprocess.PIPE)
    process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors, text=True)
    try:
        _, said = process.communicate()
    except KeyboardInterrupt:
        _stop(process)
        raise
    if process.returncode in INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        why = said.strip().rpartition("\n")[2] if said else "see above what it said"
        raise TrainingError(f"exit code {process.returncode} of {_typed(words)}: {why}")


def _to_the_story() -> int | None:
    """Where what a person watches goes: beside the story, unless a terminal shows both."""
    return None if sys.stderr.isatty() else subprocess.STDOUT


def _stop(process: "subprocess.Popen[str]") -> None:
    """Wait for its checkpoint. Ctrl-C reached it, too; a signal to this process alone did not."""
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_newer(path: Path, than: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns > than.stat().st_mtime_ns


def to_look_at(lab: Lab) -> Iterator[tuple[str, str]]:
    """What this leaves, and what it is."""
    run = lab.runs / ROAD[-1].name
    yield str(lab.curves), "learning curves of the three stages"
    yield str(run / "report.html"), "the last stage on one page: curves, numbers, what it was trained on"
    yield str(lab.found), f"the sounds found for “{QUESTION}”, to hear and to see"
    yield f"tensorboard --logdir {lab.runs}", "the same curves where they can be zoomed"
    yield "trichord recipe show audioclip.full", "every value of the published stage, and where it is from"
