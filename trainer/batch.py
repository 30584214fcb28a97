"""What enters a model in one step, and what leaves it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

MODALITIES = ("audio", "image", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """One row per example and modality, each of unit length; None for a modality that was not given."""

    audio: Tensor | None = None  # (B, D)
    image: Tensor | None = None  # (B, D)
    text: Tensor | None = None  # (B, D)

    def present(self) -> Iterator[tuple[str, Tensor]]:
        """(modality, embeddings) of those that were given, in the order audio, image, text."""
        for modality in MODALITIES:
            if (rows := getattr(self, modality)) is not None:
                yield modality, rows

    def pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(`audio_image` | `audio_text` | `image_text`, rows of the first, rows of the second)."""
        present = list(self.present())
        for index, (first, rows) in enumerate(present):
            for second, columns in present[index + 1 :]:
                yield f"{first}_{second}", rows, columns
