"""The names that a sound or a picture may be given: from a list, a file, or a well-known data set."""

from pathlib import Path

from shards.labels import CLASS_LABELS, Labels, LabelsError, read_class_labels, read_labels
from shards.layout import LABELS

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

    `esc50`; `audioset`, from `table` or from the table in the working folder; a file (a class
    table as AudioSet's .csv or a data set's `labels.parquet`, or text with a name a line); the folder of
    either table; or the names themselves, with commas between. Raises ClassNamesError.
    """
    if labels == "esc50":
        names = ESC50
    elif labels == "audioset":
        names = _from_file(_audioset_table(table))
    elif labels and Path(labels).exists():
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
    path = table or Path(CLASS_LABELS)
    if not path.exists():
        raise ClassNamesError(
            f"AudioSet's names come from its class table, and {path} is not there; download "
            f"{AUDIOSET_TABLE_URL} and name it with --class-table, or name a data set's folder"
        )
    return path


def _from_file(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        path = _table_in(path)
    try:
        if path.suffix == ".parquet":
            return _names(read_labels(path))
        if path.suffix == ".csv":
            return _names(read_class_labels(path))
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except LabelsError as error:
        raise ClassNamesError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClassNamesError(f"{path} cannot be read as names, one a line: {error}") from None


def _table_in(folder: Path) -> Path:
    tables = [folder / LABELS, folder / CLASS_LABELS]
    if found := [table for table in tables if table.exists()]:
        return found[0]
    raise ClassNamesError(f"{folder} holds no class table; expected {LABELS} or {CLASS_LABELS} in it")


def _names(labels: Labels) -> tuple[str, ...]:
    """Of the classes that have an index, by index: the rest of the ontology labels nothing."""
    return tuple(label.name for label in labels.indexed)
