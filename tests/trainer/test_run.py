import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from shard_folders import shard_folder
from toy_run import toy_run
from toy_training import one_thread  # noqa: F401  # a fixture

from shards.labels import read_labels
from trainer.classifier import load_classifier
from trainer.models import load_model
from trainer.nonfinite import NonFinite
from trainer.run import run
from trainer.run_folder import RunFolder
from trainer.run_log import JsonLines, read_log
from trainer.run_request import Outcome, RunError, RunFailed, RunRequest

ONE_EPOCH = ("epochs=1",)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    shard_folder(folder, (9, 6, 9), seconds=0.5)
    return str(folder)


def request_on(shards: str, out: Path, recipe: str, *overrides: str, **options: object) -> RunRequest:
    few = ("data.train=balanced_train", "data.dev_share=0.3", "data.seconds=0.5", "batch_size=6", "epochs=1")
    asked = RunRequest(recipe=recipe, data=shards, out=out, overrides=(*few, *overrides), device="cpu")
    return dataclasses.replace(asked, **options)  # type: ignore[arg-type]


def test_a_recipe_trains_on_shards_and_leaves_a_model_that_can_be_loaded_and_gone_on_from(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "standalone", tmp_path / "cooperative"
    classes = class_count(shards)
    one = run(request_on(shards, first, "debug.standalone"))
    assert one.outcome is Outcome.FINISHED
    trained = load_classifier(first, device="cpu")
    assert trained.config["classes"] == classes
    table = read_labels(Path(shards) / "labels.parquet")
    assert trained.class_names == tuple(label.name for label in table.indexed)

    evaluations = ("evaluations=retrieval", "best=retrieval/audio_to_text/mAP")
    two = run(request_on(shards, second, "debug.cooperative", *evaluations, start_run=str(first)))
    assert 0 < two.metrics["retrieval/audio_to_text/mAP"] <= 1
    assert two.checkpoint is not None
    assert load_model(second, device="cpu").modalities == ("audio", "image", "text")
    said = capsys.readouterr().err
    assert f"classes    {classes} (labels.parquet of the data)" in said
    assert json.loads((first / "run.json").read_text())["stage"]["values"]["model.classes"] == classes
    assert re.search(rf"start +{re.escape(str(first))}: \d+ tensors; drawn anew: audio.fc", said)
    assert "SELECT key FROM segments" in said
    facts = json.loads((second / "run.json").read_text())
    assert len(facts["data"]["key_list_sha256"]) == 64


def test_a_stated_number_of_classes_that_the_data_contradict_is_one_line_before_anything_is_loaded(
    shards: str, tmp_path: Path
) -> None:
    found = class_count(shards)
    with pytest.raises(RunError) as refused:
        run(request_on(shards, tmp_path / "run", "audioclip.standalone"))
    assert str(refused.value) == (
        f"model.classes is 527 (AudioCLIP §4.1: 527 classes), and the table of {shards} has {found} classes; "
        "expected as many: --set model.classes=data, or other --data"
    )
    with pytest.raises(RunError, match=r"classes as its data, and .* has no labels.parquet; expected a data"):
        run(request_on(str(tmp_path), tmp_path / "run", "debug.standalone"))
    assert not (tmp_path / "run").exists()


def class_count(shards: str) -> int:
    return len(read_labels(Path(shards) / "labels.parquet").indexed)


def test_a_finished_run_asked_for_again_has_nothing_to_do(tmp_path: Path) -> None:
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    log = (tmp_path / "log.jsonl").read_bytes()
    again = toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    assert (again.outcome, again.step) == (Outcome.FINISHED, 4)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_run_that_is_not_the_one_in_the_folder_is_refused_by_every_difference(tmp_path: Path) -> None:
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    with pytest.raises(RunError) as refused:
        toy_run(tmp_path, "STANDALONE", "epochs=2", "optim.lr=0.5", data="other")
    told = str(refused.value)
    assert "epochs was 1, is 2" in told
    assert "optim.lr was 0.05, is 0.5" in told
    assert "data key_list_sha256 was toy, is other" in told
    with pytest.raises(RunError, match="holds a run at step 4; expected an empty --out"):
        toy_run(tmp_path, "STANDALONE", *ONE_EPOCH, resume="never")


def test_another_machine_setting_may_go_on_with_a_run(tmp_path: Path) -> None:
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    assert toy_run(tmp_path, "STANDALONE", *ONE_EPOCH, "machine.threads=2").step == 4


def test_a_second_process_in_the_same_folder_is_told_which_one_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainer.run_folder import RunFolder, locked\n"
        "with locked(RunFolder(Path(sys.argv[1]))):\n    print('held', flush=True); time.sleep(60)"
    )
    held = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"in use by process {held.pid}; wait for it"):
        toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    held.kill()
    held.wait()
    assert toy_run(tmp_path, "STANDALONE", *ONE_EPOCH).outcome is Outcome.FINISHED


