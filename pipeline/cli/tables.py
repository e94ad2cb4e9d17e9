"""Render rows as a table, JSON or CSV."""

import csv
import io
import json
import math
import sys
import uuid
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED_WIDTH = 100_000


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    """Render without a trailing newline. `form` is table, json (a list of objects) or csv (with a header)."""
    match form:
        case "json":
            objects = [dict(zip(columns, map(_plain, row), strict=True)) for row in rows]
            return json.dumps(objects, ensure_ascii=False, allow_nan=False)
        case "csv":
            return _csv(columns, rows)
        case "table":
            return _table(columns, rows)
    raise ValueError(f"{form!r} is not table, json or csv")


def _plain(value: Any) -> Any:
    """Convert to JSON's types: times to ISO 8601, numbers to numbers, NaN and infinity to null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return str(value)


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Render as wide as the terminal, or as wide as the content if the output is not a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(
            isinstance(row[index], int | float | Decimal) and not isinstance(row[index], bool)
            for row in rows
            if row[index] is not None
        )
        table.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    width = None if sys.stdout.isatty() else _UNLIMITED_WIDTH
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    count = f"{len(rows)} row" + ("" if len(rows) == 1 else "s")
    return "\n".join([*lines, count])
