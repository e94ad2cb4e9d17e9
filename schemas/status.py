"""What every stage publishes on `calls.status` (the ledger) and on `calls.dead-letters`, as JSON."""

from typing import Any, Literal

import msgspec

JOB_TYPE = "callstream.job"
DEAD_LETTER_TYPE = "callstream.dead-letter"
MAX_LETTER_BYTES = 900_000
"""Of a rejected value: base64 makes it a third larger, and brokers take 8 MB from outside."""

Job = Literal["separate", "transcribe", "merge", "summarize", "sink"]
JobState = Literal["started", "completed", "failed", "gap", "rejected"]


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a call's ledger. `detail` holds the figures of the job (seconds, counts, positions)."""

    tenant: str
    call_id: str
    job: Job
    status: JobState
    detail: dict[str, Any]
    at: float
    """Unix time in seconds of the record that caused the entry, so that a replay gives the same bytes."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that no stage could use, with where it came from and why it failed.

    `key` and `value` are base64 in JSON, as msgspec encodes bytes. Of a value larger than `MAX_LETTER_BYTES` only the
    beginning is here; `value_bytes` is the length of all of it.
    """

    stage: str
    topic: str
    partition: int
    position: int
    key: bytes
    value: bytes
    value_bytes: int
    headers: dict[str, str]
    error: str
    message: str
    attempts: int
    at: float
