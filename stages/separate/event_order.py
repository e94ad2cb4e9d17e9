"""The order of a call's events: repeats are told by proof, early events held, holes declared missing when waiting ends.

After a restart, events from the checkpoint's `released` on are delivered again. Those below `fresh_from` were taken
before the checkpoint and are only replayed. The checkpoint says which of them are missing, so the replay decides
nothing.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from schemas.audio import AudioChunk, AudioEvent, CallStarted, UnusableUpdate
from schemas.event_numbers import epoch_of
from stages.protocol import Event, Waiting
from stages.separate.proofs import Proofs, proof_of

LATE_S: Final = 10.0
"""How long an event is waited for, in the bus's time, from the first later one on."""

MAX_HELD_BYTES: Final = 4_000_000
"""A hole is given up once the events after it take this much memory: 10 s at 48 kHz, two channels of 32 bits."""

MAX_REMEMBERED: Final = 1_000
"""Number of holes of a call that are remembered, to tell a late event from a repeat."""

_HELD_EVENT_BYTES: Final = 500
"""Memory of a held event besides its audio."""


class Held(msgspec.Struct, frozen=True):
    """An event with its number and the proof of its content."""

    seq: int
    record: AudioEvent
    event: Event
    proof: bytes = b""


class Missing(msgspec.Struct, frozen=True, array_like=True):
    """Missing events: the number of the first, how many, and the frames of silence in their place.

    From one epoch to the next it is not known how many there were: `events` then counts all numbers in between.
    """

    first_seq: int
    events: int
    frames: int

    @property
    def end_seq(self) -> int:
        """Number of the first event after them."""
        return self.first_seq + self.events

    @property
    def is_restart(self) -> bool:
        """True if the producer began a new epoch."""
        return epoch_of(self.first_seq) != epoch_of(self.end_seq)


