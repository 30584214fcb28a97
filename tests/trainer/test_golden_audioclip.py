"""Model, objective and gradients against what the published code computes, by the public loading path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.named_weights import VECTORS, image, waveform
from torch import Tensor, nn

from trainer.accumulation import forward_backward, wavelet_norm_term
from trainer.batch import Batch, Embeddings
from trainer.gradients import normalise_gradients, wavelet_parameters
from trainer.models import Encoder, load_model
from trainer.objectives import Pairwise
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


def batch(model: Encoder) -> Batch:
    """The four examples that the losses are of."""
    sounds = np.stack([waveform(1.5, 1, f"dev:train:{index}") for index in range(4)])
    pixels = np.stack([image(f"dev:{index}") for index in range(4)])
    return Batch(
        keys=("0", "1", "2", "3"),
        audio=torch.from_numpy(sounds),
        image=torch.from_numpy(pixels),
        tokens=model.text.tokens(TEXTS),
        text_rows=torch.arange(4),
    )


class Learner(nn.Module):
    """All of an encoder, as training sees it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> Embeddings:
        embeddings = self.encoder(audio=batch.audio, image=batch.image, text=batch.tokens)
        assert isinstance(embeddings, Embeddings)
        return embeddings

    def scales(self) -> dict[str, Tensor]:
        return self.encoder.scales()


def test_tokens_are_the_published_ones(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert np.array_equal(audioclip.text.tokens(TEXTS).numpy(), golden["tokens"])


@torch.no_grad()
def test_text_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert relative(audioclip.encode_text(TEXTS), golden["text_embedding"]) < 1e-4


@torch.no_grad()
def test_image_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    assert relative(audioclip.encode_image(batch(audioclip).image), golden["image_embedding"]) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_audio_embeddings(audioclip: Encoder, golden: dict[str, np.ndarray], case: str) -> None:
    seconds, channels, clips = CASES[case]
    sounds = np.stack([waveform(seconds, channels, f"dev:{case}:{index}") for index in range(clips)])
    made = audioclip.encode_audio(torch.from_numpy(sounds), sample_rate=44_100)
    assert relative(made, golden[f"{case}/audio_embedding"]) < 1e-2


@torch.no_grad()
def test_logits_and_losses_in_evaluation(audioclip: Encoder, golden: dict[str, np.ndarray]) -> None:
    examples = batch(audioclip)
    embeddings = Learner(audioclip)(examples)
    for pair, made in audioclip.logits(embeddings).items():
        assert np.abs(made.numpy() - golden[f"eval_batch/logits_{pair}"]).max() < 0.05
    norm = wavelet_norm_term(audioclip, examples, 1.0)
    for objective, name in ((Pairwise(), "loss"), (Pairwise(pairs=("audio_text",)), "loss_audio_text_only")):
        terms = objective(embeddings, examples, audioclip.scales()) | norm
        assert sum(terms.values()).item() == pytest.approx(golden[f"eval_batch/{name}"], rel=2e-3)


def test_loss_and_gradients_of_the_first_training_step(
    published: Path, golden: dict[str, np.ndarray]
) -> None:
    model = load_model(published, device="cpu").train()
    terms = forward_backward(Learner(model), Pairwise(), batch(model))
    normalise_gradients(wavelet_parameters(model))
    assert sum(terms.values()).item() == pytest.approx(golden["train/loss"], rel=2e-3)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    for name, norm in zip(golden["train/grad_norm_names"], golden["train/grad_norms"], strict=True):
        assert norms[our_name(str(name))] == pytest.approx(norm, rel=2e-2), name
