"""What enters a model in one step, and what leaves it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

MODALITIES = ("audio", "image", "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's examples on the device they are computed on, prepared; None for what nobody asked for."""

    keys: tuple[str, ...]  # B sample keys
    audio: Tensor | None = None  # (B, C, T) waveforms in [-1, 1] at the tower's sample rate
    image: Tensor | None = None  # (B, 3, S, S) normalised pixels
    tokens: Tensor | None = None  # (U, L) token ids of the batch's unique texts
    text_rows: Tensor | None = None  # (B,) int64: each example's row of `tokens`, or of the text table
    targets: Tensor | None = None  # (B, K) float32, 1 where a class applies
    label_sets: Tensor | None = None  # (B,) int64, equal exactly where the label sets are
    text_ids: Tensor | None = None  # (B,) int64, equal exactly where the texts are, on every process
    # (B,) float32, under mixup: how much of its sound is its own (trainer.mixup)
    shares: Tensor | None = None
    weights: Tensor | None = None  # (B,) float32: how much each example counts
    valid: Tensor | None = None  # (B,) bool: False for the padding of an evaluation's last batch

    def __len__(self) -> int:
        return len(self.keys)

    def chunks(self, parts: int) -> tuple[Self, ...]:
        """`parts` batches of equal size, in order; `tokens` are shared, since rows point into them."""
        size, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"a batch of {len(self)} in {parts} parts; expected a divisor of the batch")
        return tuple(self._rows(slice(part * size, (part + 1) * size)) for part in range(parts))

    def _rows(self, rows: slice) -> Self:
        per_example: dict[str, Any] = {
            field.name: value[rows]
            for field in dataclasses.fields(self)
            if field.name != "tokens" and (value := getattr(self, field.name)) is not None
        }
        return dataclasses.replace(self, **per_example)

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """One row per example and modality, each of unit length; None for a modality that was not given."""

    audio: Tensor | None = None  # (B, D)
    image: Tensor | None = None  # (B, D)
    text: Tensor | None = None  # (B, D)
    class_logits: Tensor | None = None  # (B, K) what a classifier gives instead of embeddings

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
