"""Linear classifiers on frozen embeddings, each fold scored by one that never saw it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trainer.embedded import Items
from trainer.metrics import accuracy, mean_average_precision
from trainer.ranking import Ids, Vectors

GRID = (1e-1, 1e-2, 1e-3, 1e-4)  # L2 on the weights, strongest first: of equal ones the strongest is chosen
ITERATIONS = 200
SMALLEST_STEP = 1e-9


def held_out_scores(rows: Vectors, items: Items, grid: Sequence[float] = GRID) -> Vectors:
    """(N, K) scores of the classes; each fold's from a classifier of the other folds.

    Embeddings are standardised by what is learned from. The regularisation is that of `grid` which is best on
    the next fold, learned from the rest; with two folds, on every fifth item of the other.
    """
    scores = np.empty(items.targets.shape, dtype=np.float32)
    with _one_thread():
        for judged, learned, inner, validated in _splits(items):
            l2 = _chosen(rows, items, inner, validated, grid)
            scores[judged] = _fitted_scores(rows, items, learned, judged, l2)
    return scores


@contextmanager
def _one_thread() -> Iterator[None]:
    """Problems this small take many times longer where threads wait for one another on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _splits(items: Items) -> Iterator[tuple[Ids, Ids, Ids, Ids]]:
    """(judged, learned from, learned from for a choice, judged for a choice), a fold after another."""
    names = items.fold_names
    folds = np.array(items.folds)
    for place, name in enumerate(names):
        learned = np.flatnonzero(folds != name)
        if len(names) > 2:
            held = folds[learned] == names[(place + 1) % len(names)]
        else:
            held = np.arange(len(learned)) % 5 == 0
        yield np.flatnonzero(folds == name), learned, learned[~held], learned[held]


def _chosen(rows: Vectors, items: Items, learned: Ids, validated: Ids, grid: Sequence[float]) -> float:
    quality = [_quality(_fitted_scores(rows, items, learned, validated, l2), items, validated) for l2 in grid]
    return grid[int(np.nanargmax(quality))] if not np.isnan(quality).all() else grid[0]


def _quality(scores: Vectors, items: Items, rows: Ids) -> float:
    if items.single_label:
        return accuracy(scores, items.classes[rows])
    return mean_average_precision(scores, items.targets[rows])


def _fitted_scores(rows: Vectors, items: Items, learned: Ids, judged: Ids, l2: float) -> Vectors:
    centre, spread = rows[learned].mean(axis=0), rows[learned].std(axis=0)
    standard = [
        torch.from_numpy(((rows[some] - centre) / np.maximum(spread, 1e-6)).astype(np.float64))
        for some in (learned, judged)
    ]
    weights, bias = fit(standard[0], items.targets[learned], single_label=items.single_label, l2=l2)
    scores: Vectors = (standard[1] @ weights + bias).float().numpy()
    return scores


def fit(rows: Tensor, targets: NDArray[np.bool_], *, single_label: bool, l2: float) -> tuple[Tensor, Tensor]:
    """(D, K) weights and (K,) biases of logistic regression on float64 rows (N, D), by L-BFGS from zero.

    It minimises the mean cross-entropy, of all classes or of each by itself, plus l2 / 2 times the squares of
    the weights.
    """
    truth = torch.from_numpy(targets).to(rows.dtype)
    weights = torch.zeros(rows.shape[1], truth.shape[1], dtype=rows.dtype, requires_grad=True)
    bias = torch.zeros(truth.shape[1], dtype=rows.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias],
        max_iter=ITERATIONS,
        tolerance_grad=SMALLEST_STEP,
        tolerance_change=SMALLEST_STEP,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = rows @ weights + bias
        each = F.cross_entropy(logits, truth) if single_label else _binary(logits, truth)
        total = each + l2 / 2 * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch does not say
        return total

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]  # torch does not say
    return weights.detach(), bias.detach()


def _binary(logits: Tensor, truth: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(truth)
