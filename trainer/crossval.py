"""Cross-validation on the official folds: for each, train on the others, judge on it; mean and spread."""

import dataclasses
import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.parquet import read_table
from shards.profile import ProfileError, describe_partial, read_dataset
from shards.store import StoreError, open_store
from trainer.evaluation_run import EvaluationRequest, run_evaluation
from trainer.measure import ON_TEST, Draws, Measure, fold_mean
from trainer.requested import requested
from trainer.results import REPLICATES, Provenance, append_results, latest, read_results
from trainer.run import run
from trainer.run_folder import RunFolder, locked
from trainer.run_request import Outcome, RunError, RunRequest
from trainer.stage import Stage
from trainer.stage_view import differences, shown, stage_to_json

CROSSVAL = "crossval.json"
SETTING = "cross-validation"  # of its rows among results
FORMAT = 1

_FOLD = re.compile(r"fold(\d+)")
_OURS = ("data.train", "data.test", "data.dev_from", "data.dev_share")  # what the folds decide
_CHOSEN_BY = "classification/audio/accuracy"
_ALL = math.nextafter(1.0, 0.0)  # the largest share below 1: every sample's draw is below it

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossvalRequest:
    """A cross-validation, as a person asks for it."""

    recipe: str
    data: str
    out: Path
    start_run: str = ""
    folds: tuple[int, ...] = ()  # that are judged; all of the data set's without any
    overrides: tuple[str, ...] = ()
    select_on_test: bool = False  # the best epoch by the judged fold, as published work often does
    seconds: float = 0.0  # of sound that is heard when judging; 0: as many as the recipe's
    device: str = "auto"
    draws: Draws = field(default_factory=Draws)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldResult:
    """What one fold came to."""

    fold: str
    n: int
    values: Mapping[str, float]  # by metric
    intervals: Mapping[str, tuple[float | None, float | None]]
    best_step: int | None  # of a choice on the fold itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One metric over folds."""

    metric: str
    mean: float  # unweighted
    spread: float | None  # sample standard deviation; None for one fold
    low: float | None  # 95 %, each fold's items drawn again by themselves
    high: float | None
    n: int  # items of all folds


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossvalResult:
    """Where it stands: all folds that were asked for, or those before it was asked to stop."""

    out: Path
    outcome: Outcome
    folds: tuple[FoldResult, ...] = ()
    left: tuple[str, ...] = ()  # folds that the data set has and that were not judged
    summaries: tuple[Summary, ...] = ()
    partial: str = ""  # what the data set lacks, in words


def cross_validate(request: CrossvalRequest, *, say: Say = lambda line: None) -> CrossvalResult:
    """Train and judge every fold that is not done yet. Killed and called again, it goes on.

    Raises RunError, one line, for what was asked wrongly or is not what `out` was begun with.
    """
    plan = _planned(request)
    with locked(RunFolder(request.out)):
        _begin(plan)
        for place, fold in enumerate(plan.judged, start=1):
            say(f"fold {place} of {len(plan.judged)}: {_told(plan, fold)}")
            if (outcome := _fold(plan, fold, say)) is not Outcome.FINISHED:
                return CrossvalResult(out=request.out, outcome=outcome)
        return _concluded(plan)


# -- what is to be done


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """A request beside the folds that the data have."""

    request: CrossvalRequest
    stage: Stage  # as the recipe and the overrides have it, without folds
    folds: tuple[str, ...]  # of the data
    judged: tuple[str, ...]
    dataset: str
    partial: str

    def folder(self, fold: str) -> Path:
        return self.request.out / fold


def folds_of(splits: Sequence[str]) -> tuple[str, ...]:
    """The official folds among the names of splits, by their numbers."""
    return tuple(sorted(filter(_FOLD.fullmatch, splits), key=lambda name: int(name.removeprefix("fold"))))


def _planned(request: CrossvalRequest) -> _Plan:
    _check_overrides(request)
    stage = requested(_run_request(request, out=request.out)).stage
    try:
        dataset = read_dataset(open_store(request.data))
    except (StoreError, ProfileError, OSError, ValueError) as error:
        raise RunError(str(error)) from error
    folds = folds_of(list(dataset.splits))
    if len(folds) < 2:
        raise RunError(
            f"{request.data} has the splits {', '.join(sorted(dataset.splits)) or 'none'}; expected folds, "
            "fold1, fold2 and so on, as `trichord rebuild esc50` makes them"
        )
    return _Plan(
        request=request,
        stage=stage,
        folds=folds,
        judged=_judged(request, folds),
        dataset=dataset.name,
        partial=describe_partial(dataset.partial) if dataset.partial else "",
    )


def _check_overrides(request: CrossvalRequest) -> None:
    for override in request.overrides:
        if (path := override.partition("=")[0].strip()) in _OURS:
            raise RunError(f"--set {path}: cross-validation decides that, fold by fold; choose by --folds")


