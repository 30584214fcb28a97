"""What planning AudioSet's 2,041,789 unbalanced rows costs: seconds and peak memory of each part.

Run from the project's root: python -m tests.benchmarks.bench_planning [ROWS]
"""

import base64
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.audioset import check_segments, file_sha256, read_segments, select
from pipeline.ontology import LabelFilter

ROWS = 2_041_789  # unbalanced_train_segments.csv
CLASSES = 527
SPLIT = "unbalanced_train"


def main(rows: int = ROWS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segments = Path(folder) / f"{SPLIT}_segments.csv"
        _measured("synthesise", lambda: write_rows(segments, rows))
        _measured("hash the file", lambda: file_sha256(segments))
        _measured("check", lambda: check_segments(segments))
        _measured("select by label", lambda: _count(select_labelled(segments)))
        _measured("sample 20,000", lambda: _count(select(read_segments(segments, SPLIT), sample=20_000)))
        half = rows // 2
        _measured(f"sample {half:,}", lambda: _count(select(read_segments(segments, SPLIT), sample=half)))


def write_rows(path: Path, rows: int) -> int:
    """A file in the official form, labels drawn as skewed as AudioSet's."""
    rng = random.Random(0)
    with path.open("w") as file:
        file.write("# made by bench_planning\n# YTID, start_seconds, end_seconds, positive_labels\n")
        file.writelines(_rows(rng, rows))
    return path.stat().st_size


def _rows(rng: random.Random, rows: int) -> Iterator[str]:
    mids = [f"/m/{index:05x}" for index in range(CLASSES)]
    weights = [1 / rank for rank in range(1, CLASSES + 1)]
    for _ in range(rows):
        ytid = base64.urlsafe_b64encode(rng.randbytes(8))[:11].decode()  # an id is 64 bits
        start = 10 * rng.randrange(60)
        labels = ",".join(rng.choices(mids, weights, k=rng.choice((1, 1, 2, 2, 2, 3, 4))))
        yield f'{ytid}, {start}.000, {start + 10}.000, "{labels}"\n'


def select_labelled(path: Path) -> Iterator[object]:
    wanted = LabelFilter(include=frozenset({"/m/00001", "/m/00010"}), exclude=frozenset({"/m/00000"}))
    return select(read_segments(path, SPLIT), labels=wanted)


def _count(items: Iterator[object]) -> str:
    return f"{sum(1 for _ in items):,} segments"


def _measured(name: str, work: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB
    print(
        f"{name:26} {wall:7.2f} s wall {cpu:7.2f} s CPU   peak so far {peak:6.0f} MiB   {result}", flush=True
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
