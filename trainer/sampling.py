"""How often each sample should be drawn, or how much it should count, for the sake of rare classes."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[Iterable[Hashable]]  # of each sample


def class_balanced_weights(labels: Labels) -> NDArray[np.float64]:
    """(N,) of mean 1: each sample's sum of its labels' 1 / frequency, for drawing with replacement.

    Each class is then drawn about as often as each other, as its samples' weights together are what one class
    is worth. A sample without labels is never drawn. Raises ValueError where no sample has any.
    """
    weights = sample_weights(labels, inverse_frequencies(labels))
    if not weights.any():
        raise ValueError(f"none of {len(weights)} samples has a label; expected labels: sample uniformly")
    mean_one: NDArray[np.float64] = weights / weights.mean()
    return mean_one


def sample_weights(labels: Labels, class_weights: Mapping[Hashable, float]) -> NDArray[np.float64]:
    """(N,) the sum of the weights of each sample's classes, as AudioCLIP's trainer weighs its loss.

    The published data sets brought no class weights; the trainer takes their exponential, so that what it
    calls weights are logarithms of these. Raises KeyError for a class without a weight.
    """
    sums = (sum(class_weights[label] for label in of_sample) for of_sample in labels)
    return np.fromiter(sums, dtype=np.float64, count=len(labels))


def inverse_frequencies(labels: Labels) -> dict[Hashable, float]:
    """{label: 1 / number of samples that have it}."""
    counts = Counter(label for of_sample in labels for label in set(of_sample))
    return {label: 1 / count for label, count in counts.items()}
