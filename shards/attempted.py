"""What became of every segment so far, by the ledgers alone: the later attempt wins, a sample for good."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shards.ledger import finished_shards, opened_ledger
from shards.outcome import Disposition, Outcome
from shards.parquet import read_table
from shards.segment import Segment
from shards.store import Store


class WantedError(ValueError):
    """A word that names no failures."""


_COLUMNS = ["key", "ytid", "start", "end", "mids", "outcome", "disposition"]
_READERS = 4


def read_dispositions(store: Store, split: str) -> dict[str, str]:
    """key → disposition of a split's attempted segments."""
    found: dict[str, str] = {}
    for table in _ledgers(store, split, ["key", "disposition"]):
        keys, dispositions = (table.column(name).to_pylist() for name in ("key", "disposition"))
        for key, disposition in zip(keys, dispositions, strict=True):
            if found.get(key) != Disposition.DONE:
                found[key] = disposition
    return found


def failed_segments(store: Store, split: str, wanted: Collection[str]) -> Iterator[Segment]:
    """Segments whose last attempt had one of the wanted outcomes or dispositions, in their order."""
    failed: dict[str, Segment] = {}
    done: set[str] = set()
    for table in _ledgers(store, split, _COLUMNS):
        for row in table.to_pylist():
            failed.pop(row["key"], None)
            if row["disposition"] == Disposition.DONE:
                done.add(row["key"])
            elif row["key"] not in done and not {row["outcome"], row["disposition"]}.isdisjoint(wanted):
                failed[row["key"]] = _segment(row, split)
    yield from failed.values()


def checked_wanted(text: str) -> frozenset[str]:
    """`retryable,short` as a set of dispositions and outcomes; WantedError for a word that is neither."""
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    known = {str(each) for each in (*Disposition, *Outcome)} - {Disposition.DONE, Outcome.OK}
    if not words or not words <= known:
        raise WantedError(f"{text!r} names no failures; expected some of {', '.join(sorted(known))}")
    return words


def _segment(row: dict[str, Any], split: str) -> Segment:
    return Segment(ytid=row["ytid"], start=row["start"], end=row["end"], mids=tuple(row["mids"]), split=split)


def _ledgers(store: Store, split: str, columns: list[str]) -> Iterator[Any]:
    """The split's ledgers as tables, oldest shard first, a few read ahead."""

    def read(shard: str) -> Any:
        with opened_ledger(store, shard) as file:
            return read_table(file, columns)

    with ThreadPoolExecutor(_READERS) as readers:
        yield from readers.map(read, finished_shards(store, split))
