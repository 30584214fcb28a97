"""Where a ranking by similarity puts what is relevant, for as many queries and items as there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import finite

KS = (1, 5, 10)
CHUNK_SCORES = 8 * 2**20  # scores that are held at once: 32 MiB, and as much again for their sorted copy

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """One entry per query; what a query finds is relevant when it has the query's id.

    Ranks are from 1. Items of equal similarity keep the order that they are given in. A query to which
    nothing is relevant has `relevant` 0, `first` 0 and a NaN `average_precision`. Within the first k that is
    the sum of the precisions at the relevant ones among them, over as many as there could be: k, or all.
    """

    relevant: Ids  # (Q,) how many items are relevant
    first: Ids  # (Q,) the rank of the best relevant one
    found: dict[int, Ids]  # k -> (Q,) how many relevant ones are among the first k
    average_precision: NDArray[np.float64]  # (Q,)
    average_precision_within: dict[int, NDArray[np.float64]]  # k -> (Q,) of the first k alone

    def __len__(self) -> int:
        return len(self.relevant)

    def answerable(self) -> Self:
        """The queries to which something is relevant: the only ones that metrics are defined for."""
        rows = self.relevant > 0
        return type(self)(
            relevant=self.relevant[rows],
            first=self.first[rows],
            found={k: found[rows] for k, found in self.found.items()},
            average_precision=self.average_precision[rows],
            average_precision_within={k: each[rows] for k, each in self.average_precision_within.items()},
        )

    # per query, of those that are answerable

    def precision(self, k: int) -> NDArray[np.float64]:
        """Relevant ones among the first k, over k; also where there are fewer than k items."""
        return self.found[k] / k

    def recall(self, k: int) -> NDArray[np.float64]:
        """Relevant ones among the first k, over all relevant ones."""
        return self.found[k] / self.relevant

    def hit(self, k: int) -> NDArray[np.float64]:
        """1 where a relevant one is among the first k."""
        return (self.found[k] > 0).astype(np.float64)

    def reciprocal_rank(self) -> NDArray[np.float64]:
        """1 over the rank of the best relevant one."""
        return 1 / self.first


def rank(
    queries: Vectors,
    items: Vectors,
    query_ids: Ids,
    item_ids: Ids,
    *,
    ks: tuple[int, ...] = KS,
    chunk_scores: int = CHUNK_SCORES,
) -> Ranking:
    """Ranks `items` (M, D) for each of `queries` (Q, D) by dot product.

    Similarities are computed chunk by chunk and never all held: memory is that of the vectors and some
    64 MiB. Raises ValueError for NaN.
    """
    relevant_items = _items_by_id(item_ids)
    rows = [
        _row(ranks, ks)
        for ids, scores in _scored(queries, items, query_ids, chunk_scores)
        for ranks in _ranks_of_relevant(scores, [relevant_items.get(int(id), _NONE) for id in ids])
    ]
    counts = np.array([row[0] for row in rows], dtype=np.int64).reshape(len(rows), 2 + len(ks))
    precisions = np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), 1 + len(ks))
    return Ranking(
        relevant=counts[:, 0],
        first=counts[:, 1],
        found={k: counts[:, 2 + place] for place, k in enumerate(ks)},
        average_precision=precisions[:, 0],
        average_precision_within={k: precisions[:, 1 + place] for place, k in enumerate(ks)},
    )


def _row(ranks: Ids, ks: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Of one query's ascending ranks: how many, the first, how many within each k; AP, AP within each k."""
    if not len(ranks):
        return (0, 0, *(0 for _ in ks)), (float("nan"),) * (1 + len(ks))
    found = np.searchsorted(ranks, ks, "right").tolist()
    precisions = np.arange(1, len(ranks) + 1) / ranks
    within = (
        float(precisions[:there].sum()) / min(k, len(ranks)) for k, there in zip(ks, found, strict=True)
    )
    return (len(ranks), int(ranks[0]), *found), (float(precisions.mean()), *within)


_NONE: Ids = np.empty(0, dtype=np.int64)


def _items_by_id(item_ids: Ids) -> dict[int, Ids]:
    order = np.argsort(item_ids, kind="stable")
    ids, starts = np.unique(item_ids[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(order, starts[1:]), strict=True)) if len(ids) else {}


def _scored(
    queries: Vectors, items: Vectors, query_ids: Ids, chunk_scores: int
) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
    rows = max(1, chunk_scores // max(1, len(items)))
    columns = np.ascontiguousarray(items, dtype=np.float32).T
    for start in range(0, len(queries), rows):
        chunk = np.ascontiguousarray(queries[start : start + rows], dtype=np.float32)
        yield query_ids[start : start + rows], finite(chunk @ columns)


def _ranks_of_relevant(scores: NDArray[np.float32], relevant: list[Ids]) -> Iterator[Ids]:
    """Ascending ranks of each row's relevant items; sorting values alone is eight times faster than items."""
    ascending = np.sort(scores, axis=1)
    for row, values, items in zip(scores, ascending, relevant, strict=True):
        wanted = np.sort(row[items])[::-1]
        not_above = np.searchsorted(values, wanted, "right")
        tied = values[np.maximum(not_above - 2, 0)] == wanted
        yield _stable_ranks(row, items) if (tied & (not_above > 1)).any() else len(values) + 1 - not_above


def _stable_ranks(row: NDArray[np.float32], items: Ids) -> Ids:
    ranks = np.empty(len(row), dtype=np.int64)
    ranks[np.argsort(-row, kind="stable")] = np.arange(1, len(row) + 1)
    return np.sort(ranks[items])
