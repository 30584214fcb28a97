"""ESC-50: 2,000 recordings of five seconds, 50 classes, five folds that its author fixed (Piczak 2015)."""

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

TABLE = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")

CATEGORIES = (  # by target
    *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds", "water_drops", "wind"),
    *("pouring_water", "toilet_flush", "thunderstorm"),
    *("crying_baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing"),
    *("brushing_teeth", "snoring", "drinking_sipping"),
    *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
    *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    *("helicopter", "chainsaw", "siren", "car_horn", "engine", "train", "church_bells", "airplane"),
    *("fireworks", "hand_saw"),
)
LABELS = class_labels({category: category.replace("_", " ") for category in CATEGORIES})

# GitHub packs the archive anew for whoever asks: its bytes have no hash that lasts, its rows have.
PUBLISHED = Published(
    rows={f"fold{fold}": 400 for fold in range(1, 6)},
    sha256={
        "fold1": "a7854c98ce7ae2a171499516eb16f4967e6f0c4d1bccf13792a45dc58e47723f",
        "fold2": "38c0121f8f52fe60373726f651db0f98db8e981bc9a3fd706b44d776827d9104",
        "fold3": "7635ebfa5fa6acd1fef80ef816fbcd5d7eba9d83475dff0ac2bd89a6bcc488cf",
        "fold4": "2d44e6c9d5881dffcaaf8ad0ef8ba90ceb534de13183716acde822c53bb18710",
        "fold5": "0c4d2194b7d378a4cea75346e8379b737061fd065d4fc2b2458da55af13b1748",
    },
)


def read_esc50(root: Path, published: Published = PUBLISHED) -> Listing:
    """The rows of `meta/esc50.csv` and the files in `audio`. ListingError when they are not ESC-50's."""
    items = [_item(row, where) for where, row in read_table(root / TABLE, COLUMNS)]
    present = {f"audio/{name}" for name in files_below(root / "audio")}
    return listing_of("esc50", LABELS, items, published, present)


def _item(row: Mapping[str, str], where: str) -> Item:
    fold, target = numbered(row, "fold", where), numbered(row, "target", where)
    key = checked_key(Path(row["filename"]).stem, where)
    told = f"{fold}-{row['src_file']}-{row['take']}-{target}"
    if key != told:
        raise ListingError(
            f"{where}: {row['filename']} has fold, source, take and class {told}; expected those of its name"
        )
    if target >= len(CATEGORIES) or row["category"] != CATEGORIES[target]:
        raise ListingError(
            f"{where}: class {target} is called {row['category']!r}; expected ESC-50's own classes"
        )
    return Item(
        key=key,
        file=f"audio/{row['filename']}",
        split=f"fold{fold}",
        mids=(row["category"],),
        recording=row["src_file"],
        row={
            "fold": fold,
            "target": target,
            "category": row["category"],
            "esc10": row["esc10"].lower() == "true",
            "src_file": row["src_file"],
            "take": row["take"],
        },
    )
