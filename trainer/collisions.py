"""How low a loss can go on a batch in which several examples have one and the same text.

Equal texts have equal embeddings, so that no model can tell which of n dogs a "Dog" belongs to. What is left
is a floor that a model cannot fall below, and that a batch of labels moves up and down from step to step: 1.3
nats per direction of AudioSet's batches of 64. The floors here are of free logits, of any size.
"""

from typing import Literal

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.gather import gather_facts
from trainer.stage import Objective

SMALLEST = 1e-30  # divides 0 without a NaN


def loss_floor(objective: Objective, batch: Batch, *, gathered: bool = True) -> dict[str, Tensor]:
    """The least value of each term of `objective` on this batch; empty for one that knows no `floor`.

    `gathered` asks for all processes' examples, which is one small collective: call it on all of them. Texts
    are equal where `Batch.text_ids` say so or, without them, where label sets are.
    """
    floor = getattr(objective, "floor", None)
    if floor is None:
        return {}
    terms: dict[str, Tensor] = floor(gather_facts(batch) if gathered else batch)
    return terms


def text_floor(batch: Batch) -> Tensor:
    """Of one cross-entropy over rows plus one over columns, where columns are texts and targets the diagonal.

    A row has n equal logits where its text is, and does no better than log n. The n columns of one text are
    one distribution over rows, at best that of their n targets by weight: the entropy of n weights. Both are
    reached at once. Without weights both are the mean of log n.
    """
    weights = _weights(batch)
    alike = _same_text(batch).to(weights.dtype)
    rows = alike.sum(dim=1).log()
    columns = ((alike @ weights) / weights.clamp(min=SMALLEST)).log()
    return _mean(rows + columns.where(weights > 0, 0), weights)


def entropy_floor(matches: Tensor, weights: Tensor | None) -> Tensor:
    """The same where targets are `matches` (N, N): a cross-entropy is at least its targets' entropy.

    Logits of log `matches` reach it in rows and columns, and equal texts have equal columns there.
    """
    weights = matches.new_ones(len(matches)) if weights is None else weights
    shares = [matches / matches.sum(dim, keepdim=True) for dim in (1, 0)]
    rows, columns = (torch.special.entr(each).sum(dim) for each, dim in zip(shares, (1, 0), strict=True))
    return _mean(rows + columns, weights)


def text_floor_of_decisions(batch: Batch) -> Tensor:
    """Of the sum of binary cross-entropies of all pairs by rows, averaged, where columns are texts.

    A row answers the n columns of its text with one logit, of which one should be yes: n binary entropies of
    1/n, or of the weights' share. Weights count half on a decision's row and half on its column.
    """
    weights = _weights(batch)
    alike = _same_text(batch).to(weights.dtype)
    total = (alike * (weights[:, None] + weights[None, :]) / 2).sum(dim=1)
    share = weights / total.clamp(min=SMALLEST)
    return (total * _binary_entropy(share)).sum() / weights.sum()


def class_entropies(targets: Tensor, labels: Literal["several", "one"]) -> Tensor:
    """(N, K) targets -> (N,): what a perfect classifier's cross-entropy is; 0 unless targets are shares."""
    if labels == "one":
        entropies: Tensor = torch.special.entr(targets).sum(dim=1)
        return entropies
    return _binary_entropy(targets).sum(dim=1)


def _binary_entropy(share: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(share) + torch.special.entr(1 - share)
    return entropy


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def _weights(batch: Batch) -> Tensor:
    texts = _texts(batch)
    return torch.ones(len(texts), device=texts.device) if batch.weights is None else batch.weights


def _same_text(batch: Batch) -> Tensor:
    texts = _texts(batch)
    return texts[:, None] == texts[None, :]


def _texts(batch: Batch) -> Tensor:
    texts = batch.label_sets if batch.text_ids is None else batch.text_ids
    if texts is None:
        raise ValueError(
            "neither Batch.text_ids nor Batch.label_sets; expected one to say what texts are equal"
        )
    return texts
