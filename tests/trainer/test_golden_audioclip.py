"""The whole model against what the published architecture computes, through the public loading path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.named_weights import VECTORS, image, waveform
from torch import Tensor
from torch.nn import functional as F

from trainer.batch import Embeddings
from trainer.gradients import normalise_gradients, wavelet_parameters
from trainer.models import Encoder, load_model
from trainer.weights import our_name

TEXTS = ["cat", "Speech, Music", "thunderstorm, rain on surface, wind", "Child speech, kid speaking"]
CASES = {
    "mono_5s": (5.0, 1, 2),
    "stereo_4s": (4.0, 2, 2),
    "mono_10s": (10.0, 1, 1),
    "short_20ms": (0.02, 1, 2),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(VECTORS))


def relative(made: Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(made.detach().numpy() - expected) / np.linalg.norm(expected))


def batch() -> tuple[Tensor, Tensor]:
    """(waveforms, pixels) of the batch that the losses are of."""
    sounds = np.stack([waveform(1.5, 1, f"dev:train:{index}") for index in range(4)])
    return torch.from_numpy(sounds), torch.from_numpy(np.stack([image(f"dev:{index}") for index in range(4)]))


def embedded(model: Encoder) -> Embeddings:
    sounds, pixels = batch()
    embeddings = model(audio=sounds, image=pixels, text=model.text.tokens(TEXTS))
    assert isinstance(embeddings, Embeddings)
    return embeddings


def cross_entropies(logits: Tensor) -> Tensor:
    """Of rows and of columns, as a sum."""
    target = torch.arange(len(logits))
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


def test_tokens_are_the_published_ones(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert np.array_equal(audioclip.text.tokens(TEXTS).numpy(), golden["tokens"])


@torch.no_grad()
def test_text_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert relative(audioclip.encode_text(TEXTS), golden["text_embedding"]) < 1e-4


@torch.no_grad()
def test_image_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert relative(audioclip.encode_image(batch()[1]), golden["image_embedding"]) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_audio_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray], case: str) -> None:
    seconds, channels, clips = CASES[case]
    sounds = np.stack([waveform(seconds, channels, f"dev:{case}:{index}") for index in range(clips)])
    made = audioclip.encode_audio(torch.from_numpy(sounds), sample_rate=44_100)
    assert relative(made, golden[f"{case}/audio_embedding"]) < 1e-2


@torch.no_grad()
def test_logits_and_losses_in_evaluation(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    logits = audioclip.logits(embedded(audioclip))
    for pair, made in logits.items():
        assert np.abs(made.numpy() - golden[f"eval_batch/logits_{pair}"]).max() < 0.05
    norm_loss = audioclip.audio.fbsp.norm_loss()
    all_pairs = sum(map(cross_entropies, logits.values())) / 6 + norm_loss
    one_pair = cross_entropies(logits["audio_text"]) + norm_loss
    assert all_pairs.item() == pytest.approx(golden["eval_batch/loss"], rel=2e-3)
    assert one_pair.item() == pytest.approx(golden["eval_batch/loss_audio_text_only"], rel=2e-3)


def test_loss_and_gradients_of_the_first_training_step(
    published: Path, golden: dict[str, np.ndarray]
) -> None:
    model = load_model(published, device="cpu").train()
    logits = model.logits(embedded(model))
    loss = sum(map(cross_entropies, logits.values())) / 6 + model.audio.fbsp.norm_loss()
    assert isinstance(loss, Tensor)
    loss.backward()
    normalise_gradients(wavelet_parameters(model))
    assert loss.item() == pytest.approx(golden["train/loss"], rel=2e-3)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    for name, norm in zip(golden["train/grad_norm_names"], golden["train/grad_norms"], strict=True):
        assert norms[our_name(str(name))] == pytest.approx(norm, rel=2e-2), name
