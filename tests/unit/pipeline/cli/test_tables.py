"""Query results as text."""

import csv
import io
import json
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.cli.tables import _cell, _flat, _folded, _whole, render

COLUMNS = ["name", "n"]
ROWS = [('a [b]bold[/b], "q"\nline', 1), (None, 20)]


def test_json_is_a_list_of_objects_with_iso_times_and_real_numbers() -> None:
    row = (datetime(2026, 1, 2, 3, 4, 5, 600000), date(2026, 1, 2), Decimal("1.50"), Decimal(3), float("nan"), 2**70)
    more = (uuid.UUID(int=1), b"\x01", {"a": [1, None]}, True, None)
    values = json.loads(render([str(n) for n in range(11)], [row + more], "json"))[0]
    assert list(values.values()) == [
        *("2026-01-02T03:04:05.600000", "2026-01-02", 1.5, 3, None, 2**70),
        *("00000000-0000-0000-0000-000000000001", "01", {"a": [1, None]}, True, None),
    ]


def test_csv_has_a_header_and_reads_back() -> None:
    read = list(csv.reader(io.StringIO(render(COLUMNS, ROWS, "csv"))))
    assert read == [COLUMNS, [ROWS[0][0], "1"], ["", "20"]]


def test_csv_of_nested_values_holds_json() -> None:
    assert render(["x"], [({"a": [1, "é"]},)], "csv") == 'x\n"{""a"": [1, ""é""]}"'


def test_a_table_shows_names_values_and_how_many_rows_and_takes_brackets_for_text() -> None:
    lines = render(COLUMNS, ROWS, "table").splitlines()
    assert lines[0].split() == COLUMNS
    assert '[b]bold[/b], "q"' in lines[2]
    assert lines[-1] == "2 rows"


def test_a_table_that_goes_to_no_terminal_is_not_cut() -> None:
    assert "x" * 500 in render(["text"], [("x" * 500,)], "table")


def test_no_rows_still_have_columns() -> None:
    assert render(["a", "b"], [], "csv") == "a,b"
    assert render(["a", "b"], [], "json") == "[]"
    assert render(["a", "b"], [], "table").splitlines()[-1] == "0 rows"


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="xml"):
        render([], [], "xml")


WIDE = [
    ("名前", -1.5, "ab", True),
    ("x\ny", None, 'bell\a, "é"\r', None),
    ("", Decimal("2.50"), "👍🏽 ok", False),
]


@pytest.mark.parametrize("rows", [WIDE, WIDE[:1], [], [(None,) * 4]])
def test_a_table_that_goes_to_no_terminal_is_rich_s_on_an_unlimited_width(rows: list[tuple[Any, ...]]) -> None:
    columns = ["name", "a long header", "text of two", "flag"]
    cells = [[_flat(_cell(value)) for value in row] for row in rows]
    numeric = [False, bool(rows), False, False]
    plain = [line.rstrip() for line in _whole(columns, cells, numeric)]
    assert plain == [line.rstrip() for line in _folded(columns, cells, numeric, width=1000)]
