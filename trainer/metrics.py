"""How good scores are: accuracy and average precision, each with its definition and its rule for ties.

A value that does not exist (the average precision of a class without positives) is NaN, never 0 or 1: who
averages leaves it out and counts it.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def top1_hits(scores: Floats, classes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(N,) whether the best of each row of `scores` (N, K) is its class; of equal scores the first counts."""
    finite(scores)
    best: NDArray[np.bool_] = scores.argmax(axis=1) == classes
    return best


def accuracy(scores: Floats, classes: NDArray[np.integer]) -> float:
    """Share of rows whose best score is that of their class; NaN without rows."""
    return float(top1_hits(scores, classes).mean()) if len(scores) else float("nan")


def average_precision(scores: Floats, relevant: NDArray[np.bool_]) -> float:
    """Mean over the positives of the precision at their score; NaN without positives.

    scikit-learn's convention: a threshold takes all items of equal score at once, so equal scores share one
    precision and their order does not matter.
    """
    return float(class_average_precisions(scores[:, None], relevant[:, None])[0])


def class_average_precisions(scores: Floats, targets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(K,) average precision of each column of `scores` (N, K) against `targets` (N, K)."""
    finite(scores)
    return np.array(
        [_average_precision(column, truth) for column, truth in zip(scores.T, targets.T, strict=True)]
    )


def _average_precision(scores: Floats, relevant: NDArray[np.bool_]) -> float:
    order, ends = thresholds(scores, relevant)
    if not len(ends):
        return float("nan")
    found = np.cumsum(relevant[order])[ends - 1]
    return float(np.diff(found, prepend=0) @ (found / ends) / found[-1])


def thresholds(
    scores: Floats, relevant: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Items by falling score, and after how many of them each score ends that some positive has."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_equals = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    positives = np.flatnonzero(relevant[order])
    return order, np.unique(last_of_equals[np.searchsorted(last_of_equals, positives)]) + 1


def mean_average_precision(scores: Floats, targets: NDArray[np.bool_]) -> float:
    """Macro: the mean of the classes' average precisions, those without positives left out."""
    return mean_of_present(class_average_precisions(scores, targets))


def mean_of_present(values: NDArray[np.floating]) -> float:
    """The mean of what is not NaN; NaN when nothing is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def finite(scores: Floats) -> Floats:
    """`scores`; ValueError when one of them is no number, since no order is then right."""
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))[0])
        raise ValueError(
            f"row {row} of the scores holds NaN or infinity; check the model's weights and input"
        )
    return scores
