"""An audio head that names classes instead of embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainer.batch import Embeddings
from trainer.devices import (
    check_compiler,
    checked_precision,
    choose_device,
    exact_arithmetic,
    lower_precision,
)
from trainer.models.audioclip import build_audio_head
from trainer.models.profile import PAPER
from trainer.waveform import checked_waveform, resampled
from trainer.weights import CONFIG, WEIGHTS, WeightsError, load_ours, read_config, read_state

KIND = "classifier"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """Everything about a classifier but its weights; lies beside them as `config.json`."""

    classes: int
    size: str = "full"
    profile: str = PAPER.name
    class_names: tuple[str, ...] = ()  # in the order of the logits; none where nobody has said

    def __post_init__(self) -> None:
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} names for {self.classes} classes; expected as many")

    def to_json(self) -> dict[str, Any]:
        facts = {"classes": self.classes, "size": self.size, "profile": self.profile}
        named = {"class_names": list(self.class_names)} if self.class_names else {}
        return {"kind": KIND, "format": 1, **facts, **named}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Raises ValueError for the facts of something else."""
        if facts.get("kind") != KIND or facts.get("format") != 1:
            raise ValueError(f"config {dict(facts)!r}; expected that of a classifier, format 1")
        known = {name: facts[name] for name in ("classes", "size", "profile")}
        return cls(**known, class_names=tuple(facts.get("class_names", ())))


class Classifier(nn.Module):
    """`audio`, a head with as many outputs as there are classes."""

    modalities = ("audio",)

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.audio = build_audio_head(config.classes, config.size)
        self.precision = "float32"  # or bf16: how it multiplies; not part of what is saved
        self.config = config.to_json()

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.audio.fc.out_features

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits; empty where nobody has said."""
        return tuple(self.config.get("class_names", ()))

    def name_classes(self, names: Sequence[str]) -> None:
        """What the classes are called, from now on and in files. Raises ValueError for another number."""
        self.config = replace(ClassifierConfig.from_json(self.config), class_names=tuple(names)).to_json()

    def forward(self, audio: Tensor) -> Embeddings:
        """(B, C, T) in [-1, 1] -> (B, classes) float32 logits."""
        return Embeddings(class_logits=self.audio(audio).float())

    @torch.no_grad()
    def score_audio(self, waveform: Tensor, sample_rate: int = 44_100) -> Tensor:
        """(B, C, T) in [-1, 1] at `sample_rate` Hz -> (B, classes) logits; channels' features are summed.

        For evaluation mode: no row depends on another. Raises SoundError as `Encoder.encode_audio` does.
        """
        waveform = resampled(checked_waveform(waveform).to(self.device), sample_rate, self.sample_rate)
        with exact_arithmetic(), lower_precision(self.device, self.precision):
            logits: Tensor = self.audio(waveform).float()
        return logits

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveforms that the head takes."""
        return self.audio.sample_rate

    def scales(self) -> dict[str, Tensor]:
        """None: nothing is compared."""
        return {}

    def clamp_scales(self) -> None:
        """There are none."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def is_classifier(source: str | Path) -> bool:
    """Whether a run's folder, a checkpoint, or the weights in one, are a classifier's."""
    folder = _folder(source)
    return (folder / CONFIG).is_file() and read_config(folder).get("kind") == KIND


def load_classifier(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str = "float32",
    compile: bool = False,
) -> Classifier:
    """In evaluation mode, as `load_model` loads an encoder. Raises WeightsError for something else."""
    checked_precision(precision)
    folder = _folder(source)
    try:
        config = ClassifierConfig.from_json(read_config(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{folder}: {error}") from None
    classifier = Classifier(config)
    load_ours(classifier, read_state(folder / WEIGHTS), source=str(folder))
    classifier.precision = precision
    if compile:
        check_compiler()
        classifier.audio.compile()
    return classifier.to(choose_device(device)).eval()


def _folder(source: str | Path) -> Path:
    path = Path(source).expanduser()
    return path.parent if path.name == WEIGHTS else path
