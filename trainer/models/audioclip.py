"""AudioCLIP and the CLIP it starts from, put together from towers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from torch import nn

from trainer.models import clip, esresnext
from trainer.models.clip import RN50, build_clip, embedding_size
from trainer.models.encoder import Encoder
from trainer.models.esresnext import RESNEXT50, ESResNeXt
from trainer.models.profile import PAPER, PROFILES, NumericsProfile

CONFIG_FORMAT = 1
Size = Literal["full", "toy"]  # as published, or small enough to try training out on a laptop


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Everything about an encoder but its weights; lies beside them as `config.json`."""

    towers: tuple[str, ...] = ("audio", "image", "text")
    clip: str = RN50  # open_clip's name for the image and text towers; a toy has its own
    size: Size = "full"
    profile: str = PAPER.name  # docs/decisions/0005-default-profile.md
    format: int = CONFIG_FORMAT

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"no profile {self.profile!r}; expected one of {', '.join(PROFILES)}")
        _check_size(self.size)

    @property
    def numerics(self) -> NumericsProfile:
        return PROFILES[self.profile]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "towers": list(self.towers)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Raises ValueError for facts that are not of an encoder, or of a later format."""
        known = {field.name for field in dataclasses.fields(cls)}
        if facts.get("format") != CONFIG_FORMAT or not set(facts) <= known:
            raise ValueError(
                f"config {dict(facts)!r}; expected {', '.join(sorted(known))}, format {CONFIG_FORMAT}"
            )
        return cls(**{**facts, "towers": tuple(facts["towers"])})


def build_encoder(config: EncoderConfig) -> Encoder:
    """The towers with random weights, as training starts from before any initialiser."""
    facts = clip.TOY if config.size == "toy" else config.clip
    size = embedding_size(facts)
    towers: dict[str, nn.Module] = {}
    if "audio" in config.towers:
        towers["audio"] = build_audio_head(size, config.size)
    if {"image", "text"} & set(config.towers):
        towers["image"], towers["text"] = build_clip(facts, antialias=config.numerics.antialias_images)
    chosen = {modality: towers[modality] for modality in config.towers}
    return Encoder(
        chosen, size=size, dead_temperatures=config.numerics.dead_temperatures, config=config.to_json()
    )


def build_audio_head(outputs: int, size: str = "full") -> ESResNeXt:
    """An audio head alone, with class logits or an embedding as `outputs`. ValueError for another size."""
    return ESResNeXt(outputs, trunk=esresnext.TOY if _check_size(size) == "toy" else RESNEXT50)


def _check_size(size: str) -> str:
    if size not in get_args(Size):
        raise ValueError(f"no size {size!r}; expected one of {', '.join(get_args(Size))}")
    return size
