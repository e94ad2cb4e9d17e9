"""Trace context that travels with records in the `traceparent` header.

OpenTelemetry reads the header (W3C Trace Context, Recommendation of 23 November 2021). Span ids are hashes of what they
name, not random, so that a record published again after a crash carries the same header.

Import this where a header is read or made, not at the top of a module: OpenTelemetry costs 20 ms of CPU time, and most
commands publish nothing.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from opentelemetry.trace import (
    SpanContext,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_HEADER: Final = "traceparent"
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def root(event_id: str) -> SpanContext:
    """Return the first span of the trace that begins with the record `event_id`, for a producer that sent none."""
    return SpanContext(_hashed(event_id, 16), _hashed(event_id, 8), is_remote=False, trace_flags=_SAMPLED)


def child(parent: SpanContext, event_id: str) -> SpanContext:
    """Return the span of the record `event_id` that `parent`'s record led to: the same for the same record.

    Of the parent's flags it keeps the sampled one: version 00 of the header defines no other.
    """
    name = f"{format_trace_id(parent.trace_id)}/{format_span_id(parent.span_id)}/{event_id}"
    flags = _SAMPLED if parent.trace_flags.sampled else _NOT_SAMPLED
    return SpanContext(parent.trace_id, _hashed(name, 8), is_remote=False, trace_flags=flags)


@lru_cache(maxsize=1024)
def parse(header: str) -> SpanContext | None:
    """Return the span of a `traceparent` header, None where the standard says to ignore it."""
    span = get_current_span(_PROPAGATOR.extract({_HEADER: header})).get_span_context()
    return span if span.is_valid else None


def header_of(span: SpanContext) -> str:
    """Return the `traceparent` header of a span, version 00, as OpenTelemetry's propagator writes it in 5 us more."""
    return f"00-{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}-{span.trace_flags:02x}"


def continued(header: str | None, event_id: str) -> str:
    """Return the header of the record `event_id`: a child of `header`'s span, or a trace of its own without one."""
    parent = parse(header) if header else None
    return header_of(child(parent, event_id) if parent else root(event_id))


def trace_id_of(header: str) -> str | None:
    """Return the trace id of a header in hexadecimal digits, for logs; None where the standard says to ignore it."""
    span = parse(header)
    return format_trace_id(span.trace_id) if span else None


def _hashed(text: str, n_bytes: int) -> int:
    """Return an id of `n_bytes` bytes that is not 0, which the standard forbids."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=n_bytes).digest()) or 1
