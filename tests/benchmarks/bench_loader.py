"""What a decoded sample costs the CPU: our loader against webdataset with its workers, on the same shards.

    python tests/benchmarks/bench_loader.py

Each loader runs in a process of its own, with two threads or workers. CPU is that of the whole process tree
between the end of the first epoch and the end of the last, so that no start-up is in it; every ratio is
between medians of runs that took turns.

The last part is about time on the wall: shards in an object store that takes 50 ms to answer, read for
the first time, against the same shards on disk, by one decoding thread each. Between the two marks as many
samples are fetched as are decoded: the first comes when fetching has its lead over decoding, the last while
it still has it. What comes before is told apart, as the time to the first batch. The cache of blocks is full
of others, as in all but an epoch's first minutes, so that each new block drives one out. The server runs on
the same cores, which no user's does: its CPU is in the ratio, and is printed beside the loader's.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SHARDS = (64,) * 4
SAMPLES = sum(SHARDS)
BATCH = 32
EPOCHS = 3  # the first is warm-up
TURNS = 3
WORKERS = 2
SECONDS = 10.0
RATE = 44_100
SIDE = 256
LATENCY_S = 0.05
STORED = (48,) * 16
STORED_FRAMES = 4  # larger than a video's, being noise: a sample is 0.75 MB as AudioSet's with ten
STORED_INTERLEAVE = 4  # shards read at once; the others are opened while these are read
STORED_WINDOW = 128
STORED_LEAD = 128  # samples that fetching is ahead of decoding
STORED_CACHE = 64  # blocks; the shards are 80
STORED_BEGIN = 96  # samples before the clock starts: by then fetching has its lead
STORED_END = sum(STORED) - STORED_LEAD  # samples when the clock stops: fetching still goes on


def main() -> None:
    from shard_folders import shard_folder

    begun = time.perf_counter()
    _report_order()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for codec in ("wav", "flac"):
            shard_folder(folder / codec, SHARDS, seconds=SECONDS, codec=codec, frames=10, side=SIDE)
        print(
            f"{SAMPLES} samples of {SECONDS:g} s and ten {SIDE}-pixel frames; load {os.getloadavg()[0]:.1f}"
        )
        _report(_costs(folder))
        _report_store(folder)
    print(f"{time.perf_counter() - begun:.0f} s in all; load {os.getloadavg()[0]:.1f}")


def _report_order() -> None:
    from trainer.order import epoch_order

    shard_of = np.arange(2_000_000, dtype=np.int32) // 512
    cpu = time.process_time()
    epoch_order(shard_of, 0, 0)
    took = time.process_time() - cpu
    print(f"order of 2 M samples: {took:.2f} s of CPU   bar <= 1   {_verdict(took <= 1)}")


# what is measured, in a process of its own: loader, codec, decoder
RUNS = (
    ("webdataset", "flac", "soundfile"),
    ("ours", "flac", "soundfile"),
    ("ours", "flac", "fast"),
    ("webdataset", "wav", "wav"),
    ("ours", "wav", "wav"),
)
BARS = (
    ("FLAC, the same decoders", RUNS[1], RUNS[0], 0.88),
    ("FLAC, the fastest decoder", RUNS[2], RUNS[0], 0.75),
    ("WAV", RUNS[4], RUNS[3], 0.35),
)


def _costs(folder: Path) -> dict[tuple[str, ...], dict[str, float]]:
    measured: dict[tuple[str, ...], list[dict[str, float]]] = {run: [] for run in RUNS}
    for _ in range(TURNS):
        for run in RUNS:
            measured[run].append(_in_a_process("cost", str(folder), *run))
    return {
        run: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for run, found in measured.items()
    }


def _in_a_process(*arguments: str, **environment: str) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _report(costs: dict[tuple[str, ...], dict[str, float]]) -> None:
    print(f"{'loader':12}{'codec':6}{'decoder':11}{'CPU ms/sample':>14}{'samples/s':>11}")
    for (loader, codec, decoder), cost in costs.items():
        print(f"{loader:12}{codec:6}{decoder:11}{cost['cpu_ms']:14.2f}{cost['rate']:11.0f}")
    for name, ours, theirs, bar in BARS:
        ratio = costs[ours]["cpu_ms"] / costs[theirs]["cpu_ms"]
        print(f"{name:42}{ratio:6.2f} x webdataset's CPU   bar <= {bar}   {_verdict(ratio <= bar)}")


def _verdict(good: bool) -> str:
    return "met" if good else "MISSED"


def cost(folder: str, loader: str, codec: str, decoder: str) -> dict[str, float]:
    """CPU ms per sample and samples per second of wall time, after the first epoch."""
    batches = {"ours": _our_batches, "webdataset": _their_batches}[loader](Path(folder) / codec, decoder)
    seen, marks = 0, []
    for samples in batches:
        seen += samples
        if seen % SAMPLES == 0:
            marks.append((_tree_cpu(), time.perf_counter()))
        if seen == EPOCHS * SAMPLES:
            break
    (cpu, wall), (last_cpu, last_wall) = marks[0], marks[-1]
    samples = (EPOCHS - 1) * SAMPLES
    return {"cpu_ms": 1e3 * (last_cpu - cpu) / samples, "rate": samples / (last_wall - wall)}


def _tree_cpu() -> float:
    """Seconds of this process and of all that it has started, those that live included."""
    import psutil

    mine = psutil.Process()
    times = [each.cpu_times() for each in (mine, *mine.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _our_batches(folder: Path, decoder: str) -> Iterator[int]:
    from trainer import decoders

    if decoder == "soundfile":
        decoders.fast_flac = lambda: None  # as where the extra is not installed
    elif decoder == "fast" and decoders.fast_flac() is None:
        raise SystemExit("no dr_flac here; pip install 'trichord[fast]', then again")
    for batch in _our_loader(str(folder), folder / "cache", threads=WORKERS).batches():
        yield len(batch)


def _our_loader(url: str, cache: Path, cache_bytes: int = 20_000_000_000, **options: Any) -> Any:
    from shards.sample_reader import SampleReader
    from shards.selection import select_samples
    from shards.store import open_store
    from trainer.loader import Loader

    store = open_store(url)
    selection = select_samples(store, splits=("balanced_train",))
    reader = SampleReader(store=store, cache=cache, cache_bytes=cache_bytes)
    return Loader(selection, reader, batch_size=BATCH, max_seconds=SECONDS, **options)


def _their_batches(folder: Path, decoder: str) -> Iterator[int]:
    """As webdataset's documentation has it: shuffle, decode in the workers, batches made there."""
    import webdataset

    tars = sorted(map(str, folder.glob("*.tar")))
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=100, seed=0, workersplitter=webdataset.split_by_worker)
        .shuffle(64)
        .map(_decoded(decoder))
        .batched(BATCH, partial=False)
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
    )
    while True:
        for audio, _ in loader:
            yield len(audio)


