"""Cross-validation on small folds in ESC-50's form: what is trained, judged, summed up, not done twice."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ingestions import ROOT
from small_datasets import write_esc50

from pipeline.rebuild import RebuildSettings, rebuild
from trainer.crossval import CROSSVAL, CrossvalRequest, CrossvalResult, cross_validate, folds_of
from trainer.measure import Draws
from trainer.results import read_results
from trainer.run_folder import RunFolder
from trainer.run_request import RunError

ACCURACY = "classification/audio/accuracy"
SHORT = ("epochs=1", "batch_size=4", "data.seconds=0.2", "augment.time_scaling=1")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share few cores, on which threads that wait for one another are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esc50")
    write_esc50(folder / "root", folds=3, each=4)
    rebuild(
        RebuildSettings(
            dataset="esc50", root=str(folder / "root"), out=str(folder / "shards"), allow_partial=True
        )
    )
    return folder / "shards"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossvalResult:
    return _validated(data, tmp_path_factory.mktemp("runs") / "whole")


def _request(data: Path, out: Path, **options: object) -> CrossvalRequest:
    given = {
        "recipe": "debug.finetune_esc50_standalone",
        "overrides": SHORT,
        "device": "cpu",
        "draws": Draws(resamples=20),
    } | options
    return CrossvalRequest(data=str(data), out=out, **given)  # type: ignore[arg-type]


def _validated(data: Path, out: Path, **options: object) -> CrossvalResult:
    return cross_validate(_request(data, out, **options))


def _facts(run: Path) -> dict[str, object]:
    return dict(json.loads(RunFolder(run).facts.read_text())["stage"]["values"])


def test_each_fold_is_judged_by_a_model_of_the_others(whole: CrossvalResult) -> None:
    assert [fold.fold for fold in whole.folds] == ["fold1", "fold2", "fold3"]
    for fold in whole.folds:
        values = _facts(whole.out / fold.fold)
        others = {"fold1", "fold2", "fold3"} - {fold.fold}
        assert set(values["data.train"]) == others  # type: ignore[call-overload]
        assert values["best"] == ""
        assert {row["split"] for row in read_results(whole.out / fold.fold)} == {fold.fold}


def test_the_mean_and_the_spread_are_those_of_the_folds(whole: CrossvalResult) -> None:
    accuracies = [fold.values[ACCURACY] for fold in whole.folds]
    found = {summary.metric: summary for summary in whole.summaries}[f"{ACCURACY}_fold_mean"]
    assert found.mean == pytest.approx(statistics.mean(accuracies))
    assert found.spread == pytest.approx(statistics.stdev(accuracies))
    assert found.n == sum(fold.n for fold in whole.folds) == 12


def test_results_have_a_row_for_each_fold_and_one_for_the_mean(whole: CrossvalResult) -> None:
    rows = [row for row in read_results(whole.out) if row["metric"].startswith(ACCURACY)]
    assert [(row["metric"], row["fold"]) for row in rows] == [
        *((ACCURACY, fold.fold) for fold in whole.folds),
        (f"{ACCURACY}_fold_mean", ""),
    ]
    assert rows[-1]["low"] <= rows[-1]["value"] <= rows[-1]["high"]
    assert "12 of 2,000" in rows[-1]["partial"]


def test_a_partial_data_set_shows_in_the_summary(whole: CrossvalResult) -> None:
    assert "12 of 2,000" in whole.partial
    assert json.loads((whole.out / CROSSVAL).read_text())["partial"] == whole.partial


def test_a_finished_fold_is_not_trained_again(whole: CrossvalResult, data: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in whole.out.glob("fold*/model.safetensors")}
    assert len(written) == 3
    again = _validated(data, whole.out)
    assert again.summaries == whole.summaries
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_folds_can_be_added_later(data: Path, tmp_path: Path, whole: CrossvalResult) -> None:
    first = _validated(data, tmp_path / "run", folds=(2,))
    assert (first.left, first.summaries[0].spread) == (("fold1", "fold3"), None)
    second = _validated(data, tmp_path / "run", folds=(1,))
    assert [fold.fold for fold in second.folds] == ["fold1", "fold2"]
    assert second.folds == whole.folds[:2]


def test_a_choice_on_the_test_fold_stands_in_every_name(data: Path, tmp_path: Path) -> None:
    result = _validated(
        data, tmp_path / "run", folds=(1,), select_on_test=True, overrides=(*SHORT, "epochs=2")
    )
    names = {row["metric"] for row in read_results(tmp_path / "run")}
    assert names
    assert all(name.endswith("_selected_on_test") for name in names)
    values = _facts(tmp_path / "run" / "fold1")
    assert (values["data.dev_from"], values["best"]) == ("fold1", ACCURACY)
    judged = RunFolder(tmp_path / "run" / "fold1").status.read_text()
    chosen = json.loads(judged)
    assert result.folds[0].best_step == chosen["best_step"]
    assert result.folds[0].values[f"{ACCURACY}_selected_on_test"] == pytest.approx(chosen["best"])


def test_a_killed_cross_validation_goes_on(data: Path, tmp_path: Path, whole: CrossvalResult) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-m", "flows.cli", "crossval", "debug.finetune_esc50_standalone"]
    words += ["--data", str(data), "--out", str(out), "--device", "cpu"]
    words += [word for value in SHORT for word in ("--set", value)]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (out / "fold1" / "results.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = (out / "fold1" / "model.safetensors").stat().st_mtime_ns
    result = _validated(data, out, draws=Draws())
    assert [fold.values for fold in result.folds] == [fold.values for fold in whole.folds]
    assert (out / "fold1" / "model.safetensors").stat().st_mtime_ns == first


def test_what_never_learned_anything_binds_no_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"model\.classes"):
        _validated(data, out, overrides=(*SHORT, "model.classes=3"), folds=(1,))
    assert [fold.fold for fold in _validated(data, out, folds=(1,)).folds] == ["fold1"]


def test_another_recipe_in_the_same_folder_is_refused(whole: CrossvalResult, data: Path) -> None:
    with pytest.raises(RunError, match=r"holds another cross-validation: .*optim\.lr was .*, is 0\.5"):
        _validated(data, whole.out, overrides=(*SHORT, "optim.lr=0.5"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": (7,)}, "--folds names fold7; .* has 1,2,3"),
        ({"overrides": ("data.train=fold1",)}, "cross-validation decides that"),
        ({"recipe": "debug.finetune_esc5"}, "did you mean"),
    ],
)
def test_what_cannot_be_is_one_line(
    data: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        _validated(data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_folds_are_told_by_their_names_and_ordered_by_number() -> None:
    assert folds_of(["fold10", "eval", "fold2", "fold1", "folded"]) == ("fold1", "fold2", "fold10")
