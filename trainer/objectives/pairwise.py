"""Symmetric cross-entropy over pairs of modalities: CLIP's loss, as AudioCLIP extends it to three."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.batch import Batch, Embeddings
from trainer.collisions import entropy_floor, text_floor
from trainer.objectives.counted import average, real, without_padding
from trainer.objectives.pairs import PAIRS, check_pairs, modalities_of, pair_logits, precise
from trainer.objectives.targets import (
    Masked,
    Targets,
    asks_labels,
    heard_left_out,
    heard_matches,
    left_out,
    matches,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairwise:
    """One term per pair, `audio_text` for one: how surely each finds its partner among all, both ways.

    As published (AudioCLIP, model/audioclip.py) three pairs give the mean of their six cross-entropies, but
    one pair the sum of its two. `Batch.weights`, if given, weigh examples in every mean. What labels say
    about matches (`targets`, `masked`) applies to the pairs in `by_label`, by default those with text: equal
    labels are equal texts, while two dogs stay two dogs between audio and image. Under mixup a sound matches
    what its neighbour matches as well, by its share; pictures and texts are not mixed.
    """

    pairs: tuple[str, ...] = PAIRS
    targets: Targets = "instance"
    masked: Masked = "nothing"
    by_label: tuple[str, ...] = ("audio_text", "image_text")
    one_pair: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.by_label)

    @property
    def modalities(self) -> tuple[str, ...]:
        return modalities_of(self.pairs)

    @property
    def needs_labels(self) -> bool:
        return asks_labels(self.targets, self.masked) and bool(set(self.pairs) & set(self.by_label))

    @property
    def mixes(self) -> bool:
        return True

    def __call__(
        self, embeddings: Embeddings, batch: Batch, scales: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        embeddings, batch = without_padding(embeddings, batch)
        return {pair: self._term(embeddings, batch, scales, pair) / self._divisor for pair in self.pairs}

    def floor(self, batch: Batch) -> dict[str, Tensor]:
        """The least that each term can be, whatever the model: texts may be equal (`trainer.collisions`)."""
        batch = real(batch)
        return {pair: self._floor(batch, pair) / self._divisor for pair in self.pairs}

    @property
    def _divisor(self) -> int:
        return 1 if len(self.pairs) == 1 and self.one_pair == "sum" else 2 * len(self.pairs)

    def _term(self, embeddings: Embeddings, batch: Batch, scales: Mapping[str, Tensor], pair: str) -> Tensor:
        with precise(embeddings):
            return symmetric_cross_entropy(
                pair_logits(embeddings, pair, scales),
                matches=self._matches(batch, pair),
                left_out=self._left_out(batch, pair),
                weights=batch.weights,
            )

    def _floor(self, batch: Batch, pair: str) -> Tensor:
        alike = self._matches(batch, pair)
        if alike is not None:
            return entropy_floor(alike, batch.weights)
        return text_floor(batch) * ("text" in pair.split("_") and self._masked(pair) == "nothing")

    def _matches(self, batch: Batch, pair: str) -> Tensor | None:
        found = matches(self.targets if pair in self.by_label else "instance", batch)
        return heard_matches(found, batch.shares) if "audio" in pair.split("_") else found

    def _left_out(self, batch: Batch, pair: str) -> Tensor | None:
        found = left_out(self._masked(pair), batch)
        return heard_left_out(found, batch.shares) if "audio" in pair.split("_") else found

    def _masked(self, pair: str) -> Masked:
        return self.masked if pair in self.by_label else "nothing"


def symmetric_cross_entropy(
    logits: Tensor,
    *,
    matches: Tensor | None = None,
    left_out: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the rows of (N, N) logits, averaged, plus the same over its columns.

    Targets are the diagonal, or `matches` (N, N) divided by the sum of its row or column. What `left_out`
    (N, N) holds leaves the denominators unless it matches. `weights` (N,) are of the diagonal's examples.
    """
    counted = logits
    if left_out is not None:
        positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        positive = positive if matches is None else matches > 0
        counted = logits.masked_fill(left_out & ~positive, -torch.inf)
    losses = [counted.logsumexp(dim) - _wanted(logits, matches, dim) for dim in (1, 0)]
    return average(losses[0] + losses[1], weights)


def _wanted(logits: Tensor, matches: Tensor | None, dim: int) -> Tensor:
    """(N,) the logit of each one's match, or the mean of its matches', by how well they match."""
    if matches is None:
        return logits.diagonal()
    matches = matches.to(logits.dtype)
    return (logits * matches).sum(dim) / matches.sum(dim)
