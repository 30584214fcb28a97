import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_training import (
    COOPERATIVE,
    FINETUNE,
    FULL,
    TEXTS,
    ToyFeed,
    one_thread,  # noqa: F401  # a fixture
    toy_batch,
    toy_training,
)

from trainer.batch import Batch
from trainer.learner import Learner, build_learner, build_model
from trainer.models import Encoder, load_model
from trainer.run_request import RunError
from trainer.stage import Machine
from trainer.step import Training, take_step
from trainer.weights import save_model


def state_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def moved(before: dict[str, Tensor], learner: Learner) -> set[str]:
    return {name for name, tensor in learner.state_dict().items() if not torch.equal(tensor, before[name])}


def trained(training: Training, steps: int) -> list[float]:
    training.learner.train()
    batches = zip(range(steps), ToyFeed(training.stage).batches(0), strict=False)
    return [take_step(training, fed.batch, step=step).loss for step, fed in batches]


def test_the_temperature_of_a_pair_that_is_not_compared_stays() -> None:
    training = toy_training(FINETUNE)
    before = state_of(training.learner)
    trained(training, 2)
    scales = {name for name in moved(before, training.learner) if name.startswith("log_scales")}
    assert scales == {"log_scales.audio_text"}


def test_what_is_frozen_is_in_evaluation_mode_after_train_is_called_again() -> None:
    learner = toy_training(dataclasses.replace(FULL, trainable=("image.trunk.layer4.*", "audio.*"))).learner
    learner.eval()
    learner.train()
    trunk = learner.get_submodule("image").trunk
    assert learner.get_submodule("audio").bn1.training
    assert not learner.get_submodule("text").training
    assert (trunk.training, trunk.layer4[0].bn1.training, trunk.bn1.training) == (True, True, False)


def test_a_pattern_that_names_nothing_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(RunError, match=r"'audoi\.\*' names no parameter.*audio\.\*, image\.\*"):
        toy_training(dataclasses.replace(FULL, trainable=("audoi.*",)))


def test_a_remembered_text_has_the_embedding_that_its_tokens_have() -> None:
    learner = toy_training(COOPERATIVE).learner.train()
    batch = toy_batch(COOPERATIVE, 0)
    spelt = learner(batch).text
    learner.remember_texts(TEXTS)
    looked_up = learner(dataclasses.replace(batch, tokens=None)).text
    assert spelt is not None
    assert looked_up is not None
    torch.testing.assert_close(looked_up, spelt, atol=1e-5, rtol=0)
    assert not looked_up.requires_grad


def test_texts_of_a_part_are_those_of_the_whole() -> None:
    learner = toy_training(FULL).learner.eval()
    batch = toy_batch(FULL, 0)
    whole = learner(batch).text
    parts = torch.cat([learner(part).text for part in batch.chunks(3)])
    assert whole is not None
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    first = build_model(FULL.model, seed=1).state_dict()
    torch.randn(7)
    second, other = (build_model(FULL.model, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_trained_learner_is_saved_as_the_model_that_load_model_gives(tmp_path: Any) -> None:
    training = toy_training(FULL)
    trained(training, 1)
    save_model(training.learner.encoder, dict(training.learner.config), tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert isinstance(loaded, Encoder)
    assert all(
        torch.equal(loaded.state_dict()[name], value) for name, value in training.learner.weights().items()
    )


def test_recomputing_activations_changes_neither_gradients_nor_batch_statistics() -> None:
    plain = toy_training(COOPERATIVE)
    thrifty = toy_training(COOPERATIVE)
    thrifty.learner.accelerate(Machine(checkpoint_activations=True))
    assert trained(plain, 2) == trained(thrifty, 2)
    ours, theirs = plain.learner.state_dict(), thrifty.learner.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_copy_of_a_learner_that_recomputes_does_not_share_its_weights() -> None:
    training = toy_training(COOPERATIVE)
    training.learner.accelerate(Machine(checkpoint_activations=True))
    other = copy.deepcopy(training.learner)
    batch = toy_batch(COOPERATIVE, 0)
    before = other.eval()(batch).audio
    trained(training, 1)
    assert torch.equal(other(batch).audio, before)


def test_bfloat16_towers_give_float32_embeddings_of_unit_length_near_the_exact_ones() -> None:
    exact = toy_training(COOPERATIVE).learner.eval()
    coarse = build_learner(
        dataclasses.replace(COOPERATIVE, machine=Machine(precision="bf16")), exact.encoder
    ).eval()
    batch = toy_batch(COOPERATIVE, 0)
    with torch.no_grad():
        for (_, ours), (_, theirs) in zip(coarse(batch).present(), exact(batch).present(), strict=True):
            assert ours.dtype is torch.float32
            assert (ours.norm(dim=1) - 1).abs().max() < 1e-5
            assert (ours * theirs).sum(dim=1).min() > 0.98
            assert not torch.equal(ours, theirs)


def test_a_sound_alone_is_embedded_alone() -> None:
    learner = toy_training(FULL).learner.eval()
    audio = toy_batch(FULL, 0).audio
    embeddings = learner(Batch(keys=("a",) * 6, audio=audio))
    assert [name for name, _ in embeddings.present()] == ["audio"]
