"""What `trichord status` looks like in a terminal, and as plain lines elsewhere."""

from collections.abc import Iterator
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shards.outcome import Disposition
from shards.profile import describe_partial
from shards.status import IdentityStatus, SplitStatus, Status, WorkerStatus

STYLES = {
    Disposition.DONE: "green",
    Disposition.PERMANENT: "dim",
    Disposition.RETRYABLE: "yellow",
    Disposition.BLOCKED: "red",
}
OUTCOMES_SHOWN = 12
BAR_WIDTH = 28


def render_status(status: Status) -> RenderableType:
    """The whole of it, for `rich.console.Console.print`: colours appear only in a terminal."""
    return Group(*_parts(status))


def _parts(status: Status) -> Iterator[RenderableType]:
    yield Text(status.url, style="bold")
    if status.pause is not None:
        yield Text(f"paused{_since(status.pause.since)}: {status.pause.reason}", style="bold red")
    if not status.splits:
        yield Text("nothing is planned yet", style="dim")
        return
    yield _splits(status)
    if status.partial is not None:
        yield Text(f"partial: {describe_partial(status.partial)}", style="yellow")
    if status.outcomes:
        yield _outcomes(status)
    yield _pace(status)
    if status.workers:
        yield _workers(status)
    yield from (_identity(each) for each in status.identities if each.state != "closed")
    yield Text(_disk(status))
    yield from (Text(f"unreadable: {name}: {why}", style="red") for name, why in status.problems.items())


def _splits(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("split", no_wrap=True)
    table.add_column("", max_width=BAR_WIDTH)  # gives way where a terminal is narrow
    for name in ("done", "planned", "share", "ok", "yield", "hours"):
        table.add_column(name, justify="right", no_wrap=True)
    for split in status.splits:
        table.add_row(*_split(split))
    return table


def _split(split: SplitStatus) -> list[RenderableType]:
    done = min(split.planned, split.attempted + split.in_work)
    return [
        split.split,
        _bar(done, split.planned),
        f"{done:,}",
        f"{split.planned:,}",
        _share(done, split.planned),
        Text(f"{split.ok:,}", style="green"),
        _share(split.ok, split.attempted),
        f"{split.hours:,.1f}" if split.hours >= 10 else f"{split.hours:.2f}",
    ]


def _bar(done: int, planned: int) -> ProgressBar:
    return ProgressBar(
        total=max(1, planned),
        completed=done,
        width=BAR_WIDTH,
        style="bright_black",
        complete_style="cyan",
        finished_style="green",
    )


def _share(part: int, whole: int) -> str:
    # rounded down: 100 % means all
    return f"{int(part / whole * 1000) / 10:.1f} %" if whole else "–"


def _outcomes(status: Status) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    attempted = status.total("attempted")
    for each in status.outcomes[:OUTCOMES_SHOWN]:
        style = STYLES.get(Disposition(each.disposition), "")
        note = "" if each.outcome == "ok" else each.disposition
        table.add_row(
            Text(each.outcome, style=style),
            f"{each.segments:,}",
            _share(each.segments, attempted),
            Text(note, style="dim"),
        )
    if rest := status.outcomes[OUTCOMES_SHOWN:]:
        table.add_row(f"{len(rest)} others", f"{sum(each.segments for each in rest):,}", "", "")
    return table


def _pace(status: Status) -> Text:
    alive = sum(worker.alive for worker in status.workers)
    text = Text(f"{alive} worker{'' if alive == 1 else 's'}", style="bold" if alive else "dim")
    if alive:
        rate = status.rate
        text.append(f" · {rate.segments:.2f} segments/s, {rate.ok:.2f} ok/s", style="not bold")
        text.append(f" · {rate.media_bytes / 1e6:.2f} MB/s", style="not bold")
    if status.left:
        text.append(f" · {status.left:,} left", style="not bold")
    if status.eta_s is not None and status.left:
        text.append(f", about {duration(status.eta_s)}", style="not bold")
    text.append(f" · {status.shards_finished:,} of {status.shards_planned:,} shards", style="not bold")
    return text


def _workers(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("worker", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "ok", "/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("at work on", overflow="fold")
    for worker in status.workers:
        table.add_row(*_worker(worker))
    return table


def _worker(worker: WorkerStatus) -> list[RenderableType]:
    state = Text("working", style="green")
    if not worker.alive:
        state = Text(f"silent for {duration(worker.silent_s)}", style="red")
    elif worker.waiting:
        state = Text("waiting", style="yellow")
    shards = ", ".join(f"{each.shard} {each.done}/{each.total}" for each in worker.shards)
    return [
        f"{worker.host} {worker.pid}",
        state,
        f"{worker.segments:,}",
        f"{worker.ok:,}",
        f"{worker.rate.segments:.2f}",
        Text(worker.waiting or shards),
    ]


def _identity(identity: IdentityStatus) -> Text:
    until = f" until {_clock(identity.until, seconds=True)}" if identity.until else ""
    why = f" ({identity.reason})" if identity.reason else ""
    word = "probing" if identity.state == "probing" else f"blocked{until}"
    return Text(f"identity {identity.label}: {word}{why}", style="red")


def _disk(status: Status) -> str:
    parts = [f"{size(status.used_bytes)} on disk"]
    if status.expected_bytes:
        parts.append(f"about {size(status.expected_bytes)} to come")
    if status.free_bytes is not None:
        parts.append(f"{size(status.free_bytes)} free")
    if status.manifest_age_s is None:
        parts.append("no manifest yet")
    else:
        lacks = f", lacks {status.manifest_lacks} shards" if status.manifest_lacks else ""
        parts.append(f"manifest {duration(status.manifest_age_s)} old{lacks}")
    return " · ".join(parts)


def _since(epoch_s: float | None) -> str:
    return "" if epoch_s is None else f" since {_clock(epoch_s)}"


def _clock(epoch_s: float, *, seconds: bool = False) -> str:
    return datetime.fromtimestamp(epoch_s).astimezone().strftime("%Y-%m-%d %H:%M" + ":%S" * seconds)


def duration(seconds: float) -> str:
    """`45 s`, `19 min`, `3.2 h`, `12 days`: two digits or so."""
    for unit, length, enough in (("days", 86_400, 2.0), ("h", 3600, 1.5), ("min", 60, 1.5)):
        if seconds >= enough * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 or unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """`640 B`, `3.1 GB`: powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
