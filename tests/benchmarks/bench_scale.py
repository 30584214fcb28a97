"""What AudioSet's size costs: planning it, going on over thousands of finished shards, memory.

    python tests/benchmarks/bench_scale.py [ROWS]

Each measurement is a process of its own, with its wall time, its CPU time and its peak memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from bench_planning import CLASSES, ROWS, SPLIT, write_rows

from pipeline.ffmpeg import find_program
from shards.layout import ledger_name
from shards.ledger import SCHEMA, SHARD_KEY, ShardRecord
from shards.plan import Plan, read_plans
from shards.store import open_store

ENDS = "048AEIMQUYcgkosw"
PREPARE = """
import sys
from pipeline.ingest import prepare
from pipeline.settings import IngestSettings
todo = prepare(IngestSettings(segments=sys.argv[1], out=sys.argv[2], split=sys.argv[3]))
print(f"{todo.segments} segments in {len(todo.plans[0].shards)} shards, {len(todo.shards)} to do")
"""
TRICHORD = (sys.executable, "-m", "flows.cli")


def main(rows: int = ROWS) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        segments = folder / f"{SPLIT}_segments.csv"
        write_rows(segments, rows)
        _write_classes(folder)
        _plan_and_resume(segments, folder / "out")
    with tempfile.TemporaryDirectory() as name:
        _memory(Path(name))


def _plan_and_resume(segments: Path, out: Path) -> None:
    prepare = (sys.executable, "-c", PREPARE, str(segments), str(out), SPLIT)
    ingest = (*TRICHORD, "ingest", "--segments", str(segments), "--out", str(out), "--split", SPLIT)
    _measured("plan (bar: 30 s, 1024 MiB)", prepare)
    (plan,) = read_plans(open_store(out), SPLIT)
    finish_all(out, plan)
    _measured("plan again, all shards finished", prepare)
    _measured("the first ingest after that", ingest)
    _measured("ingest, nothing to do (bar: 10 s)", ingest)
    _measured("status (bar: 10 s)", (*TRICHORD, "status", str(out), "--json"), show=False)
    _measured("ingest --dry-run", (*ingest, "--dry-run"), show=False)


def finish_all(out: Path, plan: Plan) -> None:
    """A ledger for every shard of the plan, a sample for each segment; no tars, which nobody reads here."""
    with pq.ParquetFile(out / plan.name) as planned:
        for index, shard in enumerate(plan.shards):
            rows = planned.read_row_group(index)
            columns = {field.name: _column(field, rows) for field in SCHEMA}
            footer = {SHARD_KEY: json.dumps(asdict(_record(shard, plan.split, rows.num_rows))).encode()}
            table = pa.table(columns, schema=SCHEMA).replace_schema_metadata(footer)
            pq.write_table(table, out / ledger_name(shard), compression="zstd")


def _column(field: pa.Field, rows: pa.Table) -> pa.Array:
    """The plan's column, or a fact that is the same in each row."""
    if field.name in rows.column_names:
        return rows.column(field.name).combine_chunks()
    facts = {"outcome": "ok", "disposition": "done", "attempts": 1, "sample_bytes": 600_000, "audio_s": 10.0}
    facts |= {"finished_at": datetime.now(UTC), "frame_times": [0.5 + place for place in range(10)]}
    return pa.array([facts.get(field.name)] * rows.num_rows, field.type)


def _record(shard: str, split: str, rows: int) -> ShardRecord:
    return ShardRecord(
        shard=shard,
        split=split,
        rows=rows,
        samples=rows,
        tar_bytes=rows * 600_000,
        tar_sha256="0" * 64,
        outcomes={"ok": rows},
        profile_hash="",
        written_at=datetime.now(UTC).isoformat(),
        run="bench",
    )


def _write_classes(folder: Path) -> None:
    rows = [f'{index},/m/{index:05x},"Class {index}"\n' for index in range(CLASSES)]
    (folder / "class_labels_indices.csv").write_text("index,mid,display_name\n" + "".join(rows))


def _memory(folder: Path) -> None:
    """Ingestions of few and of many segments, from hard links to one tiny file."""
    _write_classes(folder)
    tiny = folder / "tiny.mp4"
    source = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:d=1", "-f", "lavfi", "-i", "sine=d=1")
    subprocess.run([find_program().path, "-loglevel", "error", *source, str(tiny)], check=True)
    for count in (200, 2000):
        media = folder / f"media{count}"
        media.mkdir()
        ytids = [f"tiny{index:06d}{ENDS[index % 16]}" for index in range(count)]
        for ytid in ytids:
            (media / f"Y{ytid}.mp4").hardlink_to(tiny)
        segments = folder / f"tiny{count}_segments.csv"
        segments.write_text("".join(f'{ytid}, 0.000, 1.000, "/m/00000"\n' for ytid in ytids))
        command = (*TRICHORD, "ingest", "--segments", str(segments), "--out", str(folder / f"out{count}"))
        profile = ("--frames", "2", "--short-side", "64", "--segments-per-shard", "64")
        _measured(f"ingest {count:,} tiny segments", (*command, "--media", str(media), *profile))


def _measured(name: str, command: Sequence[str], *, show: bool = True) -> None:
    """Run a command and print what it cost. Linux counts memory in KiB."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    said = process.stdout.read().strip().partition("\n")[0]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{name}: exit code {process.returncode}"
    wall, cpu = time.perf_counter() - begun, used.ru_utime + used.ru_stime
    cost = f"{wall:7.2f} s wall {cpu:7.2f} s CPU {used.ru_maxrss / 1024:6.0f} MiB"
    print(f"{name:36} {cost}   {said if show else ''}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
