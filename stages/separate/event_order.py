"""The order of a call's events: repeats are dropped, early events held, holes declared missing when waiting ends.

After a restart, events from the checkpoint's `released` on are delivered again. Those below `fresh_from` were taken
before the checkpoint and are only replayed. The checkpoint says which of them are missing, so the replay decides
nothing.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from schemas.audio import AudioChunk, AudioEvent, UnusableUpdate
from stages.protocol import Event

MAX_HELD_EVENTS: Final = 64
MAX_HELD_BYTES: Final = 4_000_000
MAX_AHEAD: Final = 100_000
"""Numbers further ahead are rejected: at 20 ms a chunk this is half an hour of audio."""

MAX_REMEMBERED: Final = 1_000
"""Number of holes of a call that are remembered, to tell a late event from a repeat."""


class Held(msgspec.Struct, frozen=True):
    """An event with its number."""

    seq: int
    record: AudioEvent
    event: Event


class Missing(msgspec.Struct, frozen=True, array_like=True):
    """Missing events: the number of the first, how many, and the frames of silence in their place."""

    first_seq: int
    events: int
    frames: int


class EventOrder:
    """Puts events in order. `cursor` is the number of the next event to hand out, `highest` the highest so far."""

    def __init__(
        self, *, cursor: int = 0, fresh_from: int = 0, highest: int = -1, missing: list[Missing] | None = None
    ) -> None:
        self.cursor = cursor
        self.fresh_from = fresh_from
        self.highest = highest
        self.missing = list(missing or [])
        self._held: dict[int, Held] = {}
        self._held_bytes = 0

    @property
    def is_fresh(self) -> bool:
        """True if the next event to hand out is no replay."""
        return self.cursor >= self.fresh_from

    @property
    def is_full(self) -> bool:
        fresh = sum(1 for seq in self._held if seq >= self.fresh_from)
        return self.is_fresh and (fresh > MAX_HELD_EVENTS or self._held_bytes > MAX_HELD_BYTES)

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def is_late(self, seq: int) -> bool:
        """Return True if the event was declared missing before it arrived."""
        if seq >= self.cursor and seq >= self.fresh_from:
            return False
        return any(gap.first_seq <= seq < gap.first_seq + gap.events for gap in self.missing)

    def is_repeat(self, seq: int) -> bool:
        return seq < self.cursor or seq in self._held

    def hold(self, record: AudioEvent, event: Event) -> None:
        """Hold an event that is neither late nor a repeat."""
        self._held[event.seq] = Held(event.seq, record, event)
        self._held_bytes += _size(record)
        self.highest = max(self.highest, event.seq)

    def ready(self) -> Iterator[Held | Missing]:
        """Yield all items that are in order now. An item counts as handed out once the next one is requested."""
        while True:
            gap = next((gap for gap in reversed(self.missing) if gap.first_seq == self.cursor), None)
            if gap is not None:
                yield gap
                self.cursor += gap.events
            elif self.cursor in self._held:
                held = self._held.pop(self.cursor)
                self._held_bytes -= _size(held.record)
                yield held
                self.cursor += 1
            else:
                return

    def next_held_chunk(self) -> AudioChunk | None:
        """Return the first held chunk of audio, which follows a hole; None if no chunk is held."""
        chunks = (self._held[seq].record for seq in sorted(self._held))
        return next((chunk for chunk in chunks if isinstance(chunk, AudioChunk)), None)

    def give_up_next(self, frames_per_event: int) -> None:
        """Declare the events between the cursor and the first held event missing. Does nothing if no event is held.

        A hole ends at `fresh_from` at the latest, so that replayed and fresh events never share one.
        """
        if not self._held:
            return
        end = min(self._held)
        if self.cursor < self.fresh_from:
            end = min(end, self.fresh_from)
        if end > self.cursor:
            self.missing.append(Missing(self.cursor, end - self.cursor, (end - self.cursor) * frames_per_event))
            if len(self.missing) > MAX_REMEMBERED:
                del self.missing[0]

    def release_held(self) -> list[Held]:
        """Remove all held events and return them in order."""
        held = [self._held[seq] for seq in sorted(self._held)]
        self._held.clear()
        self._held_bytes = 0
        return held


def _size(record: AudioEvent) -> int:
    if isinstance(record, UnusableUpdate):
        return len(record.value)
    return len(record.data) if isinstance(record, AudioChunk) else 0
