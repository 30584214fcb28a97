"""Ranking 20,000 queries against 20,000 items of 1,024 dimensions, beside the similarities alone.

python tests/benchmarks/bench_retrieval.py [--items 20000]
"""

import argparse
import resource
import time

import numpy as np

from trainer.bootstrap import Resampling
from trainer.ranking import rank

BAR_GB = 2.0  # resident, vectors and all
SIZE = 1024
LABEL_SETS = 6300  # of AudioSet's eval split


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=20_000)
    items = parser.parse_args().items
    random = np.random.default_rng(0)
    queries, found = (random.standard_normal((items, SIZE), dtype=np.float32) for _ in range(2))
    ids = random.zipf(1.5, items) % LABEL_SETS  # some sets are had by thousands, most by one
    plain = _similarities_s(queries, found)
    began = time.perf_counter()
    ranking = rank(queries, found, ids, ids)
    ranked = time.perf_counter() - began
    began = time.perf_counter()
    Resampling(items=items).means(ranking.average_precision)
    drawn = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{items:,} x {items:,} x {SIZE}, {ranking.relevant.sum():,} relevant pairs")
    print(f"similarities alone {plain:6.1f} s")
    print(f"ranked             {ranked:6.1f} s, {ranked / plain:.2f} times as long")
    print(f"1,000 resamples    {drawn:6.1f} s for a mean")
    print(f"memory             {used:6.2f} GB, bar {BAR_GB:.2f} GB: {'met' if used <= BAR_GB else 'MISSED'}")


def _similarities_s(queries: np.ndarray, items: np.ndarray) -> float:
    began = time.perf_counter()
    for start in range(0, len(queries), 512):
        queries[start : start + 512] @ items.T
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
