"""Answers with rows: a table for a person, lines with tabs for another program."""

import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """On standard output; as a table only where it is a terminal."""
    if not sys.stdout.isatty():
        for row in (head, *rows):
            typer.echo("\t".join(row))
        return
    table = Table()
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
