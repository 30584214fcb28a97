"""ImageNet's validation pictures (ILSVRC 2012): 50,000, fifty of each of a thousand classes."""

import csv
import dataclasses
from collections import Counter
from functools import cache
from pathlib import Path, PurePosixPath

from pipeline.listing import Item, Listing, ListingError, Published, checked_key, files_below, listing_of
from shards.labels import ClassLabel, Labels

SPLIT = "val"
PICTURES = (".jpeg", ".jpg")
# wnid and WordNet's words for it, in the order of the 1,000 class indices
SYNSETS = Path(__file__).with_name("imagenet_synsets.tsv")
PUBLISHED = Published(
    rows={SPLIT: 50_000},
    archive="md5:29b22e2961454d5413ddabcf34fc5622",  # ILSVRC2012_img_val.tar, as torchvision knows it
)
_NAME = "ILSVRC2012_val_{:08d}"


@cache
def read_synsets() -> Labels:
    """The thousand classes: mid is the WordNet id, name the first of WordNet's words for it."""
    lines = SYNSETS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines)
    return Labels.of(
        ClassLabel(index=index, mid=wnid, name=words.split(",")[0])
        for index, (wnid, words) in enumerate(pairs)
    )


def read_imagenet_val(
    root: Path, ground_truth: Path | None = None, published: Published = PUBLISHED
) -> Listing:
    """Pictures in folders named by WordNet id, or all in one folder with a list of their classes.

    The list is `LOC_val_solution.csv`, or has a line `FILE WNID` for each picture, or the WNIDs alone in the
    order of the files' names. ListingError when pictures and classes do not go together.
    """
    pictures = sorted(name for name in files_below(root) if PurePosixPath(name).suffix.lower() in PICTURES)
    if not pictures:
        raise ListingError(f"{root}: no .JPEG below it; expected ImageNet's validation folder")
    classes = _classes_of(pictures, ground_truth) if ground_truth else _folders_of(pictures)
    total = sum(published.rows.values())
    official = {_NAME.format(number) for number in range(1, total + 1)}
    items = [_item(name, classes.get(name, "")) for name in pictures if _is_of(name, official)]
    listing = listing_of("imagenet", read_synsets(), items, published, set(pictures))
    found = {item.key for item in items}
    if found == official and total >= len(listing.labels):
        _check_classes(items, total // len(listing.labels))
    return dataclasses.replace(listing, missing=tuple(sorted(official - found)))


def _folders_of(pictures: list[str]) -> dict[str, str]:
    return {name: PurePosixPath(name).parent.name for name in pictures}


def _is_of(name: str, official: set[str]) -> bool:
    return not official or PurePosixPath(name).stem in official


def _check_classes(items: list[Item], each: int) -> None:
    for wnid, count in Counter(item.mids[0] for item in items).items():
        if count != each:
            raise ListingError(f"{wnid} has {count} pictures; expected {each} of every class")


def _item(name: str, wnid: str) -> Item:
    if wnid not in read_synsets().by_mid:
        raise ListingError(
            f"{name}: its class is {wnid!r}; expected a WordNet id such as n01440764 as its folder's name, "
            "or --ground-truth with the class of every file"
        )
    key = checked_key(PurePosixPath(name).stem, name)
    label = read_synsets().by_mid[wnid]
    return Item(
        key=key,
        file=name,
        split=SPLIT,
        mids=(wnid,),
        recording=key,
        row={"wnid": wnid, "target": label.index},
    )


def _classes_of(pictures: list[str], ground_truth: Path) -> dict[str, str]:
    try:
        lines = ground_truth.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ListingError(f"--ground-truth {ground_truth}: cannot be read: {error}") from None
    words = [line.replace(",", " ").split() for line in lines if line.strip()]
    if words and words[0][0] == "ImageId":
        words = [[row[0], row[1].split()[0]] for row in csv.reader(lines[1:]) if len(row) == 2 and row[1]]
    if all(len(line) == 1 for line in words):
        return _in_order(pictures, [line[0] for line in words], ground_truth)
    stems = {PurePosixPath(line[0]).stem: line[1] for line in words if len(line) > 1}
    return {name: stems.get(PurePosixPath(name).stem, "") for name in pictures}


def _in_order(pictures: list[str], wnids: list[str], ground_truth: Path) -> dict[str, str]:
    if wnids and wnids[0].isdigit():
        raise ListingError(
            f"{ground_truth} numbers the classes as the ILSVRC kit does; expected WordNet ids: "
            "LOC_val_solution.csv, or lines FILE WNID"
        )
    if len(wnids) != len(pictures):
        raise ListingError(
            f"{ground_truth} has {len(wnids)} lines for {len(pictures)} pictures; expected one for each"
        )
    return dict(zip(pictures, wnids, strict=True))
