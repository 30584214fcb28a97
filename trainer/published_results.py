"""What papers report: numbers with their source, under the names that our own metrics have."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedResult:
    """One printed number."""

    system: str
    variant: str  # which of the system's models; may be empty
    dataset: str  # as a rebuilt data set calls itself: audioset, esc50, urbansound8k, imagenet-val, …
    metric: str  # the name of ours that it compares to; empty where none does
    printed_as: str  # the source's words
    percent: float
    spread: str  # ± of folds, in percent; empty where none is printed
    protocol: str  # prompt, items, what the model had seen
    source: str
    note: str


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """All of them, in the order of the table that this package holds."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            PublishedResult(**{**row, "percent": float(row["percent"])})  # type: ignore[arg-type]  # by name
            for row in csv.DictReader(file)
        )
