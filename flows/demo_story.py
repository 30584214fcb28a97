"""How the demo tells what it does: numbered chapters, a bar while something takes its time, tables."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

Look = Callable[[], tuple[int, str]]  # how many are done, and a few words about them

LOOK_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0  # where nobody watches a bar
_WIDTH = 100  # columns of a log file
_INDENT = (0, 0, 0, 3)


class Story:
    """What a person reads. Plain lines where `file` is no terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._console = Console(file=file, highlight=False)
        if not self._console.is_terminal:
            self._console.width = max(self._console.width, _WIDTH)
        self._chapters = 0

    @property
    def width(self) -> int:
        """Columns for a table."""
        return self._console.width - _INDENT[3]

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def chapter(self, text: str) -> None:
        self._chapters += 1
        self._console.print(Text.assemble("\n", (f"{self._chapters}  ", "bold cyan"), (text, "bold")))

    def say(self, text: str) -> None:
        self.show(Text(text))

    def ask(self, question: str, command: str) -> None:
        """A question and the command that gives what follows."""
        self.show(Text(f"\n{question}", style="italic"))
        self.command(command)

    def command(self, command: str) -> None:
        """A command that gives what follows: one line however long, for it may be copied."""
        self._console.print(Text.assemble("   ", ("$ ", "dim"), (command, "cyan")), soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        self._console.print(Padding(what, _INDENT, expand=False))

    def suggest(self, command: str, meaning: str) -> None:
        """Something to type or to open, and what it gives."""
        self._console.print(
            Text.assemble("   ", (command, "cyan"), (f"\n      {meaning}", "dim")), soft_wrap=True
        )

    @contextlib.contextmanager
    def progress(self, total: int | None, look: Look) -> Iterator[None]:
        """Follow what `look` sees, for as long as the context lasts; `total` None: nobody knows how long."""
        over = threading.Event()
        show = self._show_bar if self._console.is_terminal else self._show_lines
        watcher = threading.Thread(target=show, args=(total, look, over), daemon=True, name="progress")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _show_bar(self, total: int | None, look: Look, over: threading.Event) -> None:
        columns = (
            TextColumn("  "),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("", total=total)
            while not over.wait(LOOK_EVERY_S):
                done, words = look()
                progress.update(task, completed=done, description=words)

    def _show_lines(self, total: int | None, look: Look, over: threading.Event) -> None:
        while not over.wait(PLAIN_EVERY_S):
            done, words = look()
            self.say(f"{done}/{total} {words}" if total else words)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __str__(self) -> str:
        return f"{time.monotonic() - self._begun:.0f} s"
