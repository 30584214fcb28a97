"""What a stage measures of itself while it trains, on samples that it never learns from."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from shards.selection import Selection
from trainer.batch import Batch
from trainer.distributed import Ranks
from trainer.embedded import Embedded, Items, Sentences
from trainer.evaluations import evaluate_embeddings, named_evaluations, sentences_of
from trainer.label_table import LabelTable
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.loop import Evaluate
from trainer.measure import Draws
from trainer.prepare import Preparer
from trainer.run_request import RunError

Rows = dict[str, np.ndarray]  # by field of Embedded, and "row"


def dev_evaluation(
    names: Sequence[str],
    selection: Selection,
    table: LabelTable,
    *,
    loader: Loader,
    preparer: Preparer,
    ranks: Ranks,
) -> Evaluate:
    """A function from a learner to metrics on `selection`, the same on every process.

    Raises EvaluationError for an unknown name. Intervals are left to `trichord evaluate`.
    """
    evaluations = named_evaluations(names)

    def evaluate(learner: nn.Module) -> Mapping[str, float]:
        assert isinstance(learner, Learner)
        rows = _gathered(_embedded(learner, loader, preparer), ranks)
        items = _items(selection, table, rows.pop("row"))
        embedded = Embedded(
            items=items,
            audio=rows.get("audio"),
            image=rows.get("image"),
            class_logits=rows.get("class_logits"),
            sentences=_sentences(learner, sentences_of(evaluations, items)),
        )
        measures = evaluate_embeddings(embedded, evaluations, Draws(resamples=0))
        return {measure.name: measure.value for measure in measures if measure.whole}

    return evaluate


@torch.no_grad()
def _embedded(learner: Learner, loader: Loader, preparer: Preparer) -> Rows:
    """What this process's part of the samples embeds to."""
    parts = list(_parts(learner, loader, preparer))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _parts(learner: Learner, loader: Loader, preparer: Preparer) -> Iterator[Rows]:
    with contextlib.closing(loader.batches()) as batches:
        for host in batches:
            batch = preparer.prepare(host, training=False)
            embeddings = learner(_without_text(batch))
            valid = host.valid.copy()
            found = {
                field.name: _numpy(rows)[valid]
                for field in dataclasses.fields(embeddings)
                if (rows := getattr(embeddings, field.name)) is not None
            }
            yield {"row": host.rows[valid].copy(), **found}


def _without_text(batch: Batch) -> Batch:
    """Texts are embedded apart, each once."""
    return dataclasses.replace(batch, tokens=None, text_rows=None)


def _numpy(rows: Tensor) -> np.ndarray:
    array: np.ndarray = rows.float().cpu().numpy()
    return array


def _gathered(rows: Rows, ranks: Ranks) -> Rows:
    """Of all processes, in the order of the selection."""
    boxes: list[Any] = [rows]
    if ranks.world > 1:
        boxes = [None] * ranks.world
        dist.all_gather_object(boxes, rows)
    whole = {name: np.concatenate([box[name] for box in boxes]) for name in rows}
    order = np.argsort(whole["row"], kind="stable")
    return {name: values[order] for name, values in whole.items()}


def _items(selection: Selection, table: LabelTable, rows: np.ndarray) -> Items:
    if not len(rows):
        raise RunError("no sample of dev decodes; `trichord verify --deep` says what is damaged")
    keys = selection.keys
    return Items(
        keys=tuple(keys[int(row)] for row in rows),
        targets=table.targets(rows).numpy().astype(bool),
        class_names=table.class_names,
        label_sets=table.label_sets[rows],
        texts=table.texts,
        text_of=table.text_rows(rows),
        folds=("dev",) * len(rows),
        missing=len(selection) - len(rows),
    )


def _sentences(learner: Learner, strings: Sequence[str]) -> Sentences:
    if not strings or "text" not in learner.embeds:
        return Sentences()
    return Sentences(strings=tuple(strings), rows=_numpy(learner.encoder.embed_text(list(strings))))
