"""What a published dataset consists of, and what of it lies here: its rows, its files, and what is amiss."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.labels import ClassLabel, Labels
from shards.segment import Seconds, Segment

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # what a tar's member may be called
SHOWN = 5  # names in a message


class ListingError(ValueError):
    """A table or folder that is not the dataset it is taken for; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A row of a dataset's table: one file, and what is heard or seen in it."""

    key: str
    file: str  # relative to the dataset's folder, parts joined by '/'
    split: str  # the official fold: fold1, fold2, …
    mids: tuple[str, ...]
    recording: str  # id, at its source, of the recording that the file was cut from
    start: Seconds = 0.0
    end: Seconds = 0.0  # 0: as long as the file turns out to be
    row: Mapping[str, object] = field(default_factory=dict)  # what else the table says

    @property
    def segment(self) -> Segment:
        return Segment(
            ytid=self.recording,
            start=self.start,
            end=self.end,
            mids=self.mids,
            split=self.split,
            name=self.key,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a dataset's authors published: rows of each split, and a hash of what matters in them."""

    rows: Mapping[str, int] = field(default_factory=dict)  # split → rows; empty: nobody published a number
    sha256: Mapping[str, str] = field(default_factory=dict)  # split → `rows_sha256` of its rows
    archive: str = ""  # "md5:…" of the archive; "": its bytes are not stable


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A dataset's rows in the order of its table, held against the files and against what was published."""

    name: str  # as its shards are called
    labels: Labels
    items: tuple[Item, ...]
    published: Published
    missing: tuple[str, ...] = ()  # files that should be here
    extra: tuple[str, ...] = ()  # files that no row names

    @property
    def splits(self) -> dict[str, list[Item]]:
        """The rows of each split; folds in the order of their numbers, then names by the alphabet."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.split, []).append(item)
        return dict(sorted(found.items(), key=lambda pair: natural(pair[0])))

    @property
    def short(self) -> dict[str, tuple[int, int]]:
        """split → (rows here, rows published), of splits with another number of rows."""
        counts = Counter(item.split for item in self.items)
        splits = [*self.published.rows, *(split for split in counts if split not in self.published.rows)]
        pairs = {split: (counts[split], self.published.rows.get(split, 0)) for split in splits}
        return {split: pair for split, pair in pairs.items() if self.published.rows and pair[0] != pair[1]}

    @property
    def altered(self) -> tuple[str, ...]:
        """Splits with the right number of rows that are not the published rows."""
        return tuple(
            split
            for split, items in self.splits.items()
            if split in self.published.sha256
            and split not in self.short
            and rows_sha256(items) != self.published.sha256[split]
        )

    def amiss(self) -> list[str]:
        """Everything that differs from what was published, a line each."""
        return [
            *_named("missing: the table names", self.missing),
            *_named("extra: no row of the table names", self.extra),
            *(f"{split} has {here} rows, published {there}" for split, (here, there) in self.short.items()),
            *(f"{split} has the published number of rows, but other rows" for split in self.altered),
        ]

    def partial(self, failed: Sequence[str] = (), unbuilt: int = 0) -> dict[str, Any] | None:
        """What `dataset.json` is to say of the difference; None without one.

        `failed` are keys of files that are here and give no sample, `unbuilt` rows that nobody has tried yet.
        """
        if not (self.amiss() or failed or unbuilt):
            return None
        names = sorted({*self.missing, *self.extra, *failed})
        return {
            "expected": sum(self.published.rows.values()) or len(self.items),
            "rows": len(self.items),
            "missing": len(self.missing),
            "extra": len(self.extra),
            "failed": len(failed),
            "unbuilt": unbuilt,
            "rows_of_splits": {split: list(pair) for split, pair in self.short.items()},
            "altered_splits": list(self.altered),
            "names": names[:SHOWN],
            "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest() if names else "",
        }


def _named(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{what} {', '.join(names[:SHOWN])}{more} ({len(names)} in all)"


def natural(text: str) -> list[tuple[int, int, str]]:
    """For sorting: digits count as numbers, so that fold10 comes after fold9."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def rows_sha256(items: Iterable[Item]) -> str:
    """A hash of keys and classes that the order of rows and the files' format leave as it is."""
    lines = sorted(f"{item.key},{','.join(item.mids)}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def split_sha256(items: Iterable[Item]) -> str:
    """A hash of all that a split's rows say: another one is another dataset."""
    rows = [[i.key, i.file, i.split, i.mids, i.recording, i.start, i.end, dict(i.row)] for i in items]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def class_labels(names: Mapping[str, str]) -> Labels:
    """Classes with the indices 0, 1, …: mid → name, in order."""
    return Labels.of(
        ClassLabel(index=index, mid=mid, name=name) for index, (mid, name) in enumerate(names.items())
    )


def checked_key(key: str, where: str) -> str:
    """`key` itself; ListingError when it cannot name a sample."""
    if not KEY.fullmatch(key):
        raise ListingError(f"{where}: {key!r} cannot name a sample; expected 1 to 80 of A-Z a-z 0-9 _ -")
    return key


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, line n", row) of a CSV that has at least these columns, without the blanks around cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in columns if name not in (rows.fieldnames or ())]
            if missing:
                raise ListingError(
                    f"{path}: no column {', '.join(missing)}; expected at least {','.join(columns)}"
                )
            for row in rows:
                yield f"{path}, line {rows.line_num}", _stripped(row, f"{path}, line {rows.line_num}")
    except OSError as error:
        raise ListingError(f"{path}: cannot be read as a table: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ListingError(f"{path}: not UTF-8 text; expected a CSV table") from None


def _stripped(row: Mapping[str | None, Any], where: str) -> dict[str, str]:
    if None in row or None in row.values():
        raise ListingError(f"{where}: more or fewer cells than the heading has")
    return {str(name).strip(): str(cell).strip() for name, cell in row.items()}


def numbered(row: Mapping[str, str], column: str, where: str) -> int:
    """A cell as a whole number; ListingError, with the line, when it is none."""
    if not (row[column].isascii() and row[column].isdigit()):
        raise ListingError(f"{where}: {column} is {row[column]!r}; expected a whole number")
    return int(row[column])


def files_below(folder: Path) -> set[str]:
    """Every file below a folder, relative to it; what is hidden (.DS_Store, ._name) belongs to no dataset."""
    found: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(parent).relative_to(folder)
        found.update((inside / name).as_posix() for name in names if not name.startswith("."))
    return found


def _refuse(error: OSError) -> None:
    raise ListingError(f"{error.filename}: cannot be listed: {error.strerror}; expected a folder of files")


def listing_of(
    name: str, labels: Labels, items: Sequence[Item], published: Published, present: set[str]
) -> Listing:
    """Hold rows against the files that are there. ListingError when two rows share a key."""
    for key, count in Counter(item.key for item in items).items():
        if count > 1:
            raise ListingError(f"{key} is in {count} rows of the table; expected one row a file")
    named = {item.file for item in items}
    return Listing(
        name=name,
        labels=labels,
        items=tuple(items),
        published=published,
        missing=tuple(item.file for item in items if item.file not in present),
        extra=tuple(sorted(present - named)),
    )
