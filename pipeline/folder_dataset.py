"""Anyone's dataset: a folder of sound or pictures, and a CSV that says what is in each file."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pipeline.listing import KEY, Item, Listing, ListingError, Published, files_below, listing_of, read_table
from shards import ledger
from shards.labels import ClassLabel, Labels, LabelsError

COLUMNS = ("file", "label")
SEPARATOR = "|"  # between several labels of a file
ALL = "all"  # the split of a table without folds
TAKEN = frozenset((*ledger.SCHEMA.names, "position", "classes"))  # by the manifest, for every dataset

_SPLIT = re.compile(r"[A-Za-z0-9_]{1,40}")
_NAME = re.compile(r"[a-z0-9]{1,40}")
_CAPTION = re.compile(r"caption_?\d+")  # several captions of a file become one list


def read_folder(root: Path, table: Path, name: str) -> Listing:
    """The rows of a CSV with the columns file, label and perhaps fold; others come along as they are.

    `name` is what its shards are to be called. ListingError when something cannot be meant so.
    """
    if not _NAME.fullmatch(name):
        raise ListingError(f"--name is {name!r}; expected 1 to 40 of a-z 0-9: shards are called by it")
    rows = list(read_table(table, COLUMNS))
    _check_columns(rows[0][1] if rows else {}, table)
    if not rows:
        raise ListingError(f"{table}: no row; expected one for each file, under file,label")
    labels = _labels((_labels_of(row, where) for where, row in rows), table)
    keys = _keys([row["file"] for _, row in rows])
    items = [_item(row, where, keys) for where, row in rows]
    kinds = {_kind(item.file) for item in items}  # a text beside the sounds is none that was forgotten
    present = {file for file in files_below(root) if _kind(file) in kinds}
    return listing_of(name, labels, items, Published(), present)


def _check_columns(row: Mapping[str, str], table: Path) -> None:
    if taken := sorted(TAKEN & set(row)):
        raise ListingError(
            f"{table}: columns {', '.join(taken)} mean something of their own; expected other names"
        )


def _kind(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _labels_of(row: Mapping[str, str], where: str) -> list[str]:
    labels = [label.strip() for label in row["label"].split(SEPARATOR) if label.strip()]
    if not labels:
        raise ListingError(f"{where}: {row['file']} has no label; expected one, or several with | between")
    return labels


def _labels(rows: Iterable[list[str]], table: Path) -> Labels:
    """The classes by the alphabet; spellings that differ in case or punctuation alone are an oversight."""
    names = sorted({name for row in rows for name in row})
    try:
        return Labels.of(
            ClassLabel(index=index, mid=slug(name), name=name) for index, name in enumerate(names)
        )
    except LabelsError:
        doubled, _ = Counter(map(slug, names)).most_common(1)[0]
        same = [name for name in names if slug(name) == doubled]
        raise ListingError(f"{table}: labels {same} differ in spelling alone; expected one of them") from None


def slug(name: str) -> str:
    """A label's id: `Air conditioner` → `air_conditioner`."""
    return re.sub(r"\W+", "_", name.lower()).strip("_") or hashlib.sha256(name.encode()).hexdigest()[:8]


def _keys(files: list[str]) -> dict[str, str]:
    """file → key: its path without the suffix; where that is no key or not its own, with a hash behind it."""
    plain = {file: str(PurePosixPath(file).with_suffix("")).replace("/", "_") for file in files if file}
    often = Counter(plain.values())
    return {
        file: key if KEY.fullmatch(key) and often[key] == 1 else _hashed(file, key)
        for file, key in plain.items()
    }


def _hashed(file: str, key: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", key)[:60].strip("-") or "file"
    return f"{stem}-{hashlib.sha256(file.encode()).hexdigest()[:8]}"


def _item(row: Mapping[str, str], where: str, keys: Mapping[str, str]) -> Item:
    path = PurePosixPath(row["file"])
    if not row["file"] or path.is_absolute() or ".." in path.parts:
        raise ListingError(f"{where}: file is {row['file']!r}; expected a path within the folder")
    more: dict[str, object] = {
        name: cell for name, cell in row.items() if name not in COLUMNS and not _CAPTION.fullmatch(name)
    }
    if captions := [cell for name, cell in row.items() if _CAPTION.fullmatch(name) and cell]:
        more["caption"] = captions
    return Item(
        key=keys[row["file"]],
        file=path.as_posix(),
        split=_split(row.get("fold", ALL), where),
        mids=tuple(slug(label) for label in _labels_of(row, where)),
        recording=keys[row["file"]],
        row={"label": row["label"], **more},
    )


def _split(fold: str, where: str) -> str:
    split = f"fold{fold}" if fold.isdigit() else fold
    if not _SPLIT.fullmatch(split):
        raise ListingError(f"{where}: fold is {fold!r}; expected a number, or a name of A-Z a-z 0-9 _")
    return split