def _judged(request: CrossvalRequest, folds: tuple[str, ...]) -> tuple[str, ...]:
    wanted = dict.fromkeys(f"fold{number}" for number in request.folds)
    if unknown := [fold for fold in wanted if fold not in folds]:
        numbers = ",".join(fold.removeprefix("fold") for fold in folds)
        raise RunError(f"--folds names {', '.join(unknown)}; {request.data} has {numbers}")
    return tuple(wanted) or folds


def _run_request(request: CrossvalRequest, *, out: Path, overrides: tuple[str, ...] = ()) -> RunRequest:
    return RunRequest(
        recipe=request.recipe,
        data=request.data,
        out=out,
        overrides=(*request.overrides, *overrides),
        start_run=request.start_run,
        device=request.device,
    )


def _told(plan: _Plan, fold: str) -> str:
    others = ", ".join(_others(plan, fold))
    choice = f"best epoch chosen on {fold} itself" if plan.request.select_on_test else "last epoch"
    return f"train on {others}; judge on {fold}; {choice}"


def _others(plan: _Plan, fold: str) -> tuple[str, ...]:
    return tuple(other for other in plan.folds if other != fold)


# -- the folder


def _begin(plan: _Plan) -> None:
    """Raises RunError when the folder holds another cross-validation."""
    path, facts = plan.request.out / CROSSVAL, _facts(plan)
    if not path.exists():
        return RunFolder(plan.request.out).write(path, facts)
    before = _read(path)
    changed = [
        f"{name} was {shown(before.get(name))}, is {shown(facts[name])}"
        for name in ("recipe", "start_run", "data", "select_on_test", "seconds", "resamples")
        if before.get(name) != facts[name]
    ]
    changed += [
        f"{name} was {shown(old)}, is {shown(new)}"
        for name, old, new in differences(before["stage"], facts["stage"])
        if not name.startswith("machine.")
    ]
    if changed and not any((plan.request.out / fold / "checkpoints").exists() for fold in plan.folds):
        return RunFolder(plan.request.out).write(path, facts)  # nothing was learned of what was asked before
    if changed:
        raise RunError(
            f"{plan.request.out} holds another cross-validation: {'; '.join(changed)}. "
            "Give what it was begun with to go on, or another --out"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not readable: {error}; expected what `crossval` wrote") from None


def _facts(plan: _Plan) -> dict[str, Any]:
    request = plan.request
    return {
        "format": FORMAT,
        "recipe": request.recipe,
        "start_run": request.start_run,
        "overrides": list(request.overrides),
        "data": request.data,
        "dataset": plan.dataset,
        "partial": plan.partial,
        "dataset_folds": list(plan.folds),
        "select_on_test": request.select_on_test,
        "seconds": request.seconds,
        "resamples": request.draws.resamples,
        "stage": stage_to_json(plan.stage),
    }


# -- a fold


def _fold(plan: _Plan, fold: str, say: Say) -> Outcome:
    """Trained, judged, and its results left: they are the sign that a fold is done."""
    folder = plan.folder(fold)
    if read_results(folder):
        say(f"{fold}: done before; its results are in {folder}")
        return Outcome.FINISHED
    overrides = _fold_overrides(plan, fold)
    trained = run(_run_request(plan.request, out=folder, overrides=overrides))
    if trained.outcome is Outcome.FINISHED:
        run_evaluation(_evaluation(plan, fold))
    return trained.outcome


def _fold_overrides(plan: _Plan, fold: str) -> tuple[str, ...]:
    train = f"data.train={','.join(_others(plan, fold))}"
    if not plan.request.select_on_test:
        return (train, f"data.test={fold}", "data.dev_from=", "data.dev_share=0", "evaluations=", "best=")
    # the judged fold as dev: the run's own record says what it was chosen by
    chosen = (f"data.dev_from={fold}", f"data.dev_share={_ALL!r}", "data.test=")
    return (train, *chosen, "evaluations=classification", f"best={_CHOSEN_BY}")


def _evaluation(plan: _Plan, fold: str) -> EvaluationRequest:
    """The fold heard as the stage hears; sound and names are compared as well where there are names."""
    request, data = plan.request, plan.stage.data
    has_text = not plan.stage.model.classes and "text" in plan.stage.model.towers
    return EvaluationRequest(
        model=str(plan.folder(fold)),
        data=request.data,
        tasks=("classification", "query") if has_text else ("classification",),
        out=plan.folder(fold),
        splits=(fold,),
        annotations=data.annotations,
        text=data.text,
        seconds=request.seconds or data.seconds,
        channels=data.channels,
        stretch_amplitude=plan.stage.augment.stretch_amplitude,
        selected_on_test=request.select_on_test,
        batch_size=plan.stage.batch_size,  # what fits to learn from, fits to be judged
        draws=request.draws,
        device=request.device,
    )


# -- all of them


def _concluded(plan: _Plan) -> CrossvalResult:
    """Everything that was judged so far, those of earlier calls included."""
    judged = tuple(fold for fold in plan.folds if read_results(plan.folder(fold)))
    measures = {fold: _measures(plan.folder(fold)) for fold in judged}
    result = CrossvalResult(
        out=plan.request.out,
        outcome=Outcome.FINISHED,
        folds=tuple(_fold_result(plan, fold, measures[fold]) for fold in judged),
        left=tuple(fold for fold in plan.folds if fold not in judged),
        summaries=tuple(_summaries(list(measures.values()))),
        partial=plan.partial,
    )
    _record(plan, measures)
    RunFolder(plan.request.out).write(plan.request.out / CROSSVAL, {**_facts(plan), **_plain(result)})
    return result


def _measures(folder: Path) -> list[Measure]:
    """A fold's numbers with what its intervals were made of."""
    drawn = {
        (row["metric"], row["setting"]): np.array(row["replicates"])
        for row in read_table(folder / REPLICATES).to_pylist()
    }
    return [
        Measure(
            name=row["metric"],
            value=math.nan if row["value"] is None else row["value"],
            n=row["n"],
            missing=row["missing"],
            left_out=row["left_out"],
            setting=row["setting"],
            replicates=drawn.get((row["metric"], row["setting"]), np.zeros(0)),
        )
        for row in latest(read_results(folder))
        if not row["fold"] and not row["class_name"]
    ]


def _fold_result(plan: _Plan, fold: str, measures: Sequence[Measure]) -> FoldResult:
    status = _read(RunFolder(plan.folder(fold)).status)
    return FoldResult(
        fold=fold,
        n=max(measure.n for measure in measures),
        values={measure.name: measure.value for measure in measures},
        intervals={measure.name: _ends(measure) for measure in measures},
        best_step=status.get("best_step") if plan.request.select_on_test else None,
    )


def _ends(measure: Measure) -> tuple[float | None, float | None]:
    sure = measure.interval
    return (sure.low, sure.high) if math.isfinite(sure.low) and math.isfinite(sure.high) else (None, None)


def _summaries(folds: Sequence[Sequence[Measure]]) -> list[Summary]:
    return [_summary(same) for same in zip(*folds, strict=True)]


def _summary(same: Sequence[Measure]) -> Summary:
    mean = mean_over_folds(same)
    low, high = _ends(mean)
    return Summary(
        metric=mean.name,
        mean=mean.value,
        spread=statistics.stdev(measure.value for measure in same) if len(same) > 1 else None,
        low=low,
        high=high,
        n=mean.n,
    )


def mean_over_folds(same: Sequence[Measure]) -> Measure:
    """One metric of several folds' models as one number; a choice on the test stays in its name."""
    bare = [dataclasses.replace(measure, name=measure.name.removesuffix(ON_TEST)) for measure in same]
    mean = dataclasses.replace(fold_mean(bare), missing=sum(measure.missing for measure in same))
    return mean.selected_on_test() if same[0].name.endswith(ON_TEST) else mean


def _record(plan: _Plan, measures: Mapping[str, Sequence[Measure]]) -> None:
    """Rows of each fold, and of their mean, among the results of the whole."""
    out, draws = plan.request.out, plan.request.draws
    origins = [_origin(plan.folder(fold)) for fold in measures]
    for (fold, found), origin in zip(measures.items(), origins, strict=True):
        append_results(out, [_of_fold(measure, fold) for measure in found], origin, draws)
    means = [_of_fold(mean_over_folds(same), "") for same in zip(*measures.values(), strict=True)]
    append_results(out, means, _joint(plan, origins), draws)


def _of_fold(measure: Measure, fold: str) -> Measure:
    setting = "; ".join(filter(None, (SETTING, measure.setting)))
    return dataclasses.replace(measure, fold=fold, setting=setting)


def _origin(folder: Path) -> Provenance:
    """What a fold's numbers were made with."""
    row = latest(read_results(folder))[-1]
    return Provenance(**{part.name: row[part.name] for part in dataclasses.fields(Provenance)})


def _joint(plan: _Plan, origins: Sequence[Provenance]) -> Provenance:
    """Of all folds together: hashes over theirs, in the folds' order."""
    shared = [origin.shared_with_training for origin in origins]
    return dataclasses.replace(
        origins[-1],
        dataset_sha256=_joined(origin.dataset_sha256 for origin in origins),
        key_list_sha256=_joined(origin.key_list_sha256 for origin in origins),
        checkpoint=_joined(origin.checkpoint for origin in origins)[:16],
        query="each fold by the model that was trained on the others",
        split=",".join(origin.split for origin in origins),
        model=str(plan.request.out),
        shared_with_training=None if None in shared else sum(filter(None, shared)),
    )


def _joined(hashes: Any) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _plain(result: CrossvalResult) -> dict[str, Any]:
    return {
        "folds": [dataclasses.asdict(fold) for fold in result.folds],
        "left": list(result.left),
        "summary": [dataclasses.asdict(summary) for summary in result.summaries],
    }
