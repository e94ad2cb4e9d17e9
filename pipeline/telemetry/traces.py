"""Trace context that travels with records in the `traceparent` header.

Source: W3C Trace Context, Recommendation of 23 November 2021, sections 3.2 (the header) and 4 (what to do with it).
Ids are hashes of what they name, not random, so that a record published again after a crash carries the same header.
"""

import re
from functools import lru_cache
from hashlib import blake2b

import msgspec

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


class TraceContext(msgspec.Struct, frozen=True):
    """One span of a trace. `trace_id` has 32 and `span_id` 16 lower-case hexadecimal digits, neither all zeros."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def header(self) -> str:
        """The `traceparent` value, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"

    def child(self, event_id: str) -> "TraceContext":
        """The span of the record `event_id` that this span's record led to: the same for the same record."""
        return TraceContext(self.trace_id, _hexadecimal(f"{self.trace_id}/{self.span_id}/{event_id}", 8), self.sampled)


def root(event_id: str) -> TraceContext:
    """The trace that begins with the record `event_id`, for a producer that sent none."""
    return TraceContext(_hexadecimal(event_id, 16), _hexadecimal(event_id, 8))


@lru_cache(maxsize=1024)
def parse(header: str) -> TraceContext | None:
    """The context of a `traceparent` header, or None where the standard says to ignore it."""
    match = _HEADER.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def continued(header: str | None, event_id: str) -> str:
    """The header of the record `event_id`: a child of `header`'s span where that is usable, else a trace of its own."""
    parent = parse(header) if header else None
    return (parent.child(event_id) if parent else root(event_id)).header


def _hexadecimal(text: str, n_bytes: int) -> str:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=n_bytes).digest()
    return digest.hex() if any(digest) else "1".zfill(2 * n_bytes)
