"""What a paper's tables take: steps with inputs, outputs and commands, made of the tables' own rows."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shards.profile import ProfileError, read_dataset
from shards.store import StoreError, open_store
from trainer.recipes import RECIPES
from trainer.results_page import TITLES, read_published
from trainer.run_request import RunError
from trainer.run_view import read_run

Kind = Literal["data", "stage", "evaluation", "crossval", "tables"]
ScaleName = Literal["toy", "full"]

TABLES = tuple(TITLES)
_PARENTS = {  # where each stage starts: docs/stages.md
    "standalone": "",
    "standalone_5_epochs": "",
    "cooperative": "standalone",
    "full": "cooperative",
}
_TASKS = {"classification": "classification", "zero_shot": "zero-shot", "retrieval": "query"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """A data set at its published size."""

    train: int  # samples that a stage learns from, or of all folds
    test: int
    disk_gb: float
    folds: int = 0
    how: str = ""  # the command that makes it


# rows of the published lists; GB as measured: 0.57 MB a ten-second sample of AudioSet (docs/log.md)
_FULL: Mapping[str, _Facts] = {
    "audioset": _Facts(
        train=2_063_949,
        test=20_371,
        disk_gb=1_190.0,
        how="trichord ingest --segments SPLIT_segments.csv --out OUT, for each split",
    ),
    "esc50": _Facts(
        train=2_000, test=2_000, disk_gb=0.4, folds=5, how="trichord rebuild esc50 --root DIR --out OUT"
    ),
    "us8k": _Facts(
        train=8_732,
        test=8_732,
        disk_gb=1.2,
        folds=10,
        how="trichord rebuild urbansound8k --root DIR --out OUT",
    ),
    "imagenet": _Facts(
        train=0, test=50_000, disk_gb=6.7, how="trichord rebuild imagenet-val --root DIR --out OUT"
    ),
}
_TOY: Mapping[str, _Facts] = {
    "audioset": _Facts(train=24, test=12, disk_gb=0.02),
    "esc50": _Facts(train=24, test=24, disk_gb=0.01, folds=3),
    "us8k": _Facts(train=18, test=18, disk_gb=0.01, folds=3),
    "imagenet": _Facts(train=0, test=16, disk_gb=0.01),
}
# samples a second and GPU hours come of: of one H200 derived from FLOPs, of a toy counted on one core
_LEARNED_PER_S = {"full": 800.0, "toy": 8.0}
_JUDGED_PER_S = {"full": 1_500.0, "toy": 20.0}
_RUN_GB = {"full": 4.0, "toy": 0.02}  # weights, and three checkpoints with the optimiser's state
_TOY_EPOCHS = 6  # on folds: fewer leave statistics of normalisation where they began
_RECIPES = {"full": "audioclip", "toy": "debug"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReproduceRequest:
    """What a person asks for."""

    out: Path
    tables: tuple[str, ...] = TABLES
    scale: ScaleName = "toy"
    data: Mapping[str, str] = field(default_factory=dict)  # name -> address of shards that are there
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Something to be done once; `output` is there afterwards."""

    name: str
    kind: Kind
    output: str  # a folder, or the address of shards
    needs: tuple[str, ...] = ()  # names of steps
    command: tuple[str, ...] = ()  # words after `trichord`; empty for what this process does itself
    recipe: str = ""  # as the tables' rows have it: "audioclip.finetune_esc50 from audioclip.full"
    how: str = ""  # what a person has to do, where no machine can
    learned: float = 0.0  # samples that go through training
    judged: float = 0.0  # and through evaluation
    disk_gb: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Steps in an order in which each comes after what it needs."""

    request: ReproduceRequest
    steps: tuple[Step, ...]

    @property
    def out(self) -> Path:
        return self.request.out

    def receipt(self, step: Step) -> Path:
        return self.out / "steps" / f"{step.name}.json"

    def did(self, step: Step) -> list[str]:
        """What a receipt is for: the same step of another scale, or with other inputs, is another one."""
        return [self.request.scale, step.output, *(step.command or step.needs)]

    def done(self, step: Step) -> bool:
        """Whether the step left its receipt, for this very command; data may also just be there."""
        if _json(self.receipt(step)).get("did") == self.did(step) and Path(step.output).exists():
            return True
        return step.kind == "data" and not step.command and _is_dataset(step.output, self.request)

    def rows(self) -> list[dict[str, str]]:
        """The published numbers that these steps stand beside."""
        return _rows(self.request.tables)


def make_plan(request: ReproduceRequest) -> Plan:
    """Every step that the tables take. Raises RunError for what is asked wrongly."""
    if unknown := [table for table in request.tables if table not in TABLES] or not request.tables:
        told = unknown if isinstance(unknown, list) else []
        raise RunError(f"--tables names {', '.join(told) or 'none'}; expected some of {','.join(TABLES)}")
    if strange := sorted(set(request.data) - set(_FULL)):
        raise RunError(f"--data names {strange[0]!r}; expected NAME=SHARDS with {', '.join(_FULL)}")
    steps: dict[str, Step] = {}
    for row in _rows(request.tables):
        for step in _steps_of(row, request):
            steps.setdefault(step.name, step)
    ordered = sorted(steps.values(), key=lambda step: _ORDER.index(step.kind))
    tables = Step(
        name="tables",
        kind="tables",
        output=str(request.out / "results.md"),
        needs=tuple(step.name for step in ordered),
    )
    return Plan(request=request, steps=(*_in_order(ordered), tables))


_ORDER = ("data", "stage", "evaluation", "crossval", "tables")


def _rows(tables: Iterable[str]) -> list[dict[str, str]]:
    return [row for row in read_published() if row["table"] in tables and row["our_metric"]]


def _in_order(steps: list[Step]) -> Iterator[Step]:
    """Stages after those that they start from."""
    done: set[str] = set()
    left = list(steps)
    while left:
        ready = next(step for step in left if set(step.needs) <= done)
        left.remove(ready)
        done.add(ready.name)
        yield ready


# -- the steps of one published number


def _steps_of(row: Mapping[str, str], request: ReproduceRequest) -> Iterator[Step]:
    own, _, parent = row["our_recipe"].partition(" from ")
    stage, dataset = own.partition(".")[2], row["our_dataset"]
    yield _data(dataset, request)
    if stage in _PARENTS:
        yield from _stages(stage, request)
        yield _evaluation(stage, dataset, request)
    else:
        started = parent.partition(".")[2] or "standalone"
        yield from _stages(started, request)
        yield _crossval(row["our_recipe"], stage, started, dataset, request)


def _address(dataset: str, request: ReproduceRequest) -> str:
    return request.data.get(dataset, str(request.out / "data" / dataset))


def _data(dataset: str, request: ReproduceRequest) -> Step:
    facts = _facts(dataset, request)
    return Step(
        name=f"data-{dataset}",
        kind="data",
        output=_address(dataset, request),
        how=facts.how.replace("OUT", _address(dataset, request)),
        disk_gb=0.0 if dataset in request.data else facts.disk_gb,
    )


def _facts(dataset: str, request: ReproduceRequest) -> _Facts:
    return (_TOY if request.scale == "toy" else _FULL)[dataset]


def _stages(stage: str, request: ReproduceRequest) -> Iterator[Step]:
    """The stage, after those that it starts from."""
    parent = _PARENTS[stage]
    if parent:
        yield from _stages(parent, request)
    yield _data("audioset", request)
    recipe, out = f"{_RECIPES[request.scale]}.{stage}", _run(stage, request)
    started = ("--from", _run(parent, request)) if parent else ()
    yield Step(
        name=f"stage-{stage}",
        kind="stage",
        output=out,
        needs=("data-audioset", *([f"stage-{parent}"] if parent else [])),
        command=("train", recipe, *started, *_common("audioset", out, request)),
        recipe=f"audioclip.{stage}",
        learned=RECIPES[recipe].epochs * _facts("audioset", request).train,
        disk_gb=_RUN_GB[request.scale],
    )


def _run(stage: str, request: ReproduceRequest) -> str:
    return str(request.out / "runs" / stage)


def _common(dataset: str, out: str, request: ReproduceRequest) -> tuple[str, ...]:
    return ("--data", _address(dataset, request), "--out", out, "--device", request.device)


def _evaluation(stage: str, dataset: str, request: ReproduceRequest) -> Step:
    """Everything that any table asks of this model on these data: it costs one pass."""
    wanted = [
        row["our_metric"].partition("/")[0]
        for row in read_published()
        if row["our_recipe"] == f"audioclip.{stage}" and row["our_dataset"] == dataset
    ]
    tasks = [word for group in dict.fromkeys(wanted) for word in ("--task", _TASKS[group])]
    out = str(request.out / "evaluations" / f"{stage}-{dataset}")
    split = ("--split", "eval") if dataset == "audioset" else ()
    small = ("--seconds", "1", "--batch-size", "8", "--resamples", "100") if request.scale == "toy" else ()
    bare = ("--prompt", "{}") if request.scale == "toy" and dataset == "imagenet" else ()  # not 80 of them
    return Step(
        name=f"evaluation-{stage}-{dataset}",
        kind="evaluation",
        output=out,
        needs=(f"data-{dataset}", f"stage-{stage}"),
        command=(
            "evaluate",
            _run(stage, request),
            *tasks,
            *split,
            *_common(dataset, out, request),
            *small,
            *bare,
        ),
        recipe=f"audioclip.{stage}",
        judged=_facts(dataset, request).test,
    )


def _crossval(row_recipe: str, stage: str, started: str, dataset: str, request: ReproduceRequest) -> Step:
    facts, recipe = _facts(dataset, request), f"{_RECIPES[request.scale]}.{stage}"
    out = str(request.out / "crossval" / f"{stage}-from-{started}")
    small = ("--set", f"epochs={_TOY_EPOCHS}") if request.scale == "toy" else ()
    epochs = _TOY_EPOCHS if small else RECIPES[recipe].epochs
    words = (recipe, "--from", _run(started, request), *_common(dataset, out, request), *small)
    return Step(
        name=f"crossval-{stage}-from-{started}",
        kind="crossval",
        output=out,
        needs=(f"data-{dataset}", f"stage-{started}"),
        command=("crossval", *words),
        recipe=row_recipe,
        learned=(facts.folds - 1) * facts.train * epochs,
        judged=facts.test,
        disk_gb=facts.folds * _RUN_GB[request.scale],
    )


# -- what is there


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _is_dataset(address: str, request: ReproduceRequest) -> bool:
    """Shards that somebody else made; this command's own toy data count by their receipt alone."""
    if request.scale == "toy" and address not in request.data.values():
        return False
    try:
        read_dataset(open_store(address))
    except (StoreError, ProfileError, OSError, ValueError):
        return False
    return True


# -- what it costs


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one step."""

    disk_gb: float
    hours: float  # of one GPU; of one core at toy scale
    source: str  # measured or assumed


def cost_of(step: Step, plan: Plan) -> Cost:
    """By the speed of the plan's own runs as far as there are any, else by an assumed one."""
    scale = plan.request.scale
    measured = _speed(step) or _speed_of_any(plan)
    learned_per_s = measured or _LEARNED_PER_S[scale]
    seconds = step.learned / learned_per_s + step.judged / _JUDGED_PER_S[scale]
    source = "" if not seconds else "measured" if measured and step.learned else "assumed"
    return Cost(disk_gb=step.disk_gb, hours=seconds / 3600, source=source)


def _speed(step: Step) -> float | None:
    """Samples a second of a stage's run."""
    if step.kind != "stage" or not (Path(step.output) / "run.json").exists():
        return None
    try:
        return read_run(Path(step.output)).samples_per_s
    except ValueError:
        return None


def _speed_of_any(plan: Plan) -> float | None:
    return next((speed for step in plan.steps if (speed := _speed(step))), None)


def command_line(step: Step) -> str:
    """What a person would type for it."""
    return shlex.join(("trichord", *step.command)) if step.command else step.how
