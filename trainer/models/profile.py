"""Where AudioCLIP's paper and its released code differ, as two whole sets of choices."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsProfile:
    """The choices that change a number; `PAPER` and `RELEASED` give each of them with its source.

    Weights of either origin run under either profile. What both sources agree on is no choice, and stands
    where it is computed: framing, filters, decibels, gates, the sum over channels, the filter-norm loss.
    """

    name: str

    # What a model computes.
    dead_temperatures: (
        bool  # whether a logit scale beyond its bound passes no gradient, and so never learns again
    )
    antialias_images: bool  # whether a picture is low-pass filtered before it is made smaller

    # What training does with sound; ESC-50's and UrbanSound8K's recipes read these.
    time_inversion: Literal["time", "channels"]  # the axis that is reversed with probability 0.5
    noise_snr_db: tuple[float, float]  # bounds of the uniform draw of the signal-to-noise ratio
    urbansound_amplitude: Literal["as_recorded", "stretched"]  # stretched: each file to the whole of [-1, 1]

    # The objective.
    one_pair_loss: Literal["mean", "sum"]  # of the two cross-entropies when only two modalities are given


PAPER = NumericsProfile(
    name="paper",
    dead_temperatures=False,  # CLIP §2.5: the temperature is learned, clipped at 100
    antialias_images=True,  # AudioCLIP §3.3 takes CLIP's heads; openai/CLIP clip/clip.py resizes in PIL
    time_inversion="time",  # AudioCLIP §4.2: "inversion of a track along its time axis"
    noise_snr_db=(10.0, 120.0),  # AudioCLIP §4.2
    urbansound_amplitude="as_recorded",  # AudioCLIP §4.1 names no other scale
    one_pair_loss="mean",  # CLIP, figure 3: the mean of the two; AudioCLIP §3.3 adds two such terms
)

RELEASED = NumericsProfile(
    name="released",
    dead_temperatures=True,  # model/audioclip.py: clamps exp(log 100), in float32 100.0000076
    antialias_images=False,  # utils/transforms.py: ToTensor before Resize, under the pinned torchvision 0.8.2
    time_inversion="channels",  # utils/transforms.py RandomFlip: reverses axis 0 of (C, T)
    noise_snr_db=(10.0, 121.0),  # utils/transforms.py RandomNoise: adds 1 to the upper bound
    urbansound_amplitude="stretched",  # utils/datasets/us8k.py: min-max to int16's range, per file
    one_pair_loss="sum",  # model/audioclip.py: divides the sum by the factorial of the pairs, here 1
)

PROFILES = {profile.name: profile for profile in (PAPER, RELEASED)}
