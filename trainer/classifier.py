"""An audio head that names classes instead of embedding."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainer.batch import Embeddings
from trainer.devices import choose_device
from trainer.models.audioclip import build_audio_head
from trainer.models.profile import PAPER
from trainer.weights import WEIGHTS, WeightsError, load_ours, read_config, read_state

KIND = "classifier"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """Everything about a classifier but its weights; lies beside them as `config.json`."""

    classes: int
    size: str = "full"
    profile: str = PAPER.name

    def to_json(self) -> dict[str, Any]:
        facts = {name: getattr(self, name) for name in self.__slots__}
        return {"kind": KIND, "format": 1, **facts}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Raises ValueError for the facts of something else."""
        if facts.get("kind") != KIND or facts.get("format") != 1:
            raise ValueError(f"config {dict(facts)!r}; expected that of a classifier, format 1")
        return cls(**{name: facts[name] for name in cls.__slots__})


class Classifier(nn.Module):
    """`audio`, a head with as many outputs as there are classes."""

    modalities = ("audio",)

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.audio = build_audio_head(config.classes, config.size)
        self.config = config.to_json()

    def forward(self, audio: Tensor) -> Embeddings:
        """(B, C, T) in [-1, 1] -> (B, classes) float32 logits."""
        return Embeddings(class_logits=self.audio(audio).float())

    def scales(self) -> dict[str, Tensor]:
        """None: nothing is compared."""
        return {}

    def clamp_scales(self) -> None:
        """There are none."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def is_classifier(folder: Path) -> bool:
    """Whether a run folder or checkpoint holds a classifier. Raises WeightsError without a config."""
    return read_config(folder).get("kind") == KIND


def load_classifier(folder: Path, *, device: str | torch.device = "auto") -> Classifier:
    """In evaluation mode. Raises WeightsError for the folder of something else."""
    try:
        config = ClassifierConfig.from_json(read_config(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{folder}: {error}") from None
    classifier = Classifier(config)
    load_ours(classifier, read_state(folder / WEIGHTS), source=str(folder))
    return classifier.to(choose_device(device)).eval()
