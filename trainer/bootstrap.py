"""How far a number would move had other items of the same kind been drawn: centred bootstrap intervals.

The items of a data set are drawn again with replacement, as many as there are, independently of class and
fold. The draws are a function of how many items there are and of the seed, so the replicates of two models
on the same items are paired by themselves: their difference has an interval of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import Floats, thresholds

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 125  # resamples that are averaged at once

Replicates = NDArray[np.float64]  # (R,) the metric on each resample


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Holds the middle `LEVEL` of the replicates; NaN at both ends when there are none."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """The draws of `resamples` times `items` out of `items`, the same for the same three numbers."""

    items: int
    resamples: int = RESAMPLES
    seed: int = 0

    @property
    def counts(self) -> NDArray[np.uint8]:
        """(items, R) how often each item is drawn in each resample."""
        return _counts(self.items, self.resamples, self.seed)

    def means(self, values: Floats) -> Replicates:
        """Of a value per item (items,)."""
        return np.concatenate([values @ block for block in self._blocks()]) / self.items

    def medians(self, values: Floats) -> Replicates:
        """Of a value per item; of an even number, the mean of the two in the middle."""
        order = np.argsort(values, kind="stable")
        return np.concatenate([_medians(values[order], block[order]) for block in self._blocks()])

    def average_precisions(self, scores: Floats, targets: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(K, R) of each column of `scores` (items, K); NaN where a resample has no positive."""
        columns = zip(scores.T, targets.T, strict=True)
        return np.stack([_average_precisions(column, truth, self.counts) for column, truth in columns])

    def _blocks(self) -> Iterator[NDArray[np.float64]]:
        for start in range(0, max(1, self.resamples), BLOCK):
            yield self.counts[:, start : start + BLOCK].astype(np.float64)


@lru_cache(maxsize=4)
def _counts(items: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    counts = np.zeros((items, resamples), dtype=np.uint8)  # more than 255 times is never drawn
    for resample in range(resamples):
        counts[:, resample] = np.bincount(random.integers(0, items, items), minlength=items)
    return counts


def _medians(ordered: Floats, counts: NDArray[np.float64]) -> Replicates:
    """Of rising values (N,), drawn `counts` (N, R) times."""
    drawn = counts.cumsum(axis=0)
    lower, upper = (len(ordered) - 1) // 2, len(ordered) // 2
    middle = [ordered[(drawn <= place).sum(axis=0)] for place in (lower, upper)]
    return np.asarray((middle[0] + middle[1]) / 2, dtype=np.float64)


def _average_precisions(scores: Floats, relevant: NDArray[np.bool_], counts: NDArray[np.uint8]) -> Replicates:
    """As `metrics.average_precision`, with each item as often as it was drawn."""
    order, ends = thresholds(scores, relevant)
    if not len(ends):
        return np.full(counts.shape[1], np.nan)
    spans = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    drawn = np.stack([counts[span].sum(axis=0, dtype=np.int32) for span in spans])
    positive = np.stack([counts[span[relevant[span]]].sum(axis=0, dtype=np.int32) for span in spans])
    seen, found = drawn.cumsum(axis=0), positive.cumsum(axis=0)
    precision = found / np.maximum(seen, 1)
    with np.errstate(invalid="ignore"):  # a resample without positives
        replicates: Replicates = (positive * precision).sum(axis=0) / found[-1]
    return replicates


def interval(replicates: Replicates, value: float) -> Interval:
    """The percentile interval of a metric's replicates, moved so that their mean is the metric's `value`.

    Resampled items come several times, which raises the average precision of a class with few positives:
    without the move its interval could lie beside the value. Means have no such bias. Replicates that do not
    exist are left out.
    """
    present = replicates[~np.isnan(replicates)]
    if not len(present):
        return Interval(low=float("nan"), high=float("nan"))
    low, high = np.quantile(present, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + (value - present.mean())
    return Interval(low=float(low), high=float(high))


def mean_over_classes(replicates: NDArray[np.float64]) -> Replicates:
    """(R,) of (K, R): per resample, the mean of the classes that have a value in it."""
    there = ~np.isnan(replicates)
    counted = there.sum(axis=0)
    totals = np.where(there, replicates, 0.0).sum(axis=0)
    return np.where(counted > 0, totals / np.maximum(counted, 1), np.nan)
