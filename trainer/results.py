"""Numbers with everything that they depend on, a row each, appended to a run's `results.jsonl`."""

import dataclasses
import fcntl
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.parquet import read_table
from shards.whole_file import write_lasting
from trainer.bootstrap import LEVEL, Interval, Replicates, interval
from trainer.measure import Draws, Measure
from trainer.run_request import RunError

RESULTS = "results.jsonl"
REPLICATES = "replicates.parquet"  # of whole data sets: what `compare` takes differences of
FORMAT = 1

_IDENTITY = ("metric", "fold", "setting", "dataset_sha256", "key_list_sha256", "checkpoint", "seconds")


class ResultsError(RunError):
    """Results that cannot be read or do not go together; one line that says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What all numbers of one evaluation were made with."""

    dataset: str  # its name
    address: str  # folder or URL of its shards
    dataset_sha256: str  # of the shards' hashes
    key_list_sha256: str  # of the items' keys in their order
    query: str  # which items, as SQL
    split: str  # names with commas between
    checkpoint: str  # sixteen hex digits of weights and configuration
    model: str  # as it was asked for
    recipe: str = ""  # that it was trained by, where that is known
    seconds: float = 0.0  # of sound that the model heard of each item
    partial: str = ""  # what a rebuilt data set lacks, in words; empty for a whole one
    shared_with_training: int | None = None  # items that the model learned from; None: not looked up
    command: str = ""
    code: str = ""  # git commit
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""  # ISO 8601, UTC


def row_of(measure: Measure, provenance: Provenance, draws: Draws) -> dict[str, Any]:
    """One number as plain values: numbers that do not exist are None."""
    sure = measure.interval
    return {
        "format": FORMAT,
        "metric": measure.name,
        "value": _number(measure.value),
        "low": _number(sure.low),
        "high": _number(sure.high),
        "n": measure.n,
        "missing": measure.missing,
        "left_out": measure.left_out,
        "fold": measure.fold,
        "class_name": measure.class_name,
        "setting": measure.setting,
        "definition": measure.definition,
        "interval": _interval_told(draws),
        **dataclasses.asdict(provenance),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def append_results(
    folder: Path, measures: Iterable[Measure], provenance: Provenance, draws: Draws
) -> list[dict[str, Any]]:
    """Adds rows to the folder's results: all of them or, when killed, none. The rows come back.

    Of numbers of whole data sets, the replicates are kept for `compare`.
    """
    measures = list(measures)
    rows = [row_of(measure, provenance, draws) for measure in measures]
    with _held(folder):
        write_lasting(folder / REPLICATES, _replicates_with(folder, measures, rows))
        path = folder / RESULTS
        before = path.read_bytes() if path.exists() else b""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_lasting(path, before + lines.encode())  # last: who finds a row finds its replicates
    return rows


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All rows, oldest first; none where nothing was evaluated. Raises ResultsError."""
    path = folder / RESULTS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ResultsError(
            f"{path} cannot be read as results: {error}; restore it, or move it away"
        ) from None


def latest(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest of the rows that speak of the same: a model evaluated twice gave the same number twice."""
    return list({(*map(row.get, _IDENTITY), row["class_name"]): row for row in rows}.values())


# -- comparing


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric of two models on the same items; the interval is that of second - first."""

    metric: str
    setting: str
    first: float
    second: float
    interval: Interval
    n: int

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


def _interval_told(draws: Draws) -> str:
    return f"{LEVEL:.0%} centred percentile bootstrap, {draws.resamples} resamples, seed {draws.seed}"


def compare(first: Path, second: Path) -> list[Difference]:
    """Every metric that both folders have of the same items, by a paired bootstrap.

    Raises ResultsError where there is none.
    """
    ours, theirs = _replicated(first), _replicated(second)
    differences = [
        Difference(
            metric=one["metric"],
            setting=one["setting"],
            first=one["value"],
            second=other["value"],
            interval=interval(
                np.array(other["replicates"]) - np.array(one["replicates"]), other["value"] - one["value"]
            ),
            n=one["n"],
        )
        for key, one in ours.items()
        if (other := theirs.get(key)) is not None
    ]
    if not differences:
        raise ResultsError(_nothing_shared(first, second, ours, theirs))
    return differences


def _nothing_shared(first: Path, second: Path, ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> str:
    for folder, rows in ((first, ours), (second, theirs)):
        if not rows:
            return f"{folder} has no results with intervals; expected some of: trichord evaluate {folder}"
    return (
        f"{first} and {second} have no metric of the same items; expected both evaluated by one task on one "
        "data set, with the same --split, --where and --only"
    )


def _replicated(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The newest of each metric, by what makes two of them comparable."""
    path = folder / REPLICATES
    if not path.exists():
        return {}
    try:
        rows = read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(f"{path} cannot be read: {error}; evaluate again") from None
    return {tuple(row[name] for name in _COMPARABLE): row for row in rows}


_COMPARABLE = ("metric", "setting", "key_list_sha256", "n", "interval")
_KEPT = ("metric", "value", "n", "setting", "fold", "dataset_sha256", "key_list_sha256", "checkpoint")
_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, {"value": pa.float64(), "n": pa.int64()}.get(name, pa.string()))
            for name in (*_KEPT, "interval")
        ),
        pa.field("seconds", pa.float64()),
        pa.field("replicates", pa.list_(pa.float64())),
    ]
)


def _replicates_with(folder: Path, measures: list[Measure], rows: list[dict[str, Any]]) -> bytes:
    path = folder / REPLICATES
    kept = read_table(path).to_pylist() if path.exists() else []
    kept += [
        {**{name: row[name] for name in _SCHEMA.names[:-1]}, "replicates": _listed(measure.replicates)}
        for measure, row in zip(measures, rows, strict=True)
        if measure.whole and len(measure.replicates)
    ]
    newest = {tuple(row[name] for name in _IDENTITY): row for row in kept}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(newest.values()), schema=_SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def _listed(replicates: Replicates) -> list[float]:
    return [float(value) for value in replicates]


# -- files


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One process at a time adds rows; the kernel frees the lock of one that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{RESULTS}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