class EventOrder:
    """Puts events in order. `cursor` is the number of the next event to hand out, `highest` the highest so far."""

    def __init__(
        self,
        *,
        cursor: int = 0,
        fresh_from: int = 0,
        highest: int = -1,
        missing: list[Missing] | None = None,
        proofs: Proofs | None = None,
    ) -> None:
        self.cursor = cursor
        self.fresh_from = fresh_from
        self.highest = highest
        self.missing = list(missing or [])
        self.proofs = proofs or Proofs()
        self._held: dict[int, Held] = {}
        """By number, in the order in which they came."""
        self._held_starts: set[int] = set()
        self._held_bytes = 0

    @property
    def is_fresh(self) -> bool:
        """True if the next event to hand out is no replay."""
        return self.cursor >= self.fresh_from

    @property
    def is_full(self) -> bool:
        return self.is_fresh and self._held_bytes > MAX_HELD_BYTES

    def is_overdue(self, now_s: float, late_s: float) -> bool:
        """Return True if the next event has been waited for longer than `late_s`, by the bus's time."""
        first = next(iter(self._held.values()), None)
        return first is not None and self.is_fresh and now_s - first.event.timestamp_s >= late_s

    def is_missing_below(self, seq: int) -> bool:
        """Return True if an event is waited for, and a later one below `seq` has come."""
        return self.cursor < seq and self.is_fresh and any(held < seq for held in self._held)

    def begin(self, seq: int) -> None:
        """Note that the call begins with event `seq`. Events that were rejected before it do not count as arrived."""
        self.highest = max([seq, *self._held])

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    @property
    def waiting(self) -> Waiting | None:
        return Waiting(self.cursor, self.highest + 1) if self._held and self.is_fresh else None

    def is_late(self, seq: int) -> bool:
        """Return True if the event was declared missing before it arrived."""
        if seq >= self.cursor and seq >= self.fresh_from:
            return False
        return any(gap.first_seq <= seq < gap.end_seq for gap in self.missing)

    def is_had(self, seq: int) -> bool:
        """Return True if an event of this number was handed out, given up or is held."""
        return seq < self.cursor or seq in self._held

    def proof(self, seq: int) -> bytes | None:
        """Return the proof of an event that was handed out or is held; None if it is not kept any more."""
        held = self._held.get(seq)
        return held.proof if held is not None else self.proofs.of(seq)

    def hold(self, record: AudioEvent, event: Event, proof: bytes = b"") -> None:
        """Hold an event that is neither late nor had."""
        self._held[event.seq] = Held(event.seq, record, event, proof or proof_of(record))
        self._held_bytes += _size(record)
        if isinstance(record, CallStarted):
            self._held_starts.add(event.seq)
        self.highest = max(self.highest, event.seq)

    def ready(self) -> Iterator[Held | Missing]:
        """Yield all items that are in order now. An item counts as handed out once the next one is requested.

        The start of a later epoch follows whatever was handed out last: of an earlier epoch nothing more comes.
        """
        while True:
            gap = next((gap for gap in reversed(self.missing) if gap.first_seq == self.cursor), None)
            if gap is not None:
                yield gap
                self.cursor = gap.end_seq
            elif self.cursor in self._held:
                held = self._held.pop(self.cursor)
                self._held_bytes -= _size(held.record)
                self._held_starts.discard(held.seq)
                self.proofs.add(held.seq, held.proof)
                yield held
                self.cursor = max(self.cursor, held.seq + 1)
            elif self._held_starts and self.is_fresh and (first := min(self._held)) in self._held_starts:
                self._begin_epoch(first)
            else:
                return

    def _begin_epoch(self, start_seq: int) -> None:
        if self.cursor == 0:
            self.cursor = start_seq
        else:
            self.missing.append(Missing(self.cursor, start_seq - self.cursor, 0))

    def next_held_chunk(self) -> AudioChunk | None:
        """Return the first held chunk of audio, which follows a hole; None if no chunk is held."""
        chunks = (self._held[seq].record for seq in sorted(self._held))
        return next((chunk for chunk in chunks if isinstance(chunk, AudioChunk)), None)

    def give_up_next(self, frames_per_event: int, max_frames: int) -> None:
        """Declare the events between the cursor and the first held event missing. Does nothing if no event is held.

        At most `max_frames` of silence take their place. A hole ends at `fresh_from` at the latest, so that replayed
        and fresh events never share one.
        """
        if not self._held:
            return
        end = min(self._held)
        if self.cursor < self.fresh_from:
            end = min(end, self.fresh_from)
        if end > self.cursor:
            gap = Missing(self.cursor, end - self.cursor, 0)
            if not gap.is_restart:
                gap = msgspec.structs.replace(gap, frames=min(gap.events * frames_per_event, max_frames))
            self.missing.append(gap)

    @property
    def remembers_too_many(self) -> bool:
        return len(self.missing) > MAX_REMEMBERED

    def forget_missing(self, below: int) -> None:
        """Keep the last `MAX_REMEMBERED` holes, and those that end above `below`, which a replay needs."""
        while self.remembers_too_many and self.missing[0].end_seq <= below:
            del self.missing[0]

    def pass_by(self, seq: int) -> None:
        """Wait for no event up to number `seq`. What has such a number from now on came too late."""
        self.cursor = max(self.cursor, seq + 1)

    def release_held(self, epoch: int | None = None) -> list[Held]:
        """Remove the held events, of one epoch if it is given, and return them in order."""
        seqs = [seq for seq in sorted(self._held) if epoch in (None, epoch_of(seq))]
        held = [self._held.pop(seq) for seq in seqs]
        self._held_starts.difference_update(seqs)
        self._held_bytes -= sum(_size(item.record) for item in held)
        return held


def _size(record: AudioEvent) -> int:
    if isinstance(record, UnusableUpdate):
        return len(record.value) + _HELD_EVENT_BYTES
    return (len(record.data) if isinstance(record, AudioChunk) else 0) + _HELD_EVENT_BYTES
