"""Trace context: W3C's header rules, and ids that a replay repeats."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext

from pipeline.cli.commands import COMMANDS
from pipeline.telemetry.traces import child, continued, header_of, parse, root, trace_id_of

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
hexadecimal = "0123456789abcdef"


def ids(n_digits: int) -> st.SearchStrategy[str]:
    return st.text(hexadecimal, min_size=n_digits, max_size=n_digits).filter(lambda digits: set(digits) != {"0"})


headers = st.builds("00-{}-{}-{}".format, ids(32), ids(16), st.sampled_from(["00", "01"]))


def parsed(header: str) -> SpanContext:
    span = parse(header)
    assert span is not None
    return span


def test_the_standards_example_is_read() -> None:
    span = parsed(HEADER)
    assert (span.trace_id, span.span_id) == (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7)
    assert span.trace_flags.sampled
    assert trace_id_of(HEADER) == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert not parsed(HEADER[:-2] + "00").trace_flags.sampled


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        HEADER.upper(),
        HEADER + "-more",
        "ff" + HEADER[2:],
        "00-" + "0" * 32 + HEADER[35:],
        HEADER[:36] + "0" * 16 + "-01",
        HEADER.replace("-", "_"),
        HEADER[:-1],
    ],
)
def test_what_the_standard_says_to_ignore_is_ignored(header: str) -> None:
    assert parse(header) is None
    assert trace_id_of(header) is None
    assert continued(header, "event") == header_of(root("event"))


def test_a_later_versions_header_is_read_as_far_as_it_is_known() -> None:
    assert parse("cc" + HEADER[2:] + "-what-the-future-will-be-like") == parse(HEADER)


@given(headers)
def test_a_span_survives_its_header(header: str) -> None:
    assert header_of(parsed(header)) == header


@given(headers, st.text())
def test_a_child_keeps_the_trace_and_is_the_same_each_time(header: str, event_id: str) -> None:
    parent = parsed(header)
    led_to = child(parent, event_id)
    assert (led_to.trace_id, led_to.trace_flags) == (parent.trace_id, parent.trace_flags)
    assert led_to.span_id != parent.span_id
    assert led_to == child(parent, event_id)
    assert continued(header, event_id) == header_of(led_to)


@pytest.mark.parametrize(
    ("header", "event_id", "following"),
    [
        (HEADER, "default/call-1/separate.1/3", "00-4bf92f3577b34da6a3ce929d0e0e4736-cd0c8bc2b353af36-01"),
        (HEADER[:-2] + "fe", "call-\ud800", "00-4bf92f3577b34da6a3ce929d0e0e4736-13cb238cf0805753-00"),
        (None, "default/call-1/0", "00-f41337ff459858adf54e0a3936f9578d-2fbd9dd0044c39bc-01"),
    ],
)
def test_published_headers_stay_as_they_are(header: str | None, event_id: str, following: str) -> None:
    assert continued(header, event_id) == following


@given(st.text(), st.text())
def test_different_events_begin_different_traces(first: str, second: str) -> None:
    assert (root(first) == root(second)) == (first == second)


@given(st.text())
def test_any_header_text_gives_a_usable_header(header: str) -> None:
    assert parse(continued(header, "event")) is not None


def test_commands_start_without_opentelemetry() -> None:
    modules = {f"pipeline.cli.{place.partition(':')[0]}" for place in COMMANDS.values()}
    code = f"import sys, {', '.join(sorted(modules))}; print('opentelemetry' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
