"""A selection streamed through a model once, and all the numbers that evaluations make of it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from shards.selection import Selection
from trainer.batch import Batch, Embeddings
from trainer.devices import exact_arithmetic
from trainer.distributed import Ranks
from trainer.embedded import Embedded, Items, Rows, Sentences
from trainer.evaluations import Evaluation, EvaluationError, sentences_of
from trainer.host_batch import HostBatch
from trainer.label_table import LabelTable
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.prepare import Preparer

BATCH = 64  # items that a process decodes at once
# Items that go through the model together, whatever a batch holds. How a product of matrices or a convolution
# rounds depends on its shape, so with one shape for all, embeddings do not depend on the size of batches.
TOGETHER = 8
TEXTS_AT_ONCE = 256


def embed_selection(
    learner: Learner,
    selection: Selection,
    labels: LabelTable,
    evaluations: Sequence[Evaluation],
    *,
    loader: Loader,
    preparer: Preparer,
    ranks: Ranks,
    lost: int = 0,
) -> Embedded:
    """What `evaluations` read, the same on every process; `lost` items never became samples."""
    rows = embedded_rows(learner, loader=loader, preparer=preparer, ranks=ranks)
    return embedded_of(rows, learner, selection, labels, evaluations, lost=lost)


def embedded_rows(learner: Learner, *, loader: Loader, preparer: Preparer, ranks: Ranks) -> Rows:
    """The embeddings of all items that decode, in their order, the same on every process.

    They depend neither on the size of batches nor on how many processes share the work: to the last bit,
    where each process's batches are multiples of `TOGETHER`.
    """
    return _gathered(_own_rows(learner, loader, preparer), ranks)


def embedded_of(
    rows: Rows,
    learner: Learner,
    selection: Selection,
    labels: LabelTable,
    evaluations: Sequence[Evaluation],
    *,
    lost: int = 0,
) -> Embedded:
    """Rows with what they are of, and the texts that `evaluations` need.

    Items without a row are counted as missing. Raises EvaluationError when none has one.
    """
    items = _items(selection, labels, rows.get("row", np.zeros(0, np.int64)), lost)
    return Embedded(
        items=items,
        **{name: values for name, values in rows.items() if name != "row"},
        sentences=_sentences(learner, sentences_of(evaluations, items)),
        scales={pair: float(scale.detach()) for pair, scale in learner.scales().items()},
    )


# -- one process's part


@torch.no_grad()
def _own_rows(learner: Learner, loader: Loader, preparer: Preparer) -> Rows:
    with exact_arithmetic():
        parts = list(_parts(learner, loader, preparer))
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _parts(learner: Learner, loader: Loader, preparer: Preparer) -> Iterator[Rows]:
    with contextlib.closing(loader.batches()) as batches:
        for host in batches:
            parts = [part for part in _in_parts(host) if part.valid.any()]
            # all of a batch is asked for before any of it is waited for: a GPU is never idle in between
            made = [learner(_without_text(preparer.prepare(part, training=False))) for part in parts]
            yield from map(_valid_rows, parts, made)


def _in_parts(host: HostBatch) -> Iterator[HostBatch]:
    """`TOGETHER` items each; the last is filled up with its last item, as not valid."""
    last = len(host) - 1
    for first in range(0, len(host), TOGETHER):
        places = np.arange(first, first + TOGETHER)
        there = places <= last
        # what is whole is read where it lies, in memory that a GPU copies from; what is filled up is a copy
        part = _taken(host, slice(first, first + TOGETHER) if there.all() else np.minimum(places, last))
        yield dataclasses.replace(part, valid=part.valid & there)


def _taken(host: HostBatch, places: slice | np.ndarray) -> HostBatch:
    return dataclasses.replace(
        host,
        rows=host.rows[places],
        keys=tuple(np.array(host.keys, dtype=object)[places]),
        audio=None if host.audio is None else host.audio[places],
        lengths=None if host.lengths is None else host.lengths[places],
        frames=None if host.frames is None else host.frames[places],
        seeds=host.seeds[places],
        valid=host.valid[places],
    )


def _valid_rows(part: HostBatch, embeddings: Embeddings) -> Rows:
    rows = {"row": part.rows, **_arrays(embeddings)}
    return {name: each[part.valid] for name, each in rows.items()}


def _arrays(embeddings: Embeddings) -> Rows:
    fields = {field.name: getattr(embeddings, field.name) for field in dataclasses.fields(embeddings)}
    return {name: _array(rows) for name, rows in fields.items() if rows is not None}


def _array(rows: Tensor) -> np.ndarray:
    array: np.ndarray = rows.float().cpu().numpy()
    return array


def _without_text(batch: Batch) -> Batch:
    """Texts are embedded apart, each once."""
    return dataclasses.replace(batch, tokens=None, text_rows=None)


# -- all of them


def _gathered(own: Rows, ranks: Ranks) -> Rows:
    """Of all processes, in the order of the selection; a process without items has no arrays."""
    boxes: list[Any] = [own]
    if ranks.world > 1:
        boxes = [None] * ranks.world
        dist.all_gather_object(boxes, own)
    there = [box for box in boxes if box]
    whole = {name: np.concatenate([box[name] for box in there]) for name in (there[0] if there else ())}
    order = np.argsort(whole["row"], kind="stable") if whole else np.zeros(0, np.int64)
    return {name: values[order] for name, values in whole.items()}


def _items(selection: Selection, labels: LabelTable, rows: np.ndarray, lost: int) -> Items:
    if not len(rows):
        raise EvaluationError(
            f"none of {len(selection):,} items decodes; `trichord verify --deep` says what is damaged"
        )
    columns: Mapping[str, Any] = selection.table.select(["key", "split"]).take(rows).to_pydict()
    texts_of = labels.text_rows(rows)
    texts, text_of = np.unique(texts_of, return_inverse=True)
    captions, caption_of = labels.texts_of(rows)
    return Items(
        keys=tuple(columns["key"]),
        targets=labels.targets(rows).numpy().astype(bool),
        class_names=labels.class_names,
        label_sets=labels.label_sets[rows],
        texts=tuple(labels.texts[text] for text in texts),
        text_of=text_of.astype(np.int64),
        folds=tuple(columns["split"]),
        captions=tuple(labels.texts[text] for text in captions),
        caption_of=caption_of,
        missing=lost + len(selection) - len(rows),
    )


@torch.no_grad()
def _sentences(learner: Learner, strings: Sequence[str]) -> Sentences:
    """Every process embeds them all, in the same groups: the same bits everywhere."""
    if learner.classifies or "text" not in learner.modalities or not strings:
        return Sentences()
    groups = (strings[start : start + TEXTS_AT_ONCE] for start in range(0, len(strings), TEXTS_AT_ONCE))
    rows = [F.normalize(learner.encoder.encode_text(list(group)).float(), dim=-1) for group in groups]
    return Sentences(strings=tuple(strings), rows=_array(torch.cat(rows)))
