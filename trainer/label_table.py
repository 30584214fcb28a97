"""What each selected sample is labelled with: classes, label sets and texts, as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.labels import Labels, LabelsError
from shards.selection import Selection
from trainer.draws import Draw, hashed, uniforms, whole_numbers
from trainer.run_request import RunError

LABEL_TEXT = "labels"  # the name under which class names, joined, are a text
SEPARATOR = ", "  # AudioCLIP, model/audioclip.py: ', '.join of a sample's class names

_UNINDEXED = -1

Integers = NDArray[np.int64]


class LabelTableError(RunError):
    """Samples that lack what a stage learns from; the message is one line and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """Labels and texts of N samples, by their row in the selection."""

    keys: Sequence[str]  # N sample keys
    class_names: tuple[str, ...]  # K, in the order of class scores
    label_sets: Integers  # (N,) equal exactly where the sets of mids are
    texts: tuple[str, ...]  # each string once
    mids: tuple[str, ...]  # each label that occurs once
    names: tuple[str, ...]  # their class names
    _label_of: Integers  # (sum of labels,) places in `mids`, row after row
    _label_offsets: Integers  # (N + 1,)
    _index_of: Integers  # (len(mids),) class index, -1 for a label without one
    _text_of: Integers  # (sum of texts,) places in `texts`, row after row
    _text_offsets: Integers  # (N + 1,)

    def __len__(self) -> int:
        return len(self.keys)

    def targets(self, rows: Sequence[int] | Integers) -> Tensor:
        """(B, K) float32: 1 where a class applies. Raises LabelsError for a label without a class index."""
        places, owners = self._labels_of(rows)
        indices = self._index_of[places]
        if (indices == _UNINDEXED).any():
            raise LabelsError(self.without_index())
        targets = torch.zeros(len(rows), len(self.class_names))
        targets[torch.from_numpy(owners), torch.from_numpy(indices)] = 1
        return targets

    def without_index(self) -> str:
        """What is wrong with the labels as targets; nothing where each has a class index."""
        lost = [mid for mid, index in zip(self.mids, self._index_of, strict=True) if index == _UNINDEXED]
        if not lost:
            return ""
        return (
            f"{len(lost)} of {len(self.mids)} labels, such as {lost[0]}, have no class index in the table; "
            "expected one for each: select samples without such labels, or correct the table"
        )

    def text_rows(self, rows: Sequence[int] | Integers, seeds: Integers | None = None) -> Integers:
        """(B,) places in `texts`: of several texts the one that each sample's seed picks, else the first."""
        chosen = np.asarray(rows, dtype=np.int64)
        first, count = self._text_offsets[chosen], np.diff(self._text_offsets)[chosen]
        if seeds is not None:
            first = first + whole_numbers(uniforms(seeds, Draw.TEXT), count)
        return self._text_of[first]

    def texts_of(self, rows: Sequence[int] | Integers) -> tuple[Integers, Integers]:
        """Places in `texts` of all texts of the rows, and for each which of the rows it belongs to."""
        return _of_rows(rows, self._text_of, self._text_offsets)

    def key_of_text(self, text: int) -> str:
        """The first sample that has this text."""
        entry = int(np.argmax(self._text_of == text))
        return self.keys[int(np.searchsorted(self._text_offsets, entry, side="right") - 1)]

    def label_lists(self) -> Iterator[Integers]:
        """Each sample's labels, as places in `mids`."""
        yield from np.split(self._label_of, self._label_offsets[1:-1])

    def _labels_of(self, rows: Sequence[int] | Integers) -> tuple[Integers, Integers]:
        """Places in `mids` of the rows' labels, and for each which of the rows it belongs to."""
        return _of_rows(rows, self._label_of, self._label_offsets)


def _of_rows(
    rows: Sequence[int] | Integers, values: Integers, offsets: Integers
) -> tuple[Integers, Integers]:
    """What the rows have, one after the other, and for each which of the rows it belongs to."""
    chosen = np.asarray(rows, dtype=np.int64)
    first, last = offsets[chosen], offsets[chosen + 1]
    owners = np.repeat(np.arange(len(chosen)), last - first)
    spans = [np.arange(start, stop) for start, stop in zip(first, last, strict=True)]
    return values[np.concatenate([np.arange(0), *spans])], owners


