"""What the commands do that look at a dataset: status, verify, manifest, sheet."""

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from flows.cli import Exit, fail
from pipeline.contact_sheet import Card, write_contact_sheet
from shards.layout import tar_name
from shards.manifest import ManifestError
from shards.profile import ProfileError, read_dataset
from shards.query import QueryError, describe_views, open_manifest, run_query
from shards.query_formats import WRITERS, answer_table, views_table, write_file
from shards.status import read_status
from shards.status_view import render_status
from shards.store import Store, StoreError, open_store
from shards.tar import read_samples
from shards.verify import verify

WATCH_EVERY_S = 2.0


@contextlib.contextmanager
def _dataset(url: str) -> Iterator[Store]:
    """The store of a dataset that exists; what is wrong with it, or with what is asked of it, is one line."""
    try:
        store = open_store(url)
        read_dataset(store)
        yield store
    except (StoreError, ProfileError, ManifestError, QueryError) as error:
        raise fail(error) from None


def run_status(dataset: str, *, watch: bool, as_json: bool) -> None:
    with _dataset(dataset) as store:
        if as_json:
            print(read_status(store).to_json())
        elif watch and sys.stdout.isatty():
            _watch(store)
        else:
            Console().print(render_status(read_status(store)))


def _watch(store: Store) -> None:
    with Live(render_status(read_status(store)), refresh_per_second=2, screen=False) as live:
        while True:
            time.sleep(WATCH_EVERY_S)
            live.update(render_status(read_status(store)))


def run_verify(dataset: str, *, deep: bool) -> None:
    with _dataset(dataset) as store, _bar("shards") as advance:
        verified = verify(store, deep=deep, on_shard=advance)
    for finding in verified.findings:
        print(f"{finding.where}: {finding.what}")
    size = verified.bytes / 1e9
    looked = f"{verified.shards} shards, {verified.samples} samples, {size:.2f} GB"
    if verified.findings:
        raise fail(f"{len(verified.findings)} findings in {looked}", Exit.BROKEN)
    print(f"{looked}: all is well" + ("" if deep else " (--deep also reads every byte)"))


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A bar on a terminal's standard error, and the function that moves it."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda *_: progress.advance(task)


def run_manifest(
    dataset: str, query: str | None, *, format: str, out: str | None, fresh: bool, rows: int
) -> None:
    if format != "table" and format not in WRITERS:
        raise fail(f"--format is {format!r}; expected table, {', '.join(WRITERS)}")
    with _dataset(dataset) as store, contextlib.closing(open_manifest(store, fresh=fresh)) as manifest:
        console = Console()
        if query is None:
            console.print(views_table(describe_views(manifest)))
            return
        answer = run_query(manifest, query)
        if out is not None:
            write_file(answer, _format_of(out, format), Path(out))
        elif format == "table":
            console.print(answer_table(answer, width=console.width, limit=rows))
        else:
            WRITERS[format](answer, sys.stdout.buffer)


def _format_of(out: str, format: str) -> str:
    """The format asked for, else the one that the file's name tells, else CSV."""
    suffix = Path(out).suffix.lstrip(".")
    return format if format != "table" else suffix if suffix in WRITERS else "csv"


def run_sheet(dataset: str, out: str, *, where: str | None, limit: int, seed: int) -> None:
    with _dataset(dataset) as store:
        shown = write_sheet(store, Path(out), name=dataset, where=where, limit=limit, seed=seed)
    if not shown:
        raise fail(
            f"no sample of {dataset} fulfils {where!r}; try another --where"
            if where
            else f"{dataset} has no sample"
        )
    print(f"{out}: {shown} samples, open it in a browser")


def write_sheet(store: Store, target: Path, *, name: str, where: str | None, limit: int, seed: int) -> int:
    """Write the contact sheet of some samples, drawn by lot; how many are on it: with none there is no file.

    `name` is the dataset's, as the sheet's title gives it.
    """
    with contextlib.closing(open_manifest(store)) as manifest:
        condition = f"outcome = 'ok' and ({where})" if where else "outcome = 'ok'"
        answer = run_query(manifest, f"select shard, key from segments where {condition}")
        chosen = sorted(
            ((str(shard), str(key)) for shard, key in answer.rows()), key=lambda row: _lot(row, seed)
        )
    cards = list(_cards(store, sorted(chosen[:limit])))
    if cards:
        title = f"{len(cards)} of {len(chosen)} samples of {name}"
        write_contact_sheet(cards, target, title=title, lead=where or "")
    return len(cards)


def _lot(row: tuple[str, str], seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {row[1]}".encode(), digest_size=8).digest()


def _cards(store: Store, chosen: list[tuple[str, str]]) -> Iterator[Card]:
    """The samples, each shard's tar read once."""
    for shard in dict.fromkeys(shard for shard, _ in chosen):
        wanted = {key for each, key in chosen if each == shard}
        with store.open(tar_name(shard)) as tar:
            yield from (_card(key, members) for key, members in read_samples(tar) if key in wanted)


def _card(key: str, members: dict[str, bytes]) -> Card:
    facts = json.loads(members["json"])
    shown = ("start", "end", "split", "rms_dbfs", "peak_dbfs", "stillness", "short")
    frames = [members[name] for name in sorted(members, key=_frame_index) if _frame_index(name) >= 0]
    return Card(
        key=key,
        class_names=facts["tag"],
        frames=frames,
        sound=members.get("flac") or members.get("wav"),
        facts={name: facts.get(name) for name in shown},
    )


def _frame_index(name: str) -> int:
    number = name.removesuffix(".jpg")
    return int(number) if number.isdecimal() else -1
