"""CloudEvents 1.0 in binary and structured mode: the form of records for clients that use none of our code.

Header names have their Kafka form (`ce_id`) throughout; the JetStream bus translates to and from `ce-id`.
Source: CloudEvents 1.0.2, Kafka protocol binding (sections 3.2 and 3.3) and JSON event format.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from schemas import languages
from schemas.audio import (
    CHUNK_TYPE,
    ENDED_TYPE,
    IDLE_TYPE,
    MAX_CHANNELS,
    MAX_CHUNK_BYTES,
    MAX_HOTWORD_CHARACTERS,
    MAX_HOTWORDS,
    MAX_JSON_BYTES,
    MAX_METADATA_DEPTH,
    MAX_ROLE_CHARACTERS,
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    OVERDUE_TYPE,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
    AudioChunk,
    AudioEvent,
    AudioRecord,
    CallEnded,
    CallIdle,
    CallOverdue,
    CallStarted,
    CallUpdated,
    CallWatched,
    UnusableUpdate,
)
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.event_numbers import EPOCH_EVENTS, MAX_EPOCH, callseq_of, epoch_of, event_number

CONTENT_TYPE_HEADER: Final = "content-type"
JSON_TYPE: Final = "application/json"
BYTES_TYPE: Final = "application/octet-stream"
STRUCTURED_TYPE: Final = "application/cloudevents+json"

_ATTRIBUTES: Final = (
    "id",
    "source",
    "type",
    "subject",
    "specversion",
    "time",
    "tenant",
    "callseq",
    "callepoch",
    "partitionkey",
)
_HEADERS: Final = tuple((name, f"ce_{name}") for name in _ATTRIBUTES)
_JsonEvent = CallStarted | CallUpdated | CallEnded | CallIdle | CallOverdue | CallWatched
_JSON_EVENTS: Final[dict[str, type[_JsonEvent]]] = {
    STARTED_TYPE: CallStarted,
    UPDATED_TYPE: CallUpdated,
    ENDED_TYPE: CallEnded,
    IDLE_TYPE: CallIdle,
    OVERDUE_TYPE: CallOverdue,
    WATCHED_TYPE: CallWatched,
}


class IncomingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded event. `seq` is its number (see `schemas.event_numbers`); None for a `CallWatched`, which has none."""

    call: CallRef
    seq: int | None
    event_id: str
    source: str
    event: AudioRecord


def headers(
    *, event_id: str, event_type: str, call: CallRef, seq: int | None, source: str, content_type: str
) -> dict[str, str]:
    """Return the headers of a record in binary mode; `seq` is None for an unnumbered one."""
    return {
        CONTENT_TYPE_HEADER: content_type,
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": source,
        "ce_type": event_type,
        "ce_subject": call.call_id,
        "ce_tenant": call.tenant,
        **({} if seq is None else {"ce_callseq": str(seq)}),
    }


def encode_audio_event(event: AudioEvent, *, call: CallRef, seq: int, source: str) -> tuple[dict[str, str], bytes]:
    """Return headers and value of the producer's event of number `seq` (see `schemas.event_numbers`).

    Its id is made of call and number, so a resend repeats it.
    """
    if isinstance(event, AudioChunk):
        event_type, content_type, value = CHUNK_TYPE, BYTES_TYPE, event.data
    elif isinstance(event, UnusableUpdate):
        event_type, content_type, value = UPDATED_TYPE, JSON_TYPE, event.value
    else:
        event_type = next(name for name, kind in _JSON_EVENTS.items() if isinstance(event, kind))
        content_type, value = JSON_TYPE, msgspec.json.encode(event)
    epoch, callseq = epoch_of(seq), callseq_of(seq)
    event_id = f"{call.tenant}/{call.call_id}/{f'{epoch}.' if epoch else ''}{callseq}"
    made = headers(
        event_id=event_id, event_type=event_type, call=call, seq=callseq, source=source, content_type=content_type
    )
    if epoch:
        made["ce_callepoch"] = str(epoch)
    return made, value


def encode_watch(watched: CallWatched, *, call: CallRef, event_id: str, source: str) -> tuple[dict[str, str], bytes]:
    """Return headers and value of a request for partials. Use a new `event_id` each time: brokers drop repeats."""
    return (
        headers(event_id=event_id, event_type=WATCHED_TYPE, call=call, seq=None, source=source, content_type=JSON_TYPE),
        msgspec.json.encode(watched),
    )


def decode_audio_event(record_headers: Mapping[str, str], key: bytes, value: bytes) -> IncomingEvent:
    """Decode a record of an audio topic, in either mode. Raises ValueError with the reason."""
    given = {name.lower(): text for name, text in record_headers.items()}
    content_type = given.get(CONTENT_TYPE_HEADER, "").partition(";")[0].strip().lower()
    if content_type == STRUCTURED_TYPE:
        attributes, data = _structured(value)
    else:
        attributes = {name: given[header] for name, header in _HEADERS if header in given}
        data = value
    numbered = attributes.get("type") != WATCHED_TYPE
    for name in ("id", "source", "type", "specversion", *(("callseq",) if numbered else ())):
        if not attributes.get(name):
            raise ValueError(f"the CloudEvents attribute {name!r} is missing")
    if attributes["specversion"] != "1.0":
        raise ValueError(f"CloudEvents specversion {attributes['specversion']!r} is not 1.0")
    return IncomingEvent(
        call=_call(attributes, key),
        seq=_event_number(attributes) if numbered else None,
        event_id=attributes["id"],
        source=attributes["source"],
        event=_event(attributes["type"], data),
    )


