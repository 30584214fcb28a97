"""ESC-50 and UrbanSound8K in small: folders, tables and file names as published, sounds of half a second."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.esc50 import CATEGORIES
from pipeline.urbansound8k import CLASSES

Sound = NDArray[np.float64]


def tone(hertz: float, seconds: float = 0.5, rate: int = 44_100, channels: int = 1) -> Sound:
    """A sine at half of full scale, (T, C); each channel an octave above the one before."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.stack([np.sin(2 * np.pi * hertz * 2**n * time) for n in range(channels)], axis=1)


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def esc50_row(fold: int, number: int, target: int) -> dict[str, object]:
    return {
        "filename": f"{fold}-{number}-A-{target}.wav",
        **{"fold": fold, "target": target, "category": CATEGORIES[target]},
        **{"esc10": target < 2, "src_file": number, "take": "A"},
    }


def write_esc50(root: Path, folds: int = 2, each: int = 3) -> list[dict[str, object]]:
    """`each` clips in each fold, all of different pitch."""
    rows = [
        esc50_row(fold, 1000 * fold + index, 7 * index)
        for fold in range(1, folds + 1)
        for index in range(each)
    ]
    write_table(root / "meta" / "esc50.csv", rows)
    (root / "audio").mkdir()
    for place, row in enumerate(rows):
        soundfile.write(root / "audio" / str(row["filename"]), tone(200 + 10 * place), 44_100, "PCM_16")
    return rows


def us8k_row(fold: int, number: int, class_id: int) -> dict[str, object]:
    return {
        "slice_file_name": f"{number}-{class_id}-0-3.wav",
        **{"fsID": number, "start": 12.5, "end": 13.0, "salience": 1 + number % 2},
        **{"fold": fold, "classID": class_id, "class": CLASSES[class_id]},
    }


# Rate, channels and format of UrbanSound8K's kinds of files.
KINDS: tuple[tuple[int, int, str], ...] = (
    *((44_100, 2, "PCM_16"), (44_100, 1, "PCM_24"), (48_000, 2, "PCM_24"), (96_000, 2, "PCM_16")),
    *((192_000, 1, "PCM_32"), (22_050, 1, "PCM_16"), (11_025, 1, "PCM_U8"), (8_000, 1, "PCM_16")),
    *((11_024, 1, "PCM_16"), (44_100, 2, "FLOAT"), (24_000, 2, "MS_ADPCM"), (44_100, 1, "DOUBLE")),
)


def write_us8k(root: Path) -> list[dict[str, object]]:
    """One slice of each kind, in two folds."""
    rows = [us8k_row(1 + place % 2, 100 + place, place % 10) for place in range(len(KINDS))]
    write_table(root / "metadata" / "UrbanSound8K.csv", rows)
    for row, (rate, channels, subtype) in zip(rows, KINDS, strict=True):
        file = root / "audio" / f"fold{row['fold']}" / str(row["slice_file_name"])
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, tone(400, rate=rate, channels=channels), rate, subtype)
    return rows
