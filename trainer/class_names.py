"""The names that a sound or a picture may be given: from a list, a file, or a well-known data set."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

AUDIOSET_TABLE = "class_labels_indices.csv"
AUDIOSET_TABLE_URL = (
    "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv/class_labels_indices.csv"
)

# K. J. Piczak, ESC: Dataset for Environmental Sound Classification, 2015; in the order of its targets 0 to 49
ESC50: tuple[str, ...] = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow",
    "rain", "sea waves", "crackling fire", "crickets", "chirping birds", "water drops", "wind",
    "pouring water", "toilet flush", "thunderstorm",
    "crying baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing", "brushing teeth",
    "snoring", "drinking sipping",
    "door wood knock", "mouse click", "keyboard typing", "door wood creaks", "can opening", "washing machine",
    "vacuum cleaner", "clock alarm", "clock tick", "glass breaking",
    "helicopter", "chainsaw", "siren", "car horn", "engine", "train", "church bells", "airplane", "fireworks",
    "hand saw",
)  # fmt: skip


class ClassNamesError(ValueError):
    """Names that cannot be had."""


def class_names(labels: str, *, table: Path | None = None) -> tuple[str, ...]:
    """The names that `labels` stands for, each once, in order.

    `esc50`; `audioset`, from `table` or from the table in the working folder; a file (.csv with a
    `display_name` column, .parquet with a `name` column, or text with a name a line); a data set's folder
    with its `labels.parquet`; or the names themselves, with commas between. Raises ClassNamesError.
    """
    if labels == "esc50":
        names = ESC50
    elif labels == "audioset":
        names = _from_file(_audioset_table(table))
    elif Path(labels).exists():
        names = _from_file(Path(labels))
    elif Path(labels).suffix in (".csv", ".txt", ".parquet"):
        raise ClassNamesError(f"no file {labels}; expected names, a file of them, esc50 or audioset")
    else:
        names = tuple(name.strip() for name in labels.split(","))
    return _checked(names, labels)


def _checked(names: tuple[str, ...], labels: str) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(name for name in names if name))
    if not unique:
        raise ClassNamesError(f"{labels!r} holds no names; expected at least one")
    return unique


def _audioset_table(table: Path | None) -> Path:
    path = table or Path(AUDIOSET_TABLE)
    if not path.exists():
        raise ClassNamesError(
            f"AudioSet's names come from its class table, and {path} is not there; download "
            f"{AUDIOSET_TABLE_URL} and name it with --class-table, or name a data set's folder"
        )
    return path


def _from_file(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        path = path / "labels.parquet"
    try:
        if path.suffix == ".parquet":
            return _from_parquet(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ClassNamesError(f"{path} cannot be read as class names: {error}") from None
    if path.suffix == ".csv":
        return _from_csv(text, path)
    return tuple(line.strip() for line in text.splitlines())


def _from_parquet(path: Path) -> tuple[str, ...]:
    """The classes that have an index, by index: the rest of the ontology labels nothing."""
    table = pq.read_table(path)
    if "name" not in table.column_names:
        raise ClassNamesError(f"{path} has no column name; it has {', '.join(table.column_names)}")
    rows = table.to_pylist()
    if "index" in table.column_names:
        rows = sorted((row for row in rows if row["index"] is not None), key=lambda row: row["index"])
    return tuple(row["name"] for row in rows)


def _from_csv(text: str, path: Path) -> tuple[str, ...]:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    if not rows or "display_name" not in rows[0]:
        raise ClassNamesError(
            f"{path} has no column display_name; expected the heading index,mid,display_name"
        )
    return tuple(row["display_name"] for row in rows)
