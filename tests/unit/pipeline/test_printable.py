"""What a terminal gets of others' text."""

import io
import json
import logging
import re

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from pipeline.cli.consoles import CleanConsole
from pipeline.cli.tables import render
from pipeline.client.exports import summary_lines, to_json, to_srt, to_txt, to_vtt
from pipeline.printable import escaped_json, json_text, one_line, without_controls
from pipeline.telemetry import logs

OSC = "\x1b]0;owned\x07"
HOSTILE = f"{OSC}\x9b31mred\u202egnp.exe\r\ncallstream: all calls deleted\u2028\x7f"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200e\u200f\u061c]")


@given(st.text())
def test_one_line_is_one_and_has_no_control_characters(text: str) -> None:
    made = one_line(text)
    assert len(made.splitlines()) <= 1
    assert not UNSAFE.search(made)
    assert one_line(made) == made


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp"])))
def test_text_without_controls_stays_as_it_is(text: str) -> None:
    assert without_controls(text) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_is_equal_when_it_is_read_and_safe_to_print(text: str) -> None:
    for made in (json_text([text]), json_text({text: text}, indent=2), escaped_json(json.dumps([text]))):
        assert not UNSAFE.search(made)
    assert json.loads(json_text([text])) == [text]


def test_text_of_a_script_that_runs_from_right_to_left_stays() -> None:
    assert one_line("  שלום   عليكم 👨‍👩‍👧 ") == "שלום عليكم 👨‍👩‍👧"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_has_a_line_for_each_row_and_no_controls(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    lines = render(["call", f"a{OSC}b"], [(HOSTILE, 1), ("x\ny", 2)], "table").split("\n")
    assert len(lines) == 2 + 2 + 1
    assert not UNSAFE.search("".join(lines))
    assert lines[3].split() == ["x", "y", "2"]


def test_csv_is_clean_on_a_terminal_and_exact_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HOSTILE in render(["a"], [(HOSTILE,)], "csv")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert not UNSAFE.search(render(["a"], [(HOSTILE,)], "csv"))


def test_json_of_rows_gives_the_exact_text_back() -> None:
    made = render(["a"], [(HOSTILE,)], "json")
    assert not UNSAFE.search(made)
    assert json.loads(made) == [{"a": HOSTILE}]


def test_a_console_prints_others_text_without_controls_and_its_own_colours() -> None:
    out = io.StringIO()
    console = CleanConsole(file=out, force_terminal=True, color_system="standard", width=200, soft_wrap=True)
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE))
    console.print(Text(HOSTILE, style="red"), HOSTILE, table, markup=False)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert printed != out.getvalue()
    assert not UNSAFE.search(printed)
    assert "red" in printed


def test_every_export_is_clean() -> None:
    turn = {"start_s": 0.0, "end_s": 1.0, "speaker": HOSTILE, "text": HOSTILE, "words": []}
    summary = {
        "method": "llm",
        "text": HOSTILE,
        "key_points": [{"text": HOSTILE}],
        "actions": [HOSTILE],
        "outcome": HOSTILE,
        "sentiment": "mixed",
        "sentiments": [{"speaker": HOSTILE, "sentiment": "mixed"}],
    }
    document = {
        "call_id": HOSTILE,
        "status": "completed",
        "duration_s": 1.0,
        "language": "en",
        "turns": [turn],
        "summary": summary,
        "gaps": [],
    }
    for made in (to_txt(document), to_vtt(document), to_srt(document), to_json(document), *summary_lines(summary)):
        assert not UNSAFE.search(made), made
        assert "\ncallstream: " not in made


@pytest.fixture
def logged() -> io.StringIO:
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger(logs.OUR_LOGGER)
    before = (list(root.handlers), root.level, ours.level)
    logs.configure("console", "info", stream)
    try:
        log = structlog.get_logger("callstream.test")
        log.info("started", call_id=HOSTILE, detail={"file": HOSTILE})
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
        logging.getLogger("library").warning("said %s", HOSTILE)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        logging.captureWarnings(False)
    return stream


def test_log_lines_for_people_are_clean(logged: io.StringIO) -> None:
    text = logged.getvalue()
    assert "call_id=" in text
    assert "ValueError" in text
    assert "said " in text
    assert not UNSAFE.search(text)
