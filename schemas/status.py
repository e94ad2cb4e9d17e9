"""Records on `calls.status` (the ledger) and `calls.dead-letters`, which every stage publishes as JSON."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

JOB_TYPE = "callstream.job"
DEAD_LETTER_TYPE = "callstream.dead-letter"
RESOLVED_TYPE = "callstream.dead-letter.resolved"
EXPIRED_TYPE = "callstream.records.expired"

MAX_LETTER_BYTES: Final = 640_000
"""Most bytes of a rejected value in a letter. Base64 makes it a third larger, and a letter must stay under 900 KB of
JSON: brokers accept up to 8 MB from producers, but the default record limit of Kafka and its clients is 1 MB."""
MAX_LETTER_KEY_BYTES: Final = 4_096
MAX_LETTER_HEADERS_BYTES: Final = 16_000
"""Most bytes of the rejected record's headers in a letter, as JSON."""
MAX_MESSAGE_CHARACTERS: Final = 4_000

JOBS: Final = ("merge", "separate", "sink", "summarize", "transcribe")
"""The jobs of every call, as published. A stage that is added later may write entries of its own."""
Job = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(JOBS)})]
JobState = Literal["started", "completed", "failed", "gap", "rejected", "retrying", "updated", "expired"]


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a call's ledger. `detail` holds figures of the job (seconds, counts, positions)."""

    tenant: str
    call_id: str
    job: Job
    status: JobState
    detail: dict[str, Any]
    at: float
    """Unix time in seconds of the record that caused the entry, so that a replay gives the same bytes."""


class RecordsExpired(msgspec.Struct, frozen=True, kw_only=True):
    """Records of a partition that the broker deleted, because of their age, before `group` had read them.

    They are those at the positions from `first` to `last`. Of the calls that they belong to, `calls` could be named:
    each has an entry of status `expired` in its ledger.
    """

    stage: str
    group: str
    topic: str
    partition: int
    first: int
    last: int
    calls: int
    at: float
    """Unix time in seconds at which this was found."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a stage could not use, with its origin and the reason.

    `key` and `value` are base64 in JSON, as msgspec encodes bytes. A record too large for a letter is truncated:
    `value` is then the beginning, `value_bytes` the full length, and `cut` is true. The whole record is only at its
    origin, for as long as `topic` retains it.
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
    cut: bool = False


class LetterResolved(msgspec.Struct, frozen=True, kw_only=True):
    """An operator resolved a dead letter: put the record back on its topic, or dropped it.

    It applies to the letter stored at `position` of the same partition. The same letter stored after that is open
    again.
    """

    letter_id: str
    position: int
    action: Literal["replayed", "dropped"]
    at: float
    """Unix time in seconds."""
    letter: DeadLetter | UnsetType = UNSET
    """The letter without its value, if it was dropped and so deleted from the topic."""


def dead_letter(
    *,
    stage: str,
    topic: str,
    partition: int,
    position: int,
    key: bytes,
    value: bytes,
    headers: Mapping[str, str],
    error: str,
    message: str,
    attempts: int,
    at: float,
) -> DeadLetter:
    """Return the letter of a record, truncated to the limits of a letter."""
    kept, room = {}, MAX_LETTER_HEADERS_BYTES
    for name, text in sorted(headers.items(), key=lambda header: len(header[0]) + len(header[1])):
        room -= len(msgspec.json.encode({name: text}))
        if room < 0:
            break
        kept[name] = text
    return DeadLetter(
        stage=stage,
        topic=topic,
        partition=partition,
        position=position,
        key=key[:MAX_LETTER_KEY_BYTES],
        value=value[:MAX_LETTER_BYTES],
        value_bytes=len(value),
        headers=kept,
        error=error,
        message=message[:MAX_MESSAGE_CHARACTERS],
        attempts=attempts,
        at=at,
        cut=len(key) > MAX_LETTER_KEY_BYTES or len(value) > MAX_LETTER_BYTES or len(kept) < len(headers),
    )


def letter_id(stage: str, topic: str, partition: int, position: int) -> str:
    """Return a letter's id. A replay repeats it; the same event at another position has another one."""
    return f"{stage}/{topic}/{partition}/{position}"