def _decoded(decoder: str) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """With our decoders, so that only the loaders differ; tensors travel by shared memory."""
    import torch

    from trainer.decoders import PictureDecoder, decode_by_soundfile, decode_wav

    hear, see = (decode_wav if decoder == "wav" else decode_by_soundfile), PictureDecoder()
    random = np.random.default_rng(0)

    def decode(sample: dict[str, Any]) -> tuple[Any, Any]:
        audio = torch.empty((1, round(SECONDS * RATE)), dtype=torch.int16)
        hear(sample["wav" if decoder == "wav" else "flac"], RATE, audio.numpy())
        frame = torch.empty((SIDE, SIDE, 3), dtype=torch.uint8)
        see(sample[f"{random.integers(10)}.jpg"], frame.numpy())
        return audio, frame

    return decode


def _report_store(folder: Path) -> None:
    """One decoding thread each, since the other core belongs to the server."""
    server = subprocess.Popen(
        [sys.executable, __file__, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line for each request
        text=True,
    )
    assert server.stdout is not None
    try:
        environment = json.loads(server.stdout.readline())
        places = {"disk": str(folder / "local"), "store": environment.pop("URL")}
        _in_a_process("fill", *places.values(), **environment)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in places}
        for _ in range(TURNS):
            for name, at in places.items():
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    _fill_with_others(Path(cache) / "blocks")
                    os.sync()  # nothing of that is written to the disk while the clock runs
                    found[name].append(_in_a_process("rate", at, cache, str(server.pid), **environment))
    finally:
        server.kill()
        server.wait()
    _print_rates(found)


def _fill_with_others(blocks: Path) -> None:
    from shards.block_cache import BLOCK_BYTES

    blocks.mkdir()
    for number in range(STORED_CACHE):
        block = blocks / f"another-{number:06d}.block"
        block.write_bytes(bytes(BLOCK_BYTES))
        os.utime(block, (1_000_000_000, 1_000_000_000))


