"""Outputs of the separate stage besides utterances: ledger entries, and dead letters of events that it held."""

from collections.abc import Iterator
from typing import Any

from schemas import cloudevents, topics
from schemas.calls import CallRef
from schemas.event_numbers import callseq_of
from schemas.status import DEAD_LETTER_TYPE, JobState, dead_letter, letter_id
from stages.ledger import ledger_entry
from stages.protocol import Output
from stages.separate.event_order import Held

NAME = "separate"


def entry(call: CallRef, status: JobState, detail: dict[str, Any], *, at: float, what: str) -> Output:
    """Return an entry of the call's ledger; `what` is the last part of its id."""
    return ledger_entry(call, "separate", status, detail, at=at, event_id=call.event_id(NAME, what))


def rejections(call: CallRef, held: list[Held], message: str) -> Iterator[Output]:
    """Yield a dead letter and a ledger entry for each held event that can no longer be used.

    The letter's value and headers are those with which a producer would send the event again.
    """
    for item in held:
        headers, value = cloudevents.encode_audio_event(
            item.record, call=call, seq=item.seq, source=item.event.source or f"callstream/{NAME}"
        )
        origin = item.event.origin
        letter = dead_letter(
            stage=NAME,
            topic=origin.topic,
            partition=origin.partition,
            position=origin.position,
            key=origin.key,
            value=value,
            headers={**headers, "ce_id": item.event.event_id},
            error="RejectedInput",
            message=message,
            attempts=1,
            at=item.event.timestamp_s,
        )
        yield Output(
            topic=topics.DEAD_LETTERS,
            record=letter,
            event_id=letter_id(NAME, origin.topic, origin.partition, origin.position),
            event_type=DEAD_LETTER_TYPE,
        )
        detail = {"error": message, "seq": callseq_of(item.seq)}
        yield entry(call, "rejected", detail, at=item.event.timestamp_s, what=f"rejected/{item.seq}/{origin.position}")
