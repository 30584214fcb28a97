"""A question to a million vectors: ours beside NumPy on a memory map, with and without a filter, and FAISS.

    python tests/benchmarks/bench_search.py --rows 1000000

Needs 4 GiB of disk per million rows. Wall time of one question after another, interleaved, the least of
`--rounds`: the work is bound by memory, so CPU time says little.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards.vector_writer import VectorWriter
from shards.vectors import IndexFacts, VectorIndex

SIZE, TOP, PART = 1024, 10, 50_000
BAR = 1.5  # of NumPy brute force on a memory map


def make_index(folder: Path, rows: int) -> VectorIndex:
    writer = VectorWriter(folder, IndexFacts(model="none", fingerprint="none", size=SIZE, source="made up"))
    random = np.random.default_rng(0)
    for first in range(0, rows, PART):
        count = min(PART, rows - first)
        vectors = random.standard_normal((count, SIZE), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        lines = range(first, first + count)
        labels = [{"path": f"{line}.wav", "labels": [f"class {line % 50}"]} for line in lines]
        writer.add(vectors, labels)
    writer.publish(np.arange(rows))
    return VectorIndex.open(folder)


def by_numpy(path: Path, question: np.ndarray) -> np.ndarray:
    scores = np.load(path, mmap_mode="r") @ question
    best = np.argpartition(-scores, TOP)[:TOP]
    answer: np.ndarray = best[np.argsort(-scores[best], kind="stable")]
    return answer


def by_faiss(matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    try:
        import faiss
    except ImportError:
        return None
    flat = faiss.IndexFlatIP(SIZE)
    flat.add(matrix)
    return lambda question: flat.search(question[None], TOP)[1][0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the vectors lie for a while [default: the system's]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        index = make_index(Path(folder), options.rows)
        vectors = Path(folder, index.facts.vectors_name)
        question = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
        question /= np.linalg.norm(question)
        ways: dict[str, Callable[[], object]] = {
            "NumPy on a memory map": lambda: by_numpy(vectors, question),
            "trichord": lambda: [hit.row for hit in index.search(question, TOP)],
            "trichord, one label of 50": lambda: index.search(
                question, TOP, where="list_contains(labels, 'class 7')"
            ),
        }
        if faiss := by_faiss(index.matrix):
            ways["FAISS flat, in memory"] = lambda: faiss(question)
        report(ways, options.rounds, options.rows)


def report(ways: dict[str, Callable[[], object]], rounds: int, rows: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, object] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            answers[name] = way()
            times[name].append(time.perf_counter() - begun)
    base = min(times["NumPy on a memory map"])
    print(f"{rows:,} x {SIZE}, the {TOP} nearest")
    for name, seconds in times.items():
        print(f"{name:28} {1000 * min(seconds):8.1f} ms  {min(seconds) / base:5.2f}x")
    ours, filtered = min(times["trichord"]), min(times["trichord, one label of 50"])
    print(f"bar: at most {BAR}x NumPy: {'held' if ours <= BAR * base else 'MISSED'}")
    print(f"bar: faster with a filter than without: {'held' if filtered < ours else 'MISSED'}")
    same = list(answers["NumPy on a memory map"]) == answers["trichord"]  # type: ignore[call-overload]
    print(f"the same answers as NumPy: {same}")


if __name__ == "__main__":
    main()
