"""Logs: one line per event, with the call it is about, whoever wrote it."""

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pipeline.telemetry import logs
from schemas.calls import CallRef

CALL = CallRef("default", "call-1")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.OUR_LOGGER)
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_carries_the_call_the_stage_and_the_event() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.bind_call(CALL, stage="merge")
    logs.bind_event("e-7", "abc")
    structlog.get_logger("callstream.runner").info("turn settled", turns=3)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "turn settled",
        "level": "info",
        "logger": "callstream.runner",
        "call_id": "call-1",
        "stage": "merge",
        "event_id": "e-7",
        "trace_id": "abc",
        "turns": 3,
    }


def test_binding_the_next_event_leaves_nothing_of_the_one_before() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.bind_call(CALL, stage="merge")
    logs.bind_event("e-7", "abc")
    logs.bind_event("e-8", None)
    structlog.get_logger("callstream.runner").info("next")
    (line,) = lines(stream)
    assert (line["call_id"], line["event_id"]) == ("call-1", "e-8")
    assert "trace_id" not in line


def test_binding_the_next_call_leaves_nothing_of_the_one_before() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.bind_call(CallRef("acme", "call-1"), stage="merge")
    logs.bind_event("e-7", "abc")
    logs.bind_call(CallRef("default", "call-2"), stage="sink")
    structlog.get_logger("callstream.runner").info("next")
    (line,) = lines(stream)
    assert line["call_id"] == "call-2"
    assert not {"tenant", "event_id", "trace_id"} & line.keys()


async def test_tasks_of_different_calls_do_not_see_each_others_context() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)

    async def work(call_id: str) -> None:
        logs.bind_call(CallRef("acme", call_id), stage="merge")
        await asyncio.sleep(0)
        structlog.get_logger("callstream.runner").info("worked", mine=call_id)

    await asyncio.gather(work("a"), work("b"))
    assert [(line["call_id"], line["tenant"]) for line in lines(stream)] == [("a", "acme"), ("b", "acme")]
    assert all(line["call_id"] == line["mine"] for line in lines(stream))


def test_a_librarys_lines_take_the_same_road_and_only_the_loud_ones() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.bind_call(CALL, stage="transcribe")
    logging.getLogger("faster_whisper").info("Processing audio with duration %s", "00:10")
    logging.getLogger("nats.aio").error("connection lost to %s", "broker")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["call_id"]) == ("connection lost to broker", "nats.aio", "call-1")


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_our_lines(level: logs.LogLevel, expected: int) -> None:
    stream = io.StringIO()
    logs.configure("json", level, stream)
    log = structlog.get_logger("callstream.test")
    for method in (log.debug, log.info, log.warning, log.error):
        method("said")
    assert len(lines(stream)) == expected


def test_configuring_again_replaces_the_former_handler() -> None:
    former, stream = io.StringIO(), io.StringIO()
    logs.configure("json", "info", former)
    logs.configure("json", "info", stream)
    structlog.get_logger("callstream.test").info("said once")
    assert former.getvalue() == ""
    assert len(lines(stream)) == 1


def test_an_exception_is_part_of_its_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise ValueError("wrong")
    except ValueError as error:
        structlog.get_logger("callstream.test").error("failed", exc_info=error)
    (line,) = lines(stream)
    assert "ValueError: wrong" in line["exception"]


def test_values_that_json_does_not_know_still_make_a_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    structlog.get_logger("callstream.test").info("odd", value={1}, name=b"\xff", file="\udcff")
    (line,) = lines(stream)
    assert line["value"] == "{1}"
    assert line["name"] == "b'\\xff'"


def test_python_warnings_are_logged_instead_of_printed(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("json", "info", stream)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    (line,) = lines(stream)
    assert line["logger"] == "py.warnings"
    assert "old way" in line["event"]
    assert capsys.readouterr().err == ""


def test_console_lines_are_for_people_and_have_no_colours_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info", sys.stderr)
    logs.bind_call(CALL, stage="merge")
    structlog.get_logger("callstream.runner").warning("channel silent", channel=1)
    text = capsys.readouterr().err
    assert "channel silent" in text
    assert "call_id=call-1" in text
    assert "\x1b" not in text
