"""Cross-entropies of a classifier's logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from trainer.batch import Batch, Embeddings
from trainer.collisions import class_entropies
from trainer.mixup import mixed
from trainer.objectives.counted import average, real, without_padding
from trainer.objectives.pairs import at_least_float32, precise


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """One term, `classes`, over `Embeddings.class_logits` and `Batch.targets`.

    With `labels` `several` each class is a yes or no: binary cross-entropies are summed over the classes and
    averaged over the examples. With `one` it is the softmax's cross-entropy. Both as in ESResNeXt-fbsp's
    trainer. Under mixup targets are mixed as sounds are.
    """

    labels: Literal["several", "one"] = "several"

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("audio",)

    @property
    def needs_labels(self) -> bool:
        return True

    @property
    def mixes(self) -> bool:
        return True

    def __call__(
        self, embeddings: Embeddings, batch: Batch, scales: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        embeddings, batch = without_padding(embeddings, batch)
        if embeddings.class_logits is None:
            raise ValueError("no class logits; expected a model with classes: set model.classes")
        logits = at_least_float32(embeddings.class_logits)
        with precise(embeddings):
            losses = self._losses(logits, _targets(batch, logits))
        return {"classes": average(losses, batch.weights)}

    def floor(self, batch: Batch) -> dict[str, Tensor]:
        """The least that the term can be: 0, but for the shares of mixup."""
        batch = real(batch)
        if batch.targets is None:
            raise ValueError("no targets; expected Batch.targets, one row of classes per example")
        return {"classes": average(class_entropies(_heard(batch.targets, batch), self.labels), batch.weights)}

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(N,) of the examples."""
        if self.labels == "one":
            return F.cross_entropy(logits, targets, reduction="none")
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def _targets(batch: Batch, logits: Tensor) -> Tensor:
    if batch.targets is None or batch.targets.shape != logits.shape:
        found = None if batch.targets is None else tuple(batch.targets.shape)
        raise ValueError(
            f"targets of {found}; expected {tuple(logits.shape)}, one row of classes per example:"
            " model.classes has to be the number of the data's classes"
        )
    return _heard(batch.targets, batch).to(logits.dtype)


def _heard(targets: Tensor, batch: Batch) -> Tensor:
    """Of what is in each sound."""
    return targets if batch.shares is None else mixed(targets, batch.shares)
