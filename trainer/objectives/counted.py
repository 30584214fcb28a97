"""Which examples of a batch count, and how much each."""

from itertools import compress

from torch import Tensor

from trainer.batch import Batch, Embeddings
from trainer.gather import FACTS, present


def without_padding(embeddings: Embeddings, batch: Batch) -> tuple[Embeddings, Batch]:
    """Both without the rows where `Batch.valid` is False: padding is no example, and nobody's negative."""
    if batch.valid is None:
        return embeddings, batch
    rows = {name: tensor[batch.valid] for name, tensor in present(embeddings).items()}
    return Embeddings(**rows), real(batch)


def real(batch: Batch) -> Batch:
    """The facts of the examples that are not padding."""
    if batch.valid is None:
        return batch
    facts = {name: fact[batch.valid] for name in FACTS if (fact := getattr(batch, name)) is not None}
    return Batch(keys=tuple(compress(batch.keys, batch.valid.tolist())), **facts)


def average(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of (N,); with weights (N,), the weighted mean, as published (the weights' sum divides)."""
    if weights is None:
        return values.mean()
    weights = weights.to(values.dtype)
    return (values * weights).sum() / weights.sum()
