"""What the summarize stage publishes on `calls.summaries`, as JSON for anyone to read."""

from typing import Literal

import msgspec

SUMMARY_TYPE = "callstream.summary"


class KeyPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a summary and the segments that it rests on; every id exists in the call's transcript."""

    text: str
    segment_ids: list[str]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of a call. `method` says whether a language model wrote it or sentences were picked from the call."""

    tenant: str
    call_id: str
    kind: Literal["rolling", "final"]
    revision: int
    text: str
    key_points: list[KeyPoint]
    sentiment: Literal["positive", "neutral", "negative", "mixed"] | None
    """None where the method does not judge it (extractive)."""
    actions: list[str]
    topics: list[str]
    method: Literal["llm", "extractive"]
    model: str
    detail: str = ""
    """Why this method: empty, or why no language model was used."""
