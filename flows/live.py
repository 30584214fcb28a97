"""What a person sees while an ingestion runs: a live line in a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flows.notify import Notifier
from pipeline.worker import Worker
from shards.ledger import Attempt
from shards.outcome import Disposition

PLAIN_EVERY_S = 10.0
STALLED_S = 300.0
_RATE_OVER_S = 60.0


class Tally:
    """Counts of a run, and its pace over the last minute."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.outcomes: Counter[str] = Counter()
        self.bytes = 0
        self.last_at = time.monotonic()
        self._recent: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])
        self._lock = threading.Lock()

    def observe(self, attempt: Attempt) -> None:
        with self._lock:
            self.outcomes[str(attempt.outcome)] += 1
            self.bytes += attempt.media_bytes or 0
            self.last_at = time.monotonic()
            self._recent.append((self.last_at, self.done, self.bytes))
            while len(self._recent) > 2 and self.last_at - self._recent[0][0] > _RATE_OVER_S:
                self._recent.popleft()

    @property
    def done(self) -> int:
        return self.outcomes.total()

    def pace(self) -> tuple[float, float]:
        """(segments, bytes) per second."""
        with self._lock:
            then, segments, received = self._recent[0]
            seconds = max(1e-3, time.monotonic() - then)
            return (self.done - segments) / seconds, (self.bytes - received) / seconds

    def line(self) -> str:
        """`312/5000 · ok 270 · private 21, removed 20 · 4.1/s · 3.2 MB/s · 19 min left`"""
        segments, received = self.pace()
        failed = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common() if name != "ok")
        parts = [f"{self.done}/{self.total}", f"ok {self.outcomes['ok']}", failed, f"{segments:.1f}/s"]
        if received:
            parts.append(f"{received / 1e6:.1f} MB/s")
        if segments > 0 and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / segments)} left")
        return " · ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`45 s`, `19 min`, `3.2 h`, `12 days`"""
    for size, unit in ((86_400 * 2, "days"), (3600 * 1.5, "h"), (100, "min")):
        if seconds >= size:
            value = seconds / {"days": 86_400, "h": 3600, "min": 60}[unit]
            return f"{value:.0f} {unit}" if value >= 10 or unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def watching(worker: Worker, tally: Tally, notifier: Notifier, *, quiet: bool) -> Iterator[None]:
    """Show how the worker comes along, and send word of trouble, for as long as the context lasts."""
    worker.observers.append(tally.observe)
    done = threading.Event()
    show = _show_nothing if quiet else _show_live if sys.stderr.isatty() else _show_lines
    watchers = [
        threading.Thread(target=show, args=(worker, tally, done), daemon=True, name="live"),
        threading.Thread(target=_send_word, args=(worker, tally, notifier, done), daemon=True, name="word"),
    ]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


def _send_word(worker: Worker, tally: Tally, notifier: Notifier, done: threading.Event) -> None:
    """Post when the worker begins to wait, and when nothing has finished for minutes: once for each time."""
    said: str | None = None
    while not done.wait(1.0):
        reason, stalled = worker.progress.waiting_for, time.monotonic() - tally.last_at > STALLED_S
        state = "blocked" if reason else "stalled" if stalled else None
        if state is not None and state != said:
            notifier.post(state, dataset=worker.store.url, reason=reason or "", progress=tally.line())
        said = state


def _show_nothing(worker: Worker, tally: Tally, done: threading.Event) -> None:
    done.wait()


def _show_live(worker: Worker, tally: Tally, done: threading.Event) -> None:
    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=tally.total, line="")
        while not done.wait(0.5):
            progress.update(task, completed=tally.done, line=_with_reason(worker, tally))


def _show_lines(worker: Worker, tally: Tally, done: threading.Event) -> None:
    while not done.wait(PLAIN_EVERY_S):
        print(_with_reason(worker, tally), file=sys.stderr, flush=True)


def _with_reason(worker: Worker, tally: Tally) -> str:
    reason = worker.progress.waiting_for
    return f"{tally.line()} · waiting: {reason}" if reason else tally.line()


def left_to_retry(left: Mapping[str, int]) -> dict[str, int]:
    """Dispositions that another run could change, with their counts."""
    return {str(each): left[each] for each in (Disposition.RETRYABLE, Disposition.BLOCKED) if left.get(each)}
