"""Small stand-ins for ESC-50, UrbanSound8K and ImageNet: made-up files, names and tables as published."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import simplejpeg
import soundfile

from pipeline import esc50, urbansound8k
from pipeline.demo_events import EVENTS, Scene, render_audio, render_frame, seed_of
from pipeline.imagenet_val import read_synsets

RATE = 44_100
SECONDS = 2.0
SIDE = 96  # pixels, of pictures

# what the demo's events are called there
ESC50_EVENTS: Mapping[str, str] = {
    "dog": "/m/0bt9lr",
    "rain": "/m/06mb1",
    "engine": "/m/02mk9",
    "church_bells": "/m/0395lw",
}
US8K_EVENTS: Mapping[str, str] = {
    "dog_bark": "/m/0bt9lr",
    "siren": "/m/03kmc9",
    "engine_idling": "/m/02mk9",
}
IMAGENET_EVENTS: Mapping[str, str] = {  # WordNet ids of things that look a little like them
    "n02099601": "/m/0bt9lr",  # golden retriever
    "n03017168": "/m/0395lw",  # chime, bell
    "n03249569": "/m/026t6",  # drum
    "n02802426": "/m/018w8",  # basketball
}

_Row = dict[str, object]


def write_demo_esc50(root: Path, *, folds: int, each: int) -> None:
    rows = list(_esc50_rows(folds, each))
    for row in rows:
        _write_sound(root / "audio" / str(row["filename"]), ESC50_EVENTS[str(row["category"])])
    _write_table(root / esc50.TABLE, rows)  # last: it names what is there


def _esc50_rows(folds: int, each: int) -> Iterator[_Row]:
    for fold, name, number in _clips(folds, ESC50_EVENTS, each):
        target, source = esc50.CATEGORIES.index(name), 1000 * fold + number
        yield {
            "filename": f"{fold}-{source}-A-{target}.wav",
            **{"fold": fold, "target": target, "category": name, "esc10": target < 2},
            **{"src_file": source, "take": "A"},
        }


def write_demo_us8k(root: Path, *, folds: int, each: int) -> None:
    rows = list(_us8k_rows(folds, each))
    for row in rows:
        file = root / "audio" / f"fold{row['fold']}" / str(row["slice_file_name"])
        _write_sound(file, US8K_EVENTS[str(row["class"])])
    _write_table(root / urbansound8k.TABLE, rows)


def _us8k_rows(folds: int, each: int) -> Iterator[_Row]:
    for fold, name, number in _clips(folds, US8K_EVENTS, each):
        class_id, source = urbansound8k.CLASSES.index(name), 1000 * fold + number
        yield {
            "slice_file_name": f"{source}-{class_id}-0-0.wav",
            **{"fsID": source, "start": 0.0, "end": SECONDS, "salience": 1},
            **{"fold": fold, "classID": class_id, "class": name},
        }


def _clips(folds: int, names: Mapping[str, str], each: int) -> Iterator[tuple[int, str, int]]:
    """(fold, class, a number of its own in the fold)."""
    for fold in range(1, folds + 1):
        for place, name in enumerate(names):
            for take in range(each):
                yield fold, name, each * place + take + 1


def write_demo_imagenet(root: Path, *, each: int) -> None:
    known = {label.mid for label in read_synsets()}
    wanted = [(wnid, mid) for wnid, mid in IMAGENET_EVENTS.items() if wnid in known for _ in range(each)]
    for number, (wnid, mid) in enumerate(wanted, start=1):
        file = root / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        if not file.exists():
            picture = render_frame(_scene(mid, file.name), SECONDS / 2, (SIDE, SIDE))
            _publish(file, simplejpeg.encode_jpeg(picture, quality=90))


def _write_sound(file: Path, mid: str) -> None:
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    soundfile.write(partial, render_audio(_scene(mid, file.name), RATE), RATE, "PCM_16", format="WAV")
    partial.replace(file)


def _scene(mid: str, name: str) -> Scene:
    event = next(event for event in EVENTS if event.mid == mid)
    return Scene(events=(event,), seed=seed_of(name), seconds=SECONDS)


def _write_table(path: Path, rows: Sequence[_Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    partial.replace(path)


def _publish(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)
