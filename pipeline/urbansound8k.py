"""UrbanSound8K: 8,732 slices of up to four seconds, ten classes, ten folds (Salamon, Jacoby, Bello 2014)."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.listing import (
    Item,
    Listing,
    ListingError,
    Published,
    checked_key,
    class_labels,
    files_below,
    listing_of,
    numbered,
    read_table,
)

TABLE = "metadata/UrbanSound8K.csv"
COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")

CLASSES = (  # by classID
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
LABELS = class_labels({name: name.replace("_", " ") for name in CLASSES})

_ROWS = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
_SHA256 = (
    "5ecd7739baefcc8a27ab4bc2d9bec57231dd87868b61804a5cf6e628c56bd15a",
    "f9370fc4b7829303be795e2bd42ffb66d60a6ee2a123e8956b3f825282087f86",
    "6d362bd90a1987c216443702942be7f1ec7beb3000d8debd0ade3cd610743059",
    "9c883f5527fd690b176ce936886ad5c034bc720f0a96e72ea658d963342ded2b",
    "0e4cd099e6c0b5ccd324bbf363fa0fc5999d8c13b9f0bc50d5e2c5fe7e506d3c",
    "92ea447cb60fb7fd835d999ac7e682c1ebc97851cdfb43799d43e4d062699ff3",
    "252b640cd35b5001f0a19093b7c85c90806d28b0e57718384e2e66d976d8a679",
    "529131319491d14f15df892ed3e51970e97b95baa98081997c4444ce11e7f71d",
    "d05efc6b4c4eac26e45ba0861393ce85917d3a8cd68f2c045c540422424401fe",
    "d751091d843bc3eb69a3cbf683ff5d83ec605ef26f2bc8d91d35869d96f0b887",
)
PUBLISHED = Published(
    rows={f"fold{fold}": rows for fold, rows in enumerate(_ROWS, start=1)},
    sha256={f"fold{fold}": sha256 for fold, sha256 in enumerate(_SHA256, start=1)},
    archive="md5:9aa69802bbf37fb986f71ec1483a196e",  # zenodo.org/records/1203745, UrbanSound8K.tar.gz
)


def read_urbansound8k(root: Path, published: Published = PUBLISHED) -> Listing:
    """The rows of `metadata/UrbanSound8K.csv` and the files in `audio/fold1` … `audio/fold10`.

    Raises ListingError when they are not UrbanSound8K's.
    """
    items = [_item(row, where) for where, row in read_table(root / TABLE, COLUMNS)]
    present = {f"audio/{name}" for name in files_below(root / "audio")}
    return listing_of("us8k", LABELS, items, published, present)


def _item(row: Mapping[str, str], where: str) -> Item:
    fold, number = numbered(row, "fold", where), numbered(row, "classID", where)
    key = checked_key(Path(row["slice_file_name"]).stem, where)
    if key.split("-")[:2] != [row["fsID"], str(number)]:
        raise ListingError(
            f"{where}: {row['slice_file_name']} is listed as of {row['fsID']} and of class {number}; "
            "expected what its name says"
        )
    if number >= len(CLASSES) or row["class"] != CLASSES[number]:
        raise ListingError(
            f"{where}: class {number} is called {row['class']!r}; expected UrbanSound8K's own classes"
        )
    return Item(
        key=key,
        file=f"audio/fold{fold}/{row['slice_file_name']}",
        split=f"fold{fold}",
        mids=(row["class"],),
        recording=row["fsID"],
        start=_seconds(row, "start", where),
        end=_seconds(row, "end", where),
        row={
            "fold": fold,
            "classID": number,
            "class": row["class"],
            "salience": numbered(row, "salience", where),
            "fsID": row["fsID"],
        },
    )


def _seconds(row: Mapping[str, str], column: str, where: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise ListingError(f"{where}: {column} is {row[column]!r}; expected seconds") from None
