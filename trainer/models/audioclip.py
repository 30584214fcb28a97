"""AudioCLIP and the CLIP it starts from, put together from towers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from trainer.models.clip import RN50, build_clip, embedding_size
from trainer.models.encoder import Encoder
from trainer.models.esresnext import ESResNeXt
from trainer.models.profile import PAPER, PROFILES, NumericsProfile

CONFIG_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Everything about an encoder but its weights; lies beside them as `config.json`."""

    towers: tuple[str, ...] = ("audio", "image", "text")
    clip: str = RN50  # open_clip's name for the image and text towers
    profile: str = PAPER.name  # docs/decisions/0005-default-profile.md
    format: int = CONFIG_FORMAT

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"no profile {self.profile!r}; expected one of {', '.join(PROFILES)}")

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
    size = embedding_size(config.clip)
    towers: dict[str, nn.Module] = {}
    if "audio" in config.towers:
        towers["audio"] = ESResNeXt(outputs=size)
    if {"image", "text"} & set(config.towers):
        towers["image"], towers["text"] = build_clip(config.clip, antialias=config.numerics.antialias_images)
    chosen = {modality: towers[modality] for modality in config.towers}
    return Encoder(
        chosen, size=size, dead_temperatures=config.numerics.dead_temperatures, config=config.to_json()
    )