def _print_rates(found: dict[str, list[dict[str, float]]]) -> None:
    print(f"FLAC in an object store with {1e3 * LATENCY_S:.0f} ms latency, first epoch, one thread:")
    print(f"{'':8}{'samples/s':>10}{'CPU ms/sample':>15}{'server':>8}{'first batch':>13}{'load':>6}")
    for turn in range(TURNS):
        for name, runs in found.items():
            run = runs[turn]
            print(f"{name:8}{run['rate']:10.0f}{run['cpu_ms']:15.2f}{run['server_ms']:8.2f}", end="")
            print(f"{run['first_s']:11.2f} s{run['load']:6.1f}")
    disk, store = (statistics.median(run["rate"] for run in found[name]) for name in ("disk", "store"))
    each = [far["rate"] / near["rate"] for near, far in zip(found["disk"], found["store"], strict=True)]
    print(f"  medians: {store:.0f} of {disk:.0f} samples/s; the turns {', '.join(f'{x:.2f}' for x in each)}")
    print(f"{'':20}{store / disk:14.2f} x the rate on disk    bar >= 0.9    {_verdict(store / disk >= 0.9)}")


def serve() -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from s3_server import S3Server

    contents: dict[str, bytes] = {}

    class FarServer(S3Server):
        """Late, but quick: moto reads a whole object for each range of it, which would be all we measure."""

        def __call__(self, environ: Any, start_response: Any) -> Any:
            time.sleep(LATENCY_S)
            path, asked = environ["PATH_INFO"], environ.get("HTTP_RANGE")
            if environ["REQUEST_METHOD"] != "GET" or not asked or not path.endswith(".tar"):
                return super().__call__(environ, start_response)
            if path not in contents:
                found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(*path[1:].split("/", 1))
                contents[path] = found.value
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            part = contents[path][first : last + 1]
            headers = {
                "Content-Length": str(len(part)),
                "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(contents[path])}",
                "ETag": '"tar"',
            }
            start_response("206 Partial Content", list(headers.items()))
            return [part]

    server = FarServer()
    os.environ.update(server.environment)
    print(json.dumps({**server.environment, "URL": server.new_bucket()}), flush=True)
    sys.stdin.read()  # until whoever asked is gone


def fill(folder: str, url: str) -> dict[str, float]:
    """The same shards twice."""
    from shard_folders import shard_folder

    from shards.store import open_store

    near = shard_folder(folder, STORED, seconds=SECONDS, codec="flac", frames=STORED_FRAMES, side=SIDE)
    far = open_store(url)
    for name in near.names():
        far.publish_bytes(near.read_bytes(name), name)
        if name.endswith(".tar"):
            far.read_into(name, 0, memoryview(bytearray(1)))  # the server makes ready to be quick
    return {}


def rate(url: str, cache: str, server: str) -> dict[str, float]:
    """Samples per second of the first epoch between the marks, decoded by libFLAC, and what that took."""
    import psutil

    from shards.block_cache import BLOCK_BYTES
    from trainer import decoders

    decoders.fast_flac = lambda: None
    loader = _our_loader(
        url,
        Path(cache),
        cache_bytes=STORED_CACHE * (BLOCK_BYTES + 20),  # with what ends a file
        threads=1,
        interleave=STORED_INTERLEAVE,
        window=STORED_WINDOW,
        lead=STORED_LEAD,
    )

    def mark() -> tuple[float, float, float]:
        times = psutil.Process(int(server)).cpu_times()
        return time.perf_counter(), time.process_time(), times.user + times.system

    marks, seen, first_s = [mark()], 0, 0.0
    with contextlib.closing(loader.batches()) as batches:
        for batch in batches:
            seen += len(batch)
            first_s = first_s or time.perf_counter() - marks[0][0]
            if seen in (STORED_BEGIN, STORED_END):
                marks.append(mark())
            if seen == STORED_END:
                break
    samples = STORED_END - STORED_BEGIN
    wall, cpu, served = (end - begin for begin, end in zip(*marks[1:], strict=True))
    return {
        "rate": samples / wall,
        "cpu_ms": 1e3 * cpu / samples,
        "server_ms": 1e3 * served / samples,
        "first_s": first_s,
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cost", *arguments]:
            print(json.dumps(cost(*arguments)))
        case ["fill", folder, url]:
            print(json.dumps(fill(folder, url)))
        case ["rate", url, cache, server]:
            print(json.dumps(rate(url, cache, server)))
        case ["serve"]:
            serve()
        case _:
            main()
