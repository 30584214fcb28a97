"""A learner in float64 and its batches, small enough to compare gradients to the last digits."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.batch import Batch, Embeddings
from trainer.models.fbsp import FbspSpectrogram
from trainer.stage import Objective

CLASSES = 5
SAMPLES = 12  # of a sound that no wavelets hear
PAIRS = ("audio_image", "audio_text", "image_text")


class TinyLearner(nn.Module):
    """Three towers with batch normalisation between two layers of the audio one, and a classifier."""

    def __init__(self, *, dropout: float = 0.0, hears: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.ear = FbspSpectrogram() if hears else None
        width = 3 * 341 if hears else SAMPLES
        self.audio = nn.Sequential(
            nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)
        )
        self.image = nn.Linear(6, 4)
        self.text = nn.Embedding(8, 4)
        self.head = nn.Linear(4, CLASSES)
        self.log_scales = nn.ParameterDict({pair: torch.tensor(math.log(7.0)) for pair in PAIRS})
        self.biases = nn.ParameterDict({f"{pair}_bias": torch.tensor(-2.0) for pair in PAIRS})
        if self.ear is not None:
            self.ear.m.data += 0.3
            self.ear.fb.data *= 1.1
        self.double()

    def forward(self, batch: Batch) -> Embeddings:
        assert batch.audio is not None
        assert batch.image is not None
        assert batch.text_rows is not None
        heard = batch.audio.flatten(1)
        if self.ear is not None:
            heard = self.ear(batch.audio).mean(dim=(1, 4)).flatten(1) / 100
        audio = self.audio(heard)
        return Embeddings(
            audio=F.normalize(audio, dim=-1),
            image=F.normalize(self.image(batch.image.flatten(1)), dim=-1),
            text=F.normalize(self.text(batch.text_rows), dim=-1),
            class_logits=self.head(audio),
        )

    def scales(self) -> dict[str, Tensor]:
        return {name: value.exp() for name, value in self.log_scales.items()} | dict(self.biases)


def random_batch(size: int, *, seconds: float = 0.0, weighted: bool = False, seed: int = 1) -> Batch:
    """Examples of four label sets, which their texts name."""
    draw = torch.Generator().manual_seed(seed)
    sets = torch.randint(4, (size,), generator=draw)
    labels = torch.tensor([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    samples = round(44_100 * seconds) or SAMPLES
    return Batch(
        keys=tuple(f"k{index}" for index in range(size)),
        audio=torch.randn(size, 1, samples, generator=draw).double() / 4,
        image=torch.randn(size, 3, 1, 2, generator=draw).double(),
        text_rows=sets,
        targets=labels[sets].float(),
        label_sets=sets + 2**40,
        text_ids=sets % 3,
        weights=torch.rand(size, generator=draw) + 0.5 if weighted else None,
    )


def gradients(learner: nn.Module) -> dict[str, Tensor]:
    """Of every parameter that has one, by its name in the learner."""
    named = {name.removeprefix("module."): p.grad for name, p in learner.named_parameters()}
    return {name: grad.clone() for name, grad in named.items() if grad is not None}


def furthest(made: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative distance of any parameter's gradient."""
    assert set(made) == set(expected)
    assert expected
    return max(
        float((made[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)) for name in made
    )


def plainly(learner: nn.Module, objective: Objective, batch: Batch, **terms: Tensor) -> dict[str, Tensor]:
    """Gradients by one plain pass over the whole, and nothing of ours but the objective."""
    learner.zero_grad()
    loss = sum((objective(learner(batch), batch, learner.scales()) | terms).values())  # type: ignore[operator]
    assert isinstance(loss, Tensor)
    loss.backward()
    return gradients(learner)
