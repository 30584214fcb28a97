"""How the answer to a query is written: a table to look at, or CSV, JSON and Parquet to go on with."""

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shards.query import Answer, View
from shards.whole_file import appearing

TABLE_ROWS = 100
CELL_WIDTHS = (60, 44, 32)  # what a long text is cut to: the first with which all columns fit

# ------------------------------------------------------------------------------------------- to read


def answer_table(answer: Answer, *, width: int, limit: int = TABLE_ROWS) -> RenderableType:
    """The first `limit` rows: as a table where it fits in `width` characters, else one block per row."""
    rows = list(islice(answer.rows(), limit + 1))
    shown = [[_cell(value) for value in row] for row in rows[:limit]]
    if answer.columns[:1] == ["explain_key"]:
        return Text("\n".join(str(row[1]) for row in rows))
    cut = next((cut for cut in CELL_WIDTHS if _width(answer, shown, cut) <= width), None)
    body = _blocks(answer, shown) if cut is None else _table(answer, shown, cut)
    return Group(body, _footer(len(rows), limit))


def _footer(found: int, limit: int) -> Text:
    if found > limit:
        return Text(f"the first {limit} rows; --format csv, json or parquet gives all", style="dim")
    return Text(f"{found:,} row{'' if found == 1 else 's'}", style="dim")


def _width(answer: Answer, rows: list[list[str]], cut: int) -> int:
    """Of the table whose longer texts are cut."""
    columns = zip(answer.columns, *rows, strict=True)
    return sum(max(len(name), *(min(len(cell), cut) for cell in cells), 0) + 2 for name, *cells in columns)


def _table(answer: Answer, rows: list[list[str]], cut: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for field in answer.schema:
        number = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        table.add_column(
            Text(field.name),
            justify="right" if number else "left",
            no_wrap=True,
            max_width=max(cut, len(field.name)),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _blocks(answer: Answer, rows: list[list[str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for number, row in enumerate(rows, start=1):
        table.add_row(Text(f"row {number}", style="bold"), "")
        for name, value in zip(answer.columns, row, strict=True):
            table.add_row(Text(name), Text(value))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list | tuple):
        return ", ".join(_pair(item) if isinstance(item, tuple) else _cell(item) for item in value)
    return " ".join(str(plain(value)).split())


def _pair(item: tuple[object, ...]) -> str:
    return " ".join(_cell(part) for part in item)


def views_table(views: list[View]) -> RenderableType:
    """What there is to ask: name, rows, meaning and columns of each view."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("from", style="cyan", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("what it is, and its columns")
    for view in views:
        columns = ", ".join(column.name for column in view.columns)
        table.add_row(view.name, f"{view.rows:,}", Group(Text(view.comment), Text(columns, style="dim")))
    return table


# ------------------------------------------------------------------------------------------ to go on


def write_csv(answer: Answer, out: BinaryIO) -> None:
    """A heading and a line per row; lists are JSON, times ISO 8601, a missing value is empty."""
    with _text(out) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(answer.columns)
        for row in answer.rows():
            writer.writerow([_field(plain(value)) for value in row])


def _field(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def write_json(answer: Answer, out: BinaryIO) -> None:
    """An array of objects, a line each; times are ISO 8601, what is no number in JSON is null."""
    with _text(out) as text:
        separator = "[\n"
        for row in answer.rows():
            facts = {name: plain(value) for name, value in zip(answer.columns, row, strict=True)}
            text.write(separator + json.dumps(facts, ensure_ascii=False))
            separator = ",\n"
        text.write("[]\n" if separator == "[\n" else "\n]\n")


def write_parquet(answer: Answer, out: BinaryIO) -> None:
    """A Parquet file with DuckDB's types."""
    with pq.ParquetWriter(out, answer.schema, compression="zstd") as writer:
        for batch in answer.batches():
            writer.write_batch(batch)


WRITERS: Mapping[str, Callable[[Answer, BinaryIO], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


def write_file(answer: Answer, format: str, target: Path) -> None:
    """Write a file of one of the formats in `WRITERS`; it appears whole."""
    with appearing(target) as partial, partial.open("wb") as out:
        WRITERS[format](answer, out)


@contextlib.contextmanager
def _text(out: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """UTF-8 text over a binary stream that stays open."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()


def plain(value: object) -> object:
    """A value as JSON has it."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list():
            return _plain_list(value)
        case None | bool() | int() | str():
            return value
    return str(value)


def _plain_list(items: list[object]) -> object:
    """A list, or an object where it holds the pairs of a MAP."""
    pairs = [item for item in items if isinstance(item, tuple) and len(item) == 2]
    if items and len(pairs) == len(items):
        return {str(name): plain(value) for name, value in pairs}
    return [plain(item) for item in items]
