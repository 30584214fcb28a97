"""Pictures as CLIP sees them: decoded, resized, cropped to a square, normalised."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip/clip.py
STD = (0.26862954, 0.26130258, 0.27577711)  # openai/CLIP, clip/clip.py


class ImageError(ValueError):
    """A picture that does not decode."""


def read_image(source: bytes | Path | str) -> Image:
    """RGB, upright. Raises ImageError for what is no picture, is cut off, or is too large to be meant."""
    try:
        with PIL.Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return PIL.ImageOps.exif_transpose(picture).convert("RGB")  # decodes: a cut file fails here
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ImageError(f"picture does not decode: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTransform:
    """Short side to `size` by bicubic interpolation, the central square, CLIP's normalisation.

    With `antialias` the picture is resized in eight bits with a low-pass, as CLIP was trained; without it, in
    floats and with four taps whatever the scale, as AudioCLIP's released transform does under its pinned
    torchvision 0.8.2.
    """

    size: int = 224
    antialias: bool = True

    def __call__(self, picture: Image) -> Tensor:
        """(3, size, size) float32."""
        height, width = _resized(picture, self.size)
        if self.antialias:
            pixels = _floats(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))
        else:
            pixels = F.interpolate(_floats(picture)[None], (height, width), mode="bicubic")[0]
        return _normalised(_central(pixels, self.size))

    def of_squares(self, frames: Tensor) -> Tensor:
        """(B, 3, size, size) float32 of square pictures (B, S, S, 3), uint8, on the device that they lie on.

        With `antialias` as PIL resizes them, but for a step or two of 255 in a hundredth of places.
        """
        pixels = frames.permute(0, 3, 1, 2).float()  # NHWC -> NCHW
        side, size = pixels.shape[-1], self.size
        if self.antialias and side != size:
            for shape in ((side, size), (size, size)):  # across, then down, each in eight bits: PIL's way
                resized = F.interpolate(pixels, shape, mode="bicubic", antialias=True)
                pixels = resized.add_(0.5).floor_().clamp_(0, 255)  # half up
        elif side != size:
            pixels = F.interpolate(pixels, (size, size), mode="bicubic")
        return _normalised(pixels / 255)


def _resized(picture: Image, size: int) -> tuple[int, int]:
    short = min(picture.size)
    # the long side is rounded down, as torchvision's Resize does
    width, height = (int(size * side / short) for side in picture.size)
    return height, width


def _floats(picture: Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255  # HWC -> CHW


def _central(pixels: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in pixels.shape[1:])
    return pixels[:, top : top + size, left : left + size]


def _normalised(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / deviation
