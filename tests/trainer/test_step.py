import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.named_weights import VECTORS, image, waveform
from toy_training import FINETUNE, FULL, STANDALONE, ToyFeed, toy_batch, toy_training
from toy_training import one_thread as one_thread  # a fixture

from trainer.batch import Batch
from trainer.checkpoint import Snapshot, read_checkpoint, write_checkpoint
from trainer.learner import build_learner
from trainer.loop import Progress, restore, snapshot
from trainer.models import load_model
from trainer.nonfinite import bad_samples, diagnosed
from trainer.objectives import Sigmoid
from trainer.optim import build_optimiser, finish_gradients
from trainer.recipes import RECIPES
from trainer.run_folder import RunFolder
from trainer.run_request import RunError
from trainer.schedule import learning_rate_factor
from trainer.stage import Machine, Optim, Schedule, derive
from trainer.step import Training, take_step
from trainer.text import tokenize
from trainer.weights import our_name

TEXTS = ["cat", "Speech, Music", "thunderstorm, rain on surface, wind", "Child speech, kid speaking"]


def factors(schedule: Schedule, epochs: int, steps_per_epoch: int) -> list[float]:
    steps = range(epochs * steps_per_epoch)
    return [
        learning_rate_factor(schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)
        for step in steps
    ]


def test_an_exponential_rate_falls_with_each_whole_epoch() -> None:
    assert factors(Schedule(gamma=0.5), 3, 2) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_warm_up_rises_by_step_and_the_fall_begins_after_it() -> None:
    made = factors(Schedule(gamma=0.5, warmup_epochs=1.0, warmup_start=0.2), 3, 4)
    assert made == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])


def test_a_cosine_ends_at_nothing() -> None:
    made = factors(Schedule(law="cosine"), 2, 50)
    assert made[0] == 1
    assert made[50] == pytest.approx(0.5)
    assert 0 < made[-1] < 1e-3
    assert made == sorted(made, reverse=True)


@pytest.mark.parametrize(
    ("optim", "rule"),
    [
        (
            Optim(lr=0.1, weight_decay=0.3),
            lambda p, **more: torch.optim.SGD(p, nesterov=True, momentum=0.9, **more),
        ),
        (Optim(name="adam", lr=0.1, weight_decay=0.3), torch.optim.Adam),
        (Optim(name="adamw", lr=0.1, weight_decay=0.3), torch.optim.AdamW),
    ],
)
def test_rules_move_as_pytorch_s_own_and_spare_what_is_excluded_from_decay(
    optim: Optim, rule: object
) -> None:
    drawn = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    drawn[1].load_state_dict(drawn[0].state_dict())
    ours = build_optimiser(dataclasses.replace(optim, no_decay=("bias",)), drawn[0])
    weight, bias = drawn[1].parameters()
    theirs = rule(  # type: ignore[operator]
        [{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}], lr=0.1
    )
    for _ in range(3):
        for layer, step in zip(drawn, (ours, theirs), strict=True):
            layer(torch.ones(1, 3)).square().sum().backward()
            step.step()
            step.zero_grad()
    torch.testing.assert_close(drawn[0].weight, drawn[1].weight)
    torch.testing.assert_close(drawn[0].bias, drawn[1].bias)


def test_a_rate_times_devices_and_a_pattern_without_a_parameter() -> None:
    layer = torch.nn.Linear(3, 2)
    assert (
        build_optimiser(Optim(lr=0.1, lr_times_devices=True), layer, devices=4).param_groups[0]["lr"] == 0.4
    )
    with pytest.raises(RunError, match="'fbsp' names no parameter"):
        build_optimiser(Optim(no_decay=("fbsp",)), layer)


def test_gradients_are_normalised_before_they_are_clipped() -> None:
    training = toy_training(STANDALONE)
    for name, parameter in training.learner.named_parameters():
        parameter.grad = torch.full_like(parameter, 100.0 if "fbsp" in name else 0.0)
    norm = finish_gradients(Optim(clip_norm=1.0), training.learner)
    assert norm.item() == pytest.approx((3 * 1025) ** 0.5, rel=1e-5)  # m, fb and fc, 1 in each entry
    gradients = [p.grad for p in training.learner.parameters() if p.grad is not None]
    assert torch.cat([each.flatten() for each in gradients]).norm().item() == pytest.approx(1.0, rel=1e-4)


