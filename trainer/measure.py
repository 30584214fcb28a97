"""One number with its name, its definition and how sure it is."""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np

from trainer.bootstrap import RESAMPLES, Interval, Replicates, Resampling, interval
from trainer.metrics import Floats

FOLD_MEAN = "_fold_mean"
ON_TEST = "_selected_on_test"

# by the last part of a metric's name, of some groups with the group; `k` stands for a number
DEFINITIONS = {
    "accuracy": "Share of items whose best-scored class is their own; of equal scores the first counts.",
    "mAP": "Mean over classes, or over queries, of AP. Classes without positives, and queries to which "
    "nothing is relevant, are left out and counted.",
    "AP": "Average precision of one class: mean over its positives of the precision at their score; equal "
    "scores share one threshold, as in scikit-learn.",
    "P@k": "Mean over queries of (relevant among the first k) / k.",
    "R@k": "Mean over queries of (relevant among the first k) / (all relevant): at k = 1 that is at "
    "most 1 / relevant.",
    "hit@k": "Share of queries with a relevant item among the first k.",
    "MRR": "Mean over queries of 1 / (rank of the best relevant item).",
    "median_rank": "Median over queries of the rank of the best relevant item; of an even number, the mean "
    "of the two in the middle.",
    "captions/R@k": "Share of queries with an own one among the first k: of captions, the sample that they "
    "are of; of samples, any of their captions.",
    "captions/mAP@k": "Mean over queries of (sum of the precisions at own ones among the first k) / (k, or "
    "all own ones where they are fewer).",
}
_FOLD_MEAN = "Unweighted mean over the official folds of: "
_ON_TEST = "Chosen on the test data, as published work often does, and so too good: "


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number that an evaluation gives."""

    name: str  # group/subject/measure
    value: float
    n: int  # items, or queries, that it is over
    missing: int = 0  # items of the data set that are not there
    left_out: int = 0  # classes without positives, or queries to which nothing is relevant
    fold: str = ""  # one of the folds; empty for all of them pooled, and for a mean over them
    class_name: str = ""  # one of the classes; empty for all
    setting: str = ""  # what else it depends on: the prompt, the fusion of modalities
    replicates: Replicates = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def interval(self) -> Interval:
        """Centred percentile bootstrap, 95 %, within what the metric can be: ranks from 1, shares up to 1."""
        found = interval(self.replicates, self.value)
        least, most = (1.0, np.inf) if "median_rank" in self.name else (0.0, 1.0)
        low, high = np.clip((found.low, found.high), least, most)  # NaN stays
        return Interval(low=float(low), high=float(high))

    @property
    def definition(self) -> str:
        """In a sentence. Raises KeyError for a measure that has none."""
        return definition(self.name)

    @property
    def whole(self) -> bool:
        """Whether it speaks of the data set, not of one fold or one class."""
        return not self.fold and not self.class_name

    def selected_on_test(self) -> Self:
        """The same number under a name that says how it came to be."""
        return replace(self, name=self.name + ON_TEST)


def definition(name: str) -> str:
    """What a metric's name stands for. Raises KeyError for a name without a definition."""
    measure, before = name.rsplit("/", 1)[-1], ""
    if measure.endswith(ON_TEST):
        measure, before = measure.removesuffix(ON_TEST), before + _ON_TEST
    if measure.endswith(FOLD_MEAN):
        measure, before = measure.removesuffix(FOLD_MEAN), before + _FOLD_MEAN
    measure = re.sub(r"@\d+$", "@k", measure)
    of_group = f"{name.split('/')[0]}/{measure}"
    return before + DEFINITIONS[of_group if of_group in DEFINITIONS else measure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """How resamples are drawn: so many, from a seed; 0 for no intervals."""

    resamples: int = RESAMPLES
    seed: int = 0

    def of(self, items: int, *, fold: str = "") -> Resampling:
        """Of all items, or of a fold's: folds are drawn independently of one another."""
        seed = self.seed + zlib.crc32(fold.encode()) if fold else self.seed
        return Resampling(items=items, resamples=self.resamples, seed=seed)


def fold_mean(measures: list[Measure]) -> Measure:
    """The unweighted mean of one metric over folds, each of which was resampled by itself."""
    first = measures[0]
    return replace(
        first,
        name=first.name + FOLD_MEAN,
        value=float(np.mean([each.value for each in measures])),
        n=sum(each.n for each in measures),
        left_out=sum(each.left_out for each in measures),
        fold="",
        replicates=np.mean([each.replicates for each in measures], axis=0),
    )


class Drawn(Protocol):
    """What a bootstrap makes of a value for each query (Q,)."""

    def means(self, values: Floats) -> Replicates: ...

    def medians(self, values: Floats) -> Replicates: ...


def query_numbers(
    per_query: Mapping[str, Floats], first: Floats, drawn: Drawn
) -> Iterator[tuple[str, float, Replicates]]:
    """(measure, number, replicates): means of what each query came to, and the median of its first rank."""
    for name, values in per_query.items():
        yield name, float(values.mean()), drawn.means(values)
    yield "median_rank", float(np.median(first)), drawn.medians(first)