def _structured(value: bytes) -> tuple[dict[str, str], bytes]:
    try:
        envelope: dict[str, Any] = msgspec.json.decode(value, type=dict[str, Any])
        data = (
            base64.b64decode(envelope["data_base64"], validate=True)
            if "data_base64" in envelope
            else msgspec.json.encode(envelope.get("data"))
        )
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the structured CloudEvent cannot be read: {error}") from error
    return {name: str(envelope[name]) for name in _ATTRIBUTES if envelope.get(name) is not None}, data


def _call(attributes: dict[str, str], key: bytes) -> CallRef:
    """Return the call of `ce_subject`, else of the key. Another key is rejected: it would lose the order of events."""
    call_id = attributes.get("subject")
    if not call_id:
        try:
            call_id = key.decode()
        except UnicodeDecodeError as error:
            raise ValueError("there is no ce_subject and the key is not UTF-8") from error
    call = CallRef.checked(attributes.get("tenant", DEFAULT_TENANT), call_id)
    if key not in (call_id.encode(), call.key):
        raise ValueError(f"the key is not the call id {call_id!r}")
    return call


def _event_number(attributes: dict[str, str]) -> int:
    callseq = _whole_number("callseq", attributes["callseq"], EPOCH_EVENTS - 1)
    epoch = attributes.get("callepoch")
    return callseq if epoch is None else event_number(_whole_number("callepoch", epoch, MAX_EPOCH), callseq)


def _whole_number(name: str, text: str, highest: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or (number := int(text)) > highest:
        raise ValueError(f"{name} {text[:100]!r} is not a whole number up to {highest}")
    return number


def _event(event_type: str, data: bytes) -> AudioRecord:
    if event_type == CHUNK_TYPE:
        if len(data) > MAX_CHUNK_BYTES:
            raise ValueError(f"the chunk has {len(data)} bytes, more than {MAX_CHUNK_BYTES}")
        return AudioChunk(data=data)
    kind = _JSON_EVENTS.get(event_type)
    if kind is None:
        known = [name for name in (*_JSON_EVENTS, CHUNK_TYPE) if name != OVERDUE_TYPE]
        raise ValueError(f"event type {event_type[:100]!r} is not one of {known}")
    try:
        return _json_event(event_type, kind, data)
    except ValueError as error:
        if event_type == UPDATED_TYPE:
            return UnusableUpdate(value=data, error=str(error))
        raise


def _json_event(event_type: str, kind: type[_JsonEvent], data: bytes) -> _JsonEvent:
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"the value of {event_type} has {len(data)} bytes, more than {MAX_JSON_BYTES}")
    try:
        event: _JsonEvent = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the value of {event_type} cannot be read: {error}") from error
    if isinstance(event, CallStarted):
        _check_start(event)
    elif isinstance(event, CallUpdated):
        _check_update(event)
    return event


def _check_start(start: CallStarted) -> None:
    if not 1 <= start.channels <= MAX_CHANNELS:
        raise ValueError(f"channels must be 1 to {MAX_CHANNELS}, it is {start.channels}")
    if not MIN_SAMPLE_RATE_HZ <= start.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise ValueError(
            f"sample_rate_hz must be {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}, it is {start.sample_rate_hz}"
        )
    _check_roles(start.roles)
    _check_language(start.language)
    _check_hotwords(start.hotwords)
    _check_metadata(start.metadata)


def _check_update(update: CallUpdated) -> None:
    if update.language is not UNSET:
        _check_language(update.language)
    if isinstance(update.hotwords, list):
        _check_hotwords(update.hotwords)


def _check_roles(roles: list[str]) -> None:
    """Raise ValueError for names that could pass for more than a name before a speaker's words."""
    if len(roles) > MAX_CHANNELS or any(len(role) > MAX_ROLE_CHARACTERS or not role.isprintable() for role in roles):
        raise ValueError(
            f"roles must be at most {MAX_CHANNELS}, each one line of at most {MAX_ROLE_CHARACTERS} printable characters"
        )


def _check_language(language: str | None) -> None:
    if language is not None and not languages.is_known(language):
        raise ValueError(f"language {language[:100]!r} is not a code of a language that Whisper knows, nor null")


def _check_hotwords(hotwords: list[str]) -> None:
    if len(hotwords) > MAX_HOTWORDS or any(len(word) > MAX_HOTWORD_CHARACTERS for word in hotwords):
        raise ValueError(
            f"hotwords must be at most {MAX_HOTWORDS}, of at most {MAX_HOTWORD_CHARACTERS} characters each"
        )


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Raise ValueError for JSON that some later record, column or reader cannot hold."""
    level: list[Any] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in level):
            raise ValueError("metadata holds a whole number of more than 64 bits")
        if not level:
            return
    raise ValueError(f"metadata is nested deeper than {MAX_METADATA_DEPTH}")