def test_the_released_recipe_s_first_step_has_the_published_loss_and_gradients(published: Path) -> None:
    stage = derive(RECIPES["audioclip.full@released"], "test", machine__precision="float32")
    learner = build_learner(stage, load_model(published, device="cpu", profile="released")).train()
    training = Training(
        stage=stage,
        learner=learner,
        replica=learner,
        optimiser=build_optimiser(stage.optim, learner),
        steps_per_epoch=1,
    )
    sounds = np.stack([waveform(1.5, 1, f"dev:train:{index}") for index in range(4)])
    pixels = np.stack([image(f"dev:{index}") for index in range(4)])
    batch = Batch(
        keys=("0", "1", "2", "3"),
        audio=torch.from_numpy(sounds),
        image=torch.from_numpy(pixels),
        tokens=tokenize(TEXTS),
        text_rows=torch.arange(4),
    )
    golden = dict(np.load(VECTORS))
    assert take_step(training, batch, step=0).loss == pytest.approx(golden["train/loss"], rel=2e-3)
    norms = {name: p.grad.norm().item() for name, p in learner.named_parameters() if p.grad is not None}
    for name, norm in zip(golden["train/grad_norm_names"], golden["train/grad_norms"], strict=True):
        assert norms[our_name(str(name))] == pytest.approx(norm, rel=2e-2), name


def test_a_batch_in_parts_has_the_loss_of_the_whole_and_one_set_of_terms() -> None:
    parts = dataclasses.replace(FINETUNE, machine=Machine(precision="float32", accumulate=3))
    whole = toy_training(FINETUNE)
    split = toy_training(parts)
    for training in (whole, split):
        training.learner.eval()  # batch statistics are those of the parts
    batch = toy_batch(FINETUNE, 0)
    ours, theirs = take_step(split, batch, step=0), take_step(whole, batch, step=0)
    assert ours.terms == pytest.approx(theirs.terms, rel=1e-4)
    assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)


def test_an_objective_s_own_parameters_learn_and_are_kept_apart_from_the_model(tmp_path: Path) -> None:
    stage = dataclasses.replace(FINETUNE, objective=Sigmoid(pairs=("audio_text",)))
    training = toy_training(stage)
    before = float(training.learner.scales()["audio_text_bias"].detach())
    batch = toy_batch(stage, 0)
    take_step(training, batch, step=0)
    made: Snapshot = snapshot(training, Progress(step=1), {})
    path = write_checkpoint(made, RunFolder(tmp_path))
    assert not any("objective" in name for name in made.weights)

    other = toy_training(stage)
    restore(other, *read_checkpoint(path))
    after = float(training.learner.scales()["audio_text_bias"].detach())
    assert after != before
    assert float(other.learner.scales()["audio_text_bias"].detach()) == after


def test_numbers_that_are_none_move_nothing_and_their_samples_are_named() -> None:
    training = toy_training(STANDALONE)
    training.learner.train()
    before = {name: tensor.clone() for name, tensor in training.learner.named_parameters()}
    [fed] = [fed for fed, _ in zip(ToyFeed(STANDALONE).batches(0), range(1), strict=False)]
    assert fed.batch.audio is not None
    audio = fed.batch.audio.clone()
    audio[4, 0, 100] = float("nan")
    audio[1, 0, 5] = 1e9
    spoilt = dataclasses.replace(fed.batch, audio=audio)
    stepped = take_step(training, spoilt, step=0)
    assert not stepped.finite
    assert all(torch.equal(before[name], each) for name, each in training.learner.named_parameters())
    assert bad_samples(spoilt) == (fed.batch.keys[1], fed.batch.keys[4])
    verdict = diagnosed(training.learner, spoilt, stepped.terms)
    assert (verdict.cause, verdict.keys) == ("data", (fed.batch.keys[1], fed.batch.keys[4]))


@pytest.mark.parametrize(
    ("name", "value", "cause", "told"),
    [
        ("audio.fbsp.fb", -0.5, "wavelets", "audio.fbsp.fb[7] is -0.5: a negative bandwidth"),
        ("audio.fbsp.m", float("nan"), "wavelets", "audio.fbsp.m[7] is nan"),
        ("audio.fc.bias", float("inf"), "weights", "audio.fc.bias has 1 entries that are not finite"),
    ],
)
def test_the_weights_at_fault_are_told_apart(name: str, value: float, cause: str, told: str) -> None:
    learner = toy_training(dataclasses.replace(FULL, trainable=("audio.*",))).learner
    with torch.no_grad():
        learner.get_parameter(name)[7] = value
    verdict = diagnosed(learner, toy_batch(FULL, 0), {"audio_text": float("nan")})
    assert verdict.cause == cause
    assert told in verdict.what


def test_overflow_is_what_is_left_and_names_the_term() -> None:
    learner = toy_training(FULL).learner
    verdict = diagnosed(learner, toy_batch(FULL, 0), {"audio_text": float("inf"), "image_text": 1.0})
    assert verdict.cause == "overflow"
    assert "of audio_text: inputs and weights are finite" in verdict.what
