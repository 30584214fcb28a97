import dataclasses
from pathlib import Path

import pytest
import torch
from toy_training import COOPERATIVE, FULL, STANDALONE
from toy_training import one_thread as one_thread  # a fixture

from trainer.learner import build_model
from trainer.run_request import RunError
from trainer.stage import Stage, Start
from trainer.start import start_from
from trainer.weights import save_model, save_published


def starting(stage: Stage, **start: object) -> Stage:
    return dataclasses.replace(stage, start=Start(**start), seed=1)  # type: ignore[arg-type]


def saved(stage: Stage, folder: Path) -> Path:
    model = build_model(stage.model, seed=7)
    save_model(model, model.config, folder)
    return folder


def test_a_whole_run_gives_all_of_its_weights(tmp_path: Path) -> None:
    stage = starting(FULL, run=str(saved(FULL, tmp_path)))
    model = build_model(stage.model, seed=1)
    [origin] = start_from(stage, model)
    theirs = build_model(FULL.model, seed=7).state_dict()
    assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in theirs)
    assert (origin.account.kept, origin.account.left_out) == ((), ())


def test_a_classifier_gives_its_trunk_and_the_replaced_layer_is_drawn_from_the_seed(tmp_path: Path) -> None:
    run = str(saved(STANDALONE, tmp_path))
    stage = starting(COOPERATIVE, run=run, replaced=("audio.fc.*",))
    model, drawn = build_model(stage.model, seed=1), build_model(stage.model, seed=1)
    [origin] = start_from(stage, model)
    theirs = build_model(STANDALONE.model, seed=7)
    assert torch.equal(model.audio.conv1.weight, theirs.audio.conv1.weight)
    assert torch.equal(model.audio.fc.weight, drawn.audio.fc.weight)
    own = set(model.state_dict())
    assert set(origin.account.loaded) | set(origin.account.kept) == own
    assert {"audio.fc.weight", "audio.fc.bias"} <= set(origin.account.kept)
    assert set(origin.account.left_out) == {"audio.fc.weight", "audio.fc.bias"}


def test_a_layer_of_another_shape_is_an_error_that_says_how_to_draw_it_anew(tmp_path: Path) -> None:
    stage = starting(COOPERATIVE, run=str(saved(STANDALONE, tmp_path)))
    with pytest.raises(RunError, match=r"audio.fc.weight has .* instead of .*--set start.replaced"):
        start_from(stage, build_model(stage.model, seed=1))


def test_a_missing_weight_within_a_shared_head_is_an_error(tmp_path: Path) -> None:
    model = build_model(FULL.model, seed=7)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "text.ln_final.bias"}
    torch.save(state, tmp_path / "cut.pt")
    stage = starting(FULL, run=str(tmp_path / "cut.pt"))
    with pytest.raises(RunError, match=r"1 of \d+ tensors are missing \(text.ln_final.bias\)"):
        start_from(stage, build_model(stage.model, seed=1))


def test_heads_can_come_from_different_files_and_later_ones_win(tmp_path: Path) -> None:
    whole = build_model(FULL.model, seed=7)
    save_published(whole, tmp_path / "whole.pt")
    run = saved(STANDALONE, tmp_path / "run")
    stage = starting(COOPERATIVE, clip=str(tmp_path / "whole.pt"), run=str(run), replaced=("audio.fc.*",))
    model = build_model(stage.model, seed=1)
    first, second = start_from(stage, model)
    assert torch.equal(model.text.text_projection, whole.text.text_projection)
    assert torch.equal(model.audio.conv1.weight, build_model(STANDALONE.model, seed=7).audio.conv1.weight)
    assert all(name.startswith(("image.", "text.", "log_scales.image_text")) for name in first.account.loaded)
    assert all(name.startswith("audio.") for name in second.account.loaded)


def test_an_audio_head_of_a_published_classifier_fits_but_for_its_last_layer(tmp_path: Path) -> None:
    head = build_model(STANDALONE.model, seed=7).audio
    state = {name.replace("fbsp.window", "window"): tensor for name, tensor in head.state_dict().items()}
    torch.save({**state, "fbsp.bias": torch.zeros(0)}, tmp_path / "head.pt")
    stage = starting(FULL, audio=str(tmp_path / "head.pt"))
    model = build_model(stage.model, seed=1)
    start_from(stage, model)
    assert torch.equal(model.audio.layer4[0].conv1.weight, head.layer4[0].conv1.weight)


def test_published_weights_that_cannot_be_fetched_say_how_to_bring_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import start as module
    from trainer.published import PublishedFile

    gone = PublishedFile(
        name="gone", url="http://127.0.0.1:9/gone.pt", content="", licence="", size=None, sha256=None
    )
    monkeypatch.setenv("TRICHORD_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "FILES", (gone,))
    monkeypatch.setattr(module, "published_file", lambda name: gone)
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    stage = starting(FULL, audio="gone")
    with pytest.raises(RunError) as failed:
        start_from(stage, build_model(stage.model, seed=1))
    assert "trichord weights fetch gone --from FILE" in str(failed.value)
    assert "--set start.audio=random" in str(failed.value)


def test_a_folder_without_weights_is_said_to_be_one(tmp_path: Path) -> None:
    stage = starting(FULL, run=str(tmp_path))
    with pytest.raises(RunError, match=r"no model.safetensors in that folder; expected a run"):
        start_from(stage, build_model(stage.model, seed=1))
