"""Where AudioCLIP's paper and its released code compute differently, as two whole sets of choices."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsProfile:
    """The choices that change what a model computes; `PAPER` and `RELEASED` give each with its source.

    Weights of either origin run under either profile. What both sources agree on is no choice, and stands
    where it is computed: framing, filters, decibels, gates, the sum over channels, the filter-norm loss. What
    training does with sound, and its loss, are values of a stage (trainer.stage).
    """

    name: str

    dead_temperatures: bool  # whether a logit scale beyond its bound passes no gradient, and never learns
    antialias_images: bool  # whether a picture is low-pass filtered before it is made smaller


PAPER = NumericsProfile(
    name="paper",
    dead_temperatures=False,  # CLIP §2.5: the temperature is learned, clipped at 100
    antialias_images=True,  # AudioCLIP §3.3 takes CLIP's heads; openai/CLIP clip/clip.py resizes in PIL
)

RELEASED = NumericsProfile(
    name="released",
    dead_temperatures=True,  # model/audioclip.py: clamps exp(log 100), in float32 100.0000076
    antialias_images=False,  # utils/transforms.py: ToTensor before Resize, under the pinned torchvision 0.8.2
)

PROFILES = {profile.name: profile for profile in (PAPER, RELEASED)}