def label_table(selection: Selection, labels: Labels, *, text: str = LABEL_TEXT) -> LabelTable:
    """Labels and texts of the selected samples.

    `text` is "labels", for class names joined by ", " in the order of the segments file, as AudioCLIP was
    trained, or a column of the selection with strings or lists of strings. Raises LabelTableError where that
    column is missing, is something else, or leaves a sample without a text.
    """
    mids, label_of, offsets = _encoded(selection.table.column("mids"))
    names = labels.names(mids)
    index = {label.mid: place for place, label in enumerate(labels.indexed)}
    if text == LABEL_TEXT:
        texts, text_of = _joined(names, label_of, offsets)
        text_offsets = np.arange(len(selection) + 1)
    else:
        texts, text_of, text_offsets = _encoded(_text_column(selection, text))
    return LabelTable(
        keys=selection.keys,
        class_names=tuple(label.name for label in labels.indexed),
        label_sets=_set_ids(label_of, offsets, len(mids)),
        texts=texts,
        mids=mids,
        names=names,
        _label_of=label_of,
        _label_offsets=offsets,
        _index_of=np.array([index.get(mid, _UNINDEXED) for mid in mids], dtype=np.int64),
        _text_of=text_of,
        _text_offsets=text_offsets,
    )


# -------------------------------------------------------------------------------------------- encode


def _encoded(lists: pa.ChunkedArray) -> tuple[tuple[str, ...], Integers, Integers]:
    """Strings that occur, in order of appearance; their places, row after row; where each row begins."""
    whole = pa.chunked_array(lists.chunks, lists.type).combine_chunks()
    counts = pc.list_value_length(whole).fill_null(0).to_numpy(zero_copy_only=False)
    values = pc.list_flatten(whole).cast(pa.string()).dictionary_encode()
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return tuple(values.dictionary.to_pylist()), values.indices.to_numpy().astype(np.int64), offsets


def _joined(names: Sequence[str], label_of: Integers, offsets: Integers) -> tuple[tuple[str, ...], Integers]:
    """Each distinct text of names, and which of them each row has."""
    place = np.arange(len(label_of)) - np.repeat(offsets[:-1], np.diff(offsets))
    hashes = _row_sums(_mixed(label_of * 4_096 + place), offsets)
    _, first, text_of = np.unique(hashes, return_index=True, return_inverse=True)
    rows = (label_of[offsets[row] : offsets[row + 1]] for row in first)
    return tuple(SEPARATOR.join(names[label] for label in row) for row in rows), text_of.astype(np.int64)


def _set_ids(label_of: Integers, offsets: Integers, labels: int) -> Integers:
    """(N,) a number for each set of labels, whatever their order and however often one is repeated."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = np.unique(owner * max(labels, 1) + label_of)
    counts = np.bincount(pairs // max(labels, 1), minlength=len(offsets) - 1)
    hashes = _row_sums(_mixed(pairs % max(labels, 1)), np.concatenate([[0], np.cumsum(counts)]))
    ids: Integers = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    return ids


def _mixed(values: Integers) -> NDArray[np.uint64]:
    """64 bits whose sums stand for their terms: among 10^6 sums two agree by chance once in 10^7 times."""
    return hashed(values)


def _row_sums(values: NDArray[np.uint64], offsets: Integers) -> NDArray[np.uint64]:
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    rows: NDArray[np.uint64] = sums[offsets[1:]] - sums[offsets[:-1]]  # modulo 2^64, which loses nothing
    return rows


def _text_column(selection: Selection, name: str) -> pa.ChunkedArray:
    """A list of texts for each sample; a string is a list of one."""
    if name not in selection.table.column_names:
        raise LabelTableError(
            f"no column {name} to take texts from; expected {LABEL_TEXT!r} or a column of an annotation"
        )
    column = selection.table.column(name)
    kind: Any = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not _is_text(kind.value_type if listed else kind):
        raise LabelTableError(f"column {name} holds {kind}; expected strings, or lists of strings")
    texts = column.combine_chunks() if listed else _lists_of_one(column.combine_chunks())
    _check_texts(selection, name, texts)
    return pa.chunked_array([texts])


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


def _lists_of_one(column: pa.Array) -> pa.Array:
    present = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), column.drop_null())


def _check_texts(selection: Selection, name: str, texts: pa.Array) -> None:
    counts = pc.list_value_length(texts).fill_null(0).to_numpy(zero_copy_only=False)
    without = np.flatnonzero(counts == 0)
    if len(without):
        raise LabelTableError(
            f"{len(without):,} of {len(selection):,} samples, such as {selection.keys[int(without[0])]}, "
            f"have no {name}; expected a text for each: select with --where '{name} IS NOT NULL'"
        )
    if pc.list_flatten(texts).null_count:
        raise LabelTableError(f"column {name} has lists with NULL in them; expected strings only")