def test_a_dry_run_says_how_much_and_how_long_and_leaves_nothing(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nothing"
    result = run(request_on(shards, out, "debug.full", dry_run=True))
    assert result.outcome is Outcome.TRIED
    assert not out.exists()
    said = capsys.readouterr().err
    assert re.search(r"samples/s, [\d.]+ GB at most", said)
    assert re.search(r"the whole run: \d+ steps, about", said)


def test_a_profile_names_what_bounds_the_speed_and_leaves_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.run.PROFILED_STEPS", 2)
    monkeypatch.setattr("trainer.profiling.WARM_UP", 1)
    toy_run(tmp_path, "STANDALONE", profile=True)
    said = capsys.readouterr().err
    assert re.search(r"data \d+%, forward \d+%, backward \d+%, optimiser \d+%", said)
    assert "bound by computing" in said
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]


def test_the_best_checkpoint_outlives_the_last_ones_and_is_what_the_run_offers(tmp_path: Path) -> None:
    settings = ("best=dev/loss/near", "evaluations=retrieval", "evaluate_every=0.25")
    result = toy_run(tmp_path, "STANDALONE", *settings)
    folder = RunFolder(tmp_path)
    name = "dev/loss/near"
    measured = {line["step"]: line[name] for line in read_log(folder.log) if name in line}
    assert set(measured) == set(range(result.step + 1))
    best = max(range(1, result.step + 1), key=lambda step: measured[step])
    assert best < result.step - 2  # so that the last three would not include it
    assert json.loads(folder.status.read_text())["best_step"] == best
    assert folder.checkpoint(best) in folder.whole_checkpoints()
    assert len(folder.whole_checkpoints()) <= 4
    offered, kept = (
        safetensors.torch.load_file(path / "model.safetensors")
        for path in (tmp_path, folder.checkpoint(best))
    )
    assert all(torch.equal(offered[name], kept[name]) for name in kept)


def test_a_best_metric_that_nothing_measures_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"best=dev/loss/nera is not measured; did you mean dev/loss/near\?"):
        toy_run(tmp_path, "STANDALONE", "best=dev/loss/nera", "evaluations=retrieval")
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [0]  # an evaluation


def test_averaged_weights_are_offered_and_the_raw_ones_kept_to_go_on_from(tmp_path: Path) -> None:
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH, "ema=0.9")
    checkpoint = RunFolder(tmp_path).whole_checkpoints()[-1]
    averaged = safetensors.torch.load_file(tmp_path / "model.safetensors")
    raw = torch.load(checkpoint / "state.pt", weights_only=True)["model"]
    assert raw.keys() == averaged.keys()
    assert not torch.equal(raw["audio.fc.weight"], averaged["audio.fc.weight"])


def test_a_negative_bandwidth_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"audio.fbsp.fb\[\d+\] is -.*negative bandwidth") as stopped:
        toy_run(tmp_path, "STANDALONE", "optim.lr=1.5", "epochs=20")
    assert int(stopped.value.code) == 3
    for checkpoint in RunFolder(tmp_path).whole_checkpoints():
        assert (safetensors.torch.load_file(checkpoint / "model.safetensors")["audio.fbsp.fb"] >= 0).all()
    assert json.loads((tmp_path / "status.json").read_text())["outcome"] == "failed"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("machine.sync_batch_norm=true", "sync_batch_norm is true on cpu; expected CUDA devices"),
        ("machine.compile=true", r"no C\+\+ compiler is here; .*--set machine.compile=false"),
    ],
)
def test_what_the_machine_cannot_do_is_one_line_before_anything_is_built(
    override: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler there
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RunError, match=expected):
        toy_run(tmp_path / "run", "STANDALONE", override)
    assert not (tmp_path / "run").exists()


def test_wandb_that_is_not_installed_is_one_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with pytest.raises(RunError, match=r"--wandb: wandb is not installed; .*pip install -e '\.\[wandb\]'"):
        toy_run(tmp_path / "run", "STANDALONE", wandb=True)
    assert not (tmp_path / "run").exists()


def test_wandb_is_told_every_number_under_one_name_also_by_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH, wandb=True)
    toy_run(tmp_path, "STANDALONE", *ONE_EPOCH, wandb=True)
    identity = (tmp_path / "wandb-id").read_text().strip()
    first, second = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert second.stat().st_size
    told = first.read_bytes()
    assert all(
        name.encode() in told for name in next(iter(read_log(tmp_path / "log.jsonl"))) if name != "step"
    )


def test_a_disk_that_is_full_for_the_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunFailed, match=r"No space left on device; what was saved before stays"):
        toy_run(tmp_path, "STANDALONE", *ONE_EPOCH)
    assert json.loads((tmp_path / "status.json").read_text())["outcome"] == "failed"


def test_memory_that_is_full_is_one_line_that_says_how_to_need_less(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def greedy(embeddings, batch, scales):\n    raise torch.OutOfMemoryError('CUDA out of memory.')\n"
    )
    with pytest.raises(RunFailed, match=r"memory is full: CUDA out of memory.; .*machine.accumulate=4"):
        toy_run(tmp_path / "run", "STANDALONE", objective=f"{tmp_path}/mine.py:greedy")


def test_what_was_logged_beyond_the_checkpoint_is_dropped_and_a_cut_line_too(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"step": step, "train/loss": 1.0 / step} for step in (1, 2, 3)]
    measured = {"step": 2, "retrieval/audio_to_text/R@1": 0.5}
    kept = "".join(json.dumps(line) + "\n" for line in (*lines[:2], measured, lines[2]))
    log.write_text(kept + '{"step": 4, "tra')
    JsonLines(log, after=2, evaluated=False).close()
    assert list(read_log(log)) == lines[:2]
