"""Trace context: W3C's header rules, and ids that a replay repeats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.telemetry.traces import TraceContext, continued, parse, root

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
hexadecimal = "0123456789abcdef"


def ids(n_digits: int) -> st.SearchStrategy[str]:
    return st.text(hexadecimal, min_size=n_digits, max_size=n_digits).filter(lambda digits: set(digits) != {"0"})


contexts = st.builds(TraceContext, ids(32), ids(16), st.booleans())


def test_the_standards_example_is_read() -> None:
    assert parse(HEADER) == TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
    assert parse(HEADER[:-2] + "00") == TraceContext(HEADER[3:35], HEADER[36:52], sampled=False)


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
    assert parse(continued(header, "event")) == root("event")


def test_a_later_versions_header_is_read_as_far_as_it_is_known() -> None:
    assert parse("cc" + HEADER[2:] + "-what-the-future-will-be-like") == parse(HEADER)


@given(contexts)
def test_a_context_survives_its_header(context: TraceContext) -> None:
    assert parse(context.header) == context


@given(contexts, st.text())
def test_a_child_keeps_the_trace_and_is_the_same_each_time(context: TraceContext, event_id: str) -> None:
    child = context.child(event_id)
    assert (child.trace_id, child.sampled) == (context.trace_id, context.sampled)
    assert child.span_id != context.span_id
    assert child == parse(context.header).child(event_id)  # type: ignore[union-attr]
    assert continued(context.header, event_id) == child.header


@given(st.text(), st.text())
def test_different_events_begin_different_traces(first: str, second: str) -> None:
    assert (root(first) == root(second)) == (first == second)


@given(st.text())
def test_any_header_text_gives_a_usable_header(header: str) -> None:
    assert parse(continued(header, "event")) is not None
