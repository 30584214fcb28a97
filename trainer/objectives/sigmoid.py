"""A yes or no for every possible pair of examples: SigLIP's loss, to which several matches are natural."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.batch import Batch, Embeddings
from trainer.collisions import text_floor_of_decisions
from trainer.objectives.counted import real, without_padding
from trainer.objectives.pairs import PAIRS, check_pairs, modalities_of, pair_logits, precise, scalar
from trainer.objectives.targets import Masked, asks_labels, left_out, matches

INITIAL_BIAS = -10.0  # SigLIP §3.2, arXiv 2303.15343


@dataclass(frozen=True, kw_only=True, slots=True)
class Sigmoid:
    """One term per pair: -log σ(±(scale · cosine + bias)) summed over columns, averaged over rows and pairs.

    Each pair has a bias, `audio_text_bias`, that the learner trains for it (`parameters`). Where `targets`
    are `identical`, all of one's label set match; what `masked` names and does not match is not asked about.
    Both hold for the pairs in `by_label`. `Batch.weights` count half on a decision's row and half on its
    column.
    """

    pairs: tuple[str, ...] = PAIRS
    targets: Literal["instance", "identical"] = "instance"
    masked: Masked = "nothing"
    by_label: tuple[str, ...] = ("audio_text", "image_text")
    bias: float = INITIAL_BIAS

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.by_label)

    @property
    def modalities(self) -> tuple[str, ...]:
        return modalities_of(self.pairs)

    @property
    def needs_labels(self) -> bool:
        return asks_labels(self.targets, self.masked) and bool(set(self.pairs) & set(self.by_label))

    @property
    def parameters(self) -> dict[str, float]:
        """What the learner trains for this objective, with initial values (see `needs.parameters_of`)."""
        return {f"{pair}_bias": self.bias for pair in self.pairs}

    def __call__(
        self, embeddings: Embeddings, batch: Batch, scales: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        embeddings, batch = without_padding(embeddings, batch)
        with precise(embeddings):
            return {
                pair: self._mean(self._losses(embeddings, batch, scales, pair), batch, pair)
                for pair in self.pairs
            }

    def floor(self, batch: Batch) -> dict[str, Tensor]:
        """The least that each term can be, whatever the model: texts may be equal (`trainer.collisions`)."""
        batch = real(batch)
        told_apart = {pair: "text" in pair.split("_") and not self._lenient(pair) for pair in self.pairs}
        least = text_floor_of_decisions(batch) / len(self.pairs)
        return {pair: least * told_apart[pair] for pair in self.pairs}

    def _losses(
        self, embeddings: Embeddings, batch: Batch, scales: Mapping[str, Tensor], pair: str
    ) -> Tensor:
        """(N, N) of every decision."""
        logits = pair_logits(embeddings, pair, scales) + scalar(scales, f"{pair}_bias")
        return F.softplus(torch.where(self._matching(batch, pair, logits), -logits, logits))

    def _mean(self, losses: Tensor, batch: Batch, pair: str) -> Tensor:
        out = left_out(self.masked, batch) if pair in self.by_label else None
        if out is not None:
            losses = losses.masked_fill(out & ~self._matching(batch, pair, losses), 0.0)
        if batch.weights is None:
            return losses.sum() / (len(losses) * len(self.pairs))
        weights = batch.weights.to(losses.dtype)
        return ((losses.sum(0) + losses.sum(1)) * weights).sum() / (2 * weights.sum() * len(self.pairs))

    def _matching(self, batch: Batch, pair: str, like: Tensor) -> Tensor:
        alike = matches(self.targets, batch) if pair in self.by_label else None
        return torch.eye(len(like), dtype=torch.bool, device=like.device) if alike is None else alike > 0

    def _lenient(self, pair: str) -> bool:
        return pair in self.by_label and (self.targets != "instance" or self.masked != "nothing")
