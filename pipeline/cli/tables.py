"""Render rows as a table, JSON or CSV."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rich.cells import cell_len

from pipeline.client.values import plain
from pipeline.printable import json_text, without_controls

_APART = " " * 3


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    """Render without a trailing newline. `form` is table, json (a list of objects) or csv (with a header)."""
    match form:
        case "json":
            objects = [dict(zip(columns, map(plain, row), strict=True)) for row in rows]
            return json_text(objects)
        case "csv":
            text = _csv(columns, rows)
            return without_controls(text) if sys.stdout.isatty() else text
        case "table":
            return _table(columns, rows)
    raise ValueError(f"{form!r} is not table, json or csv")


def _cell(value: Any) -> str:
    found = plain(value)
    if found is None:
        return ""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _flat(text: str) -> str:
    """Return the text on one line, for a row of a table: what a producer wrote looks like no other row."""
    return without_controls(text).replace("\n", " ").expandtabs()


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Render as wide as the terminal, or as wide as the content if the output is not a terminal."""
    numeric = [bool(rows) and all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    numeric = numeric or [False] * len(columns)
    cells = [[_flat(_cell(value)) for value in row] for row in rows]
    lines = (_folded if sys.stdout.isatty() else _whole)(list(map(_flat, columns)), cells, numeric)
    count = f"{len(rows)} row" + ("" if len(rows) == 1 else "s")
    return "\n".join([*(line.rstrip() for line in lines), count])


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _whole(columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """Return the lines of `_folded` for an unlimited width. Importing rich's tables takes as much CPU as DuckDB."""
    table = [columns, *cells]
    widths = [max(cell_len(row[index]) for row in table) for index in range(len(columns))]
    lines = []
    for row in table:
        spaces = [" " * (width - cell_len(text)) for width, text in zip(widths, row, strict=True)]
        parts = zip(row, spaces, numeric, strict=True)
        lines.append(_APART.join(space + text if right else text + space for text, space, right in parts))
    rule = "─" * (sum(widths) + len(_APART) * max(len(widths) - 1, 0))
    return [lines[0], rule, *lines[1:]]


def _folded(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], width: int | None = None
) -> list[str]:
    """Return the lines of a table that is at most as wide as the terminal: long cells continue on further lines."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, right in zip(columns, numeric, strict=True):
        table.add_column(Text(column), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()
