"""Which examples of a batch match each other by their labels, and which should not be told apart."""

from typing import Literal

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.mixup import mixed, neighbours

# An example matches itself alone; all of its label set; or each by the Jaccard index of their labels.
Targets = Literal["instance", "identical", "jaccard"]
# What does not match and is no negative either: examples of one's label set, or with any of one's labels.
Masked = Literal["nothing", "identical", "overlapping"]


def asks_labels(targets: Targets, masked: Masked) -> bool:
    """Whether either says anything but that an example matches itself."""
    return targets != "instance" or masked != "nothing"


def matches(targets: Targets, batch: Batch) -> Tensor | None:
    """(N, N) symmetric, 1 on the diagonal: how well each example matches each; None for itself alone.

    Divided by a row's sum it is the distribution that the softmax over that row should be (UniCL, arXiv
    2204.03610, with `identical`). Raises ValueError for a batch without labels.
    """
    if targets == "instance":
        return None
    if targets == "identical":
        return _identical(_label_sets(batch, targets)).float()
    return jaccard(_labels(batch, targets))


def left_out(masked: Masked, batch: Batch) -> Tensor | None:
    """(N, N) bool: what is no negative; False on the diagonal. Raises ValueError without labels."""
    if masked == "nothing":
        return None
    if masked == "identical":
        alike = _identical(_label_sets(batch, masked))
    else:
        labels = _labels(batch, masked)
        alike = labels @ labels.T > 0
    return alike.fill_diagonal_(False)


def heard_matches(found: Tensor | None, shares: Tensor | None) -> Tensor | None:
    """(N, N) as `matches` gives them, of sounds by rows under mixup: by what share each is a match."""
    if shares is None:
        return found
    return mixed(torch.eye(len(shares), device=shares.device) if found is None else found, shares)


def heard_left_out(found: Tensor | None, shares: Tensor | None) -> Tensor | None:
    """As `left_out` gives it: what is no negative of one half of a mixed sound is none of the whole."""
    if found is None or shares is None:
        return found
    return found | found[neighbours(len(shares), shares.device)]


def jaccard(labels: Tensor) -> Tensor:
    """(N, K) multi-hot -> (N, N): labels in common over labels of either.

    Examples without a label match only themselves.
    """
    common = labels @ labels.T
    sizes = labels.square().sum(dim=1)
    either = sizes[:, None] + sizes[None, :] - common
    return torch.where(either > 0, common / either.clamp(min=1e-12), 0.0).fill_diagonal_(1.0)


def _identical(label_sets: Tensor) -> Tensor:
    return label_sets[:, None] == label_sets[None, :]


def _label_sets(batch: Batch, wanted: str) -> Tensor:
    if batch.label_sets is None:
        raise ValueError(f"{wanted!r} needs Batch.label_sets, and this batch has none: prepare the labels")
    return batch.label_sets


def _labels(batch: Batch, wanted: str) -> Tensor:
    if batch.targets is None:
        raise ValueError(f"{wanted!r} needs Batch.targets, and this batch has none: prepare the labels")
    return batch.targets.float()
