"""What is done about each event that a call is sent: it is taken, or a repeat, or in conflict with what was taken."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from schemas.audio import AudioEvent, CallStarted
from schemas.event_numbers import callseq_of, epoch_of
from stages.errors import RejectedInput
from stages.protocol import Event
from stages.separate.event_order import EventOrder
from stages.separate.proofs import ProofRun

MAX_REFUSED: Final = 16
"""Refused producers that a call remembers, the last ones. Of an earlier one, events with new numbers are taken."""

Verdict = Literal["take", "repeat", "other start"]


class Refused(msgspec.Struct, frozen=True, array_like=True):
    """A producer whose start contradicts the call's: its events of `epoch` from position `since` on are refused.

    `source` is the digest of its CloudEvents source. In a later epoch, with a start like the call's, it may continue
    the call.
    """

    source: bytes
    epoch: int
    since: int


class Taken(msgspec.Struct, kw_only=True):
    """What tells repeats from other events of the same number.

    `position` is that of the last input that the state contains: what the bus delivers again up to there is no repeat
    of the producer's. `proofs` are those of the events that need no replay. Numbers below `unproven_below` were taken
    by a version that kept no proofs, and count as repeats.
    """

    position: int = -1
    start_seq: int = 0
    start_proof: bytes = b""
    proofs: list[ProofRun] = []
    refused: list[Refused] = []
    unproven_below: int = 0


class Admission:
    """Judges a call's events by what was taken of it before.

    What the bus delivers again, and the state that the call was opened from contains, was judged before: it is taken
    where a replay needs it, and gives no second dead letter.
    """

    def __init__(self, order: EventOrder, taken: Taken) -> None:
        self._order = order
        self._taken = taken
        self._known_to = taken.position

    def is_known(self, event: Event) -> bool:
        """Return True if the state that the call was opened from contains the event."""
        return event.origin.position <= self._known_to

    def verdict(self, record: AudioEvent, event: Event, proof: bytes, *, over_from: int | None) -> Verdict:
        """Judge an event; `over_from` is the first number after the call's end, None while it is open.

        Raises RejectedInput for an event that the call has no use for, or whose number another event has.
        """
        seq, number = event.seq, callseq_of(event.seq)
        if isinstance(record, CallStarted) != (number == 0):
            raise RejectedInput(
                f"event {number} is a {type(record).__name__}: a call's start, and only it, has number 0"
            )
        is_late = self._order.is_late(seq)
        if self.is_known(event):
            needed = not (is_late or over_from is not None or self._order.is_had(seq) or self._is_refused(event))
            return "take" if needed else "repeat"
        if self._is_refused(event):
            raise RejectedInput(f"event {number} belongs to a start that is not the call's")
        if is_late:
            raise RejectedInput(f"event {number} came after its place was filled with silence")
        if over_from is not None and seq >= over_from:
            raise RejectedInput(f"event {number} came after the call's end")
        if not self._order.is_had(seq):
            return "take"
        had = self._taken.start_proof if seq == self._taken.start_seq else self._order.proof(seq)
        if had == proof or (not had and seq < self._taken.unproven_below):
            return "repeat"
        if not had:
            raise RejectedInput(f"event {number} has a number that was used too long ago to prove it a repeat")
        if isinstance(record, CallStarted) and over_from is None:
            return "other start"
        raise RejectedInput(f"event {number} has the number of another event, with other content")

    def refuse(self, events: Sequence[Event]) -> None:
        """Refuse the producer of `events`: a start that contradicts the call's, and others that belong to it."""
        since = min(event.origin.position for event in events)
        refused = Refused(_digest(events[0].source), epoch_of(events[0].seq), since)
        self._taken.refused = [*self._taken.refused, refused][-MAX_REFUSED:]

    def _is_refused(self, event: Event) -> bool:
        if not self._taken.refused:
            return False
        source, epoch, position = _digest(event.source), epoch_of(event.seq), event.origin.position
        return any(one.source == source and one.epoch == epoch and one.since <= position for one in self._taken.refused)


def _digest(source: str) -> bytes:
    return blake2b(source.encode(errors="surrogatepass"), digest_size=8).digest()
