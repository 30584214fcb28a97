"""docs/results.md: what the papers print, and beside it what was measured here; empty until it was."""

import csv
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from shards.whole_file import appearing
from trainer.measure import FOLD_MEAN

HERE = Path(__file__).parent
PUBLISHED = HERE / "published_results.csv"
MEASURED = HERE / "measured_results.jsonl"  # rows of results.jsonl of full models on whole data sets
PAGE = HERE.parent / "docs" / "results.md"

TITLES = {
    "1": "AudioCLIP, Table 1: the audio head alone",
    "2": "AudioCLIP, Table 2: classification",
    "3": "AudioCLIP, Table 3: others, accuracy",
    "4": "AudioCLIP, Table 4: querying",
}
_TOY = "debug."

_HEAD = """# Results

Published numbers as printed, and ours beside them: in percent, with 95 % intervals, each a row of
`results.jsonl` that says what it depends on ([evaluations.md](evaluations.md)); a mean over folds has ± the
standard deviation over them. A cell of ours that is empty says what it waits for: a run of which recipe,
evaluated on which data set. Toy runs never come here.

This page is made of `trainer/published_results.csv` and `trainer/measured_results.jsonl`:
`python -m trainer.results_page`; a test fails when it is stale.
"""
_TABLE_4 = """The paper's P@1 and R@1 are not the usual ones and not defined in it; no number of ours stands
beside them. What is measured instead: [evaluations.md](evaluations.md#the-papers-table-4).
"""


def render(published: Sequence[Mapping[str, str]], measured: Sequence[Mapping[str, Any]]) -> str:
    """The page. Raises ValueError for a row of a toy run."""
    if toys := [row for row in measured if str(row["recipe"]).startswith(_TOY)]:
        raise ValueError(f"{toys[0]['recipe']} is a toy recipe; its results belong into its own run's folder")
    parts = [_HEAD, *_tables(published, measured, TITLES)]
    rest = sorted((row for row in published if not row["table"]), key=lambda row: row["source"])
    for source, rows_of in groupby(rest, key=lambda row: row["source"]):
        parts.append(_section(source, _as_printed(list(rows_of)), ""))
    return "\n".join(parts)


def tables_page(measured: Sequence[Mapping[str, Any]], *, tables: Iterable[str], head: str) -> str:
    """Some of the paper's tables under a head of one's own, for a folder of runs; also of toys."""
    return "\n".join([head, *_tables(read_published(), measured, tables)])


def _tables(
    published: Sequence[Mapping[str, str]], measured: Sequence[Mapping[str, Any]], tables: Iterable[str]
) -> Iterator[str]:
    for table in tables:
        rows = [row for row in published if row["table"] == table]
        yield _section(TITLES[table], _with_ours(rows, measured), _TABLE_4 if table == "4" else "")


def _section(title: str, table: Iterable[str], note: str) -> str:
    return "\n".join([f"## {title}\n", *([note] if note else []), *table, ""])


def _with_ours(rows: Sequence[Mapping[str, str]], measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _heads("system", "variant", "data", "task", "metric", "published", "ours", "our metric")
    for row in rows:
        yield _line(
            row["system"],
            row["variant"],
            row["dataset"],
            ", ".join(filter(None, (row["task"], row["setting"].strip("-")))),
            row["metric"],
            row["value"],
            _ours(row, measured),
            f"`{row['our_metric']}`" if row["our_metric"] else "",
        )


def _ours(row: Mapping[str, str], measured: Sequence[Mapping[str, Any]]) -> str:
    if not row["our_metric"]:
        return ""
    found = _found(row, row["our_metric"], measured)
    whole = [each for each in found if not each["fold"] and not each["class_name"]]
    if not whole:
        return f"waits for {row['our_recipe']} on {row['our_dataset']}"
    newest = whole[-1]
    spread = _spread(_found(row, row["our_metric"].removesuffix(FOLD_MEAN), measured))
    return (
        f"{_percent(newest['value'])}{spread} ({_percent(newest['low'])} to {_percent(newest['high'])})"
        + (f"; {newest['partial']}" if newest["partial"] else "")
    )


def _found(
    row: Mapping[str, str], metric: str, measured: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    wanted = (row["our_dataset"], metric, row["our_recipe"])
    return [each for each in measured if (each["dataset"], each["metric"], each["recipe"]) == wanted]


def _spread(rows: Sequence[Mapping[str, Any]]) -> str:
    """Standard deviation over folds, where there are some; the newest of each counts."""
    folds = {row["fold"]: row["value"] for row in rows if row["fold"] and not row["class_name"]}
    values = [value for value in folds.values() if value is not None]
    return f" ± {_percent(statistics.stdev(values))}" if len(values) > 1 else ""


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"


def _as_printed(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    names = ("system", "variant", "task", "dataset", "metric", "value", "setting", "note")
    yield from _heads(*names)
    for row in rows:
        yield _line(*(row[name] for name in names))


def _heads(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield "|" + "---|" * len(names)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def read_published() -> list[dict[str, str]]:
    """What the papers print, a number a row."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_measured() -> list[dict[str, Any]]:
    """What was measured here; nothing yet where there is no file."""
    if not MEASURED.exists():
        return []
    return [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    with appearing(PAGE) as partial:
        partial.write_text(render(read_published(), read_measured()), encoding="utf-8")
