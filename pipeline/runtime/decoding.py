"""From a bus record to what a stage takes: one decoder for each kind of topic."""

from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar

import msgspec

from pipeline.bus.protocol import Record
from schemas import cloudevents, envelope
from schemas.audio import AudioRecord
from schemas.calls import CallRef
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, TranscriptRecord, Turn
from stages.errors import RejectedInput
from stages.protocol import Event, Origin

T = TypeVar("T")


class Decoded(msgspec.Struct, frozen=True):
    """A record's call, its number in the call on its topic (None: it has none), its id, and what it says.

    `source` is that of an outside producer's event, else empty.
    """

    call: CallRef
    seq: int | None
    event_id: str
    content: Any
    source: str = ""

    def event(self, record: Record, seq: int) -> Event:
        """What a stage is told of `record`, from which this was decoded, as the input of number `seq`."""
        return Event(
            seq=seq,
            event_id=self.event_id,
            origin=Origin(record.topic, record.partition, record.position, record.key),
            timestamp_s=record.timestamp_s,
            size_bytes=record.size_bytes,
            source=self.source,
            producer_time=record.producer_time,
        )


Decoder = Callable[[Record], Decoded]
"""Raises RejectedInput for a record that cannot be read."""


def decode_audio(record: Record) -> Decoded:
    try:
        incoming = cloudevents.decode_audio_event(record.headers, record.key, record.value)
    except ValueError as error:
        raise RejectedInput(str(error)) from error
    event: AudioRecord = incoming.event
    return Decoded(incoming.call, incoming.seq, incoming.event_id, event, incoming.source)


def stage_records(kinds: UnionType | type) -> Decoder:
    """Return the decoder of a topic between stages that carries records of `kinds`."""

    def decode(record: Record) -> Decoded:
        try:
            content = envelope.decode(record.value)
        except msgspec.DecodeError as error:
            raise RejectedInput(f"not a stage record: {error}") from error
        if not isinstance(content, kinds):
            raise RejectedInput(f"{type(content).__name__} is no record of {record.topic}")
        seq = content.seq if isinstance(content, envelope.NumberedRecord) else None
        return Decoded(content.call, seq, record.headers.get("ce_id", ""), content)

    return decode


_PUBLISHED: dict[str, type[TranscriptRecord]] = {TURN_TYPE: Turn, COMPLETED_TYPE: TranscriptCompleted}


def decode_transcript(record: Record) -> Decoded:
    event_type = record.headers.get("ce_type", "")
    kind = _PUBLISHED.get(event_type)
    if kind is None:
        raise RejectedInput(f"{event_type!r} is no record of the transcripts topic")
    try:
        content: TranscriptRecord = msgspec.json.decode(record.value, type=kind)
        seq = int(record.headers["ce_callseq"])
    except (KeyError, ValueError, RecursionError) as error:
        raise RejectedInput(f"not a {event_type}: {error}") from error
    return Decoded(CallRef(content.tenant, content.call_id), seq, record.headers.get("ce_id", ""), content)
