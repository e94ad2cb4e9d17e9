"""The sink stage: writes all published records into the warehouse, in batches that are flushed, then acknowledged."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from schemas.calls import CallRef
from schemas.status import EXPIRED_TYPE, JOB_TYPE, JobStatus, RecordsExpired
from schemas.summaries import SUMMARY_TYPE, Summary
from schemas.topics import STATUS, SUMMARIES, TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn
from stages.errors import RejectedInput
from stages.protocol import Output
from stages.sink import rows
from stages.sink.batch import Arrival, Batch, Changes, Stored

_RECORD_TYPES: Final[
    dict[tuple[str, str], type[Turn] | type[TranscriptCompleted] | type[Summary] | type[JobStatus]]
] = {
    (TRANSCRIPTS, TURN_TYPE): Turn,
    (TRANSCRIPTS, COMPLETED_TYPE): TranscriptCompleted,
    (SUMMARIES, SUMMARY_TYPE): Summary,
    (STATUS, JOB_TYPE): JobStatus,
}


class Store(Protocol):
    """Stores rows; implemented by `stages.sink.tables.Tables`."""

    def load(self, session_ids: Sequence[uuid.UUID]) -> Stored: ...

    def apply(self, changes: Changes) -> None:
        """Store all changes durably, or raise an error and store none."""
        ...


def _ignored() -> None:
    pass


class SinkStage:
    """Stores the records of all calls in batches. Call `write` from one thread.

    `lost` is called, from that thread, when the store has new rows about records that expired unread.
    """

    name = "sink"
    topics = (TRANSCRIPTS, SUMMARIES, STATUS)

    def __init__(self, store: Store, *, lost: Callable[[], None] = _ignored) -> None:
        self._store = store
        self._lost = lost

    def decode(
        self, topic: str, headers: Mapping[str, str], value: bytes, timestamp_s: float
    ) -> Arrival | RecordsExpired:
        """Decode a record of one of `topics`; `timestamp_s` is the bus's Unix time of it.

        Raises RejectedInput for anything that could make a whole batch fail later.
        """
        record_type = headers.get("ce_type", "")
        if (topic, record_type) == (STATUS, EXPIRED_TYPE):
            return _expired(value)
        kind = _RECORD_TYPES.get((topic, record_type))
        if kind is None:
            raise RejectedInput(f"record type {record_type!r} is not known on {topic}")
        number = headers.get("ce_callseq", "0")
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise RejectedInput(f"ce_callseq {number!r} is not a whole number")
        try:
            record: Turn | TranscriptCompleted | Summary | JobStatus = msgspec.json.decode(value, type=kind)
            call = CallRef.checked(record.tenant, record.call_id)
            _check(record, call)
        except (msgspec.MsgspecError, ValueError, OverflowError, OSError, RecursionError) as error:
            raise RejectedInput(f"the value of {record_type} cannot be used: {error}") from error
        return Arrival(call=call, record=record, seq=int(number), at_s=timestamp_s)

    def write(self, records: Sequence[Arrival | RecordsExpired]) -> list[Output]:
        """Store the batch; on return it is durable. If the store raises, nothing was stored.

        Returns a ledger entry for each completed transcript and each final summary that is now stored. They must be
        published before the batch is acknowledged: a replay of the batch returns the same ones.
        """
        calls = {record.call.session_id for record in records if isinstance(record, Arrival)}
        batch = Batch(self._store.load(sorted(calls)))
        for record in records:
            batch.add(record)
        self._store.apply(batch.changes)
        if batch.changes.expired:
            self._lost()
        return batch.outputs


_MAX_INTEGER = 2**31 - 1
_MAX_POSITION = 2**63 - 1


def _expired(value: bytes) -> RecordsExpired:
    try:
        record = msgspec.json.decode(value, type=RecordsExpired)
        rows.utc(record.at)
        _check_integers(record.partition, record.calls)
        if not 0 <= record.first <= record.last <= _MAX_POSITION:
            raise ValueError(f"there are no positions from {record.first} to {record.last}")
    except (msgspec.MsgspecError, ValueError, OverflowError, OSError, RecursionError) as error:
        raise RejectedInput(f"the value of {EXPIRED_TYPE} cannot be used: {error}") from error
    return record


def _check(record: Turn | TranscriptCompleted | Summary | JobStatus, call: CallRef) -> None:
    """Raise ValueError or OverflowError for values that a column cannot hold."""
    match record:
        case Turn():
            _check_turn(record, call, record.revision)
        case TranscriptCompleted():
            if not 1 <= record.part <= record.parts <= 100_000:
                raise ValueError(f"part {record.part} of {record.parts} does not exist")
            _check_integers(record.revision, record.utterances, *(gap.events for gap in record.gaps))
            _check_integers(record.metrics.interruptions, *(c.interruptions for c in record.metrics.channels))
            _check_integers(*(one.channel for one in record.unheard))
            for turn in record.turns:
                _check_turn(turn, call, record.revision)
        case Summary():
            _check_integers(record.revision)
        case JobStatus():
            rows.utc(record.at)


def _check_turn(turn: Turn, call: CallRef, revision: int) -> None:
    uuid.UUID(turn.turn_id)
    _check_integers(turn.channel, turn.revision)
    if (turn.tenant, turn.call_id) != (call.tenant, call.call_id) or turn.revision > revision:
        raise ValueError(f"turn {turn.turn_id} belongs to another call or revision")


def _check_integers(*values: int) -> None:
    if not all(0 <= value <= _MAX_INTEGER for value in values):
        raise ValueError(f"a number of {values} is below 0 or above {_MAX_INTEGER}")
