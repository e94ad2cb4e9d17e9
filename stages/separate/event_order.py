"""The order of a call's events: repeats dropped, early ones held, holes declared missing when waiting ends.

After a restart the events from the checkpoint's `released` on come again. Those below `fresh_from` were taken before
the checkpoint and are only replayed; which of them never came is in the checkpoint, so nothing is decided anew.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from schemas.audio import AudioChunk, AudioEvent, UnusableUpdate
from stages.protocol import Event

MAX_HELD_EVENTS: Final = 64
MAX_HELD_BYTES: Final = 4_000_000
MAX_AHEAD: Final = 100_000
"""A number further ahead than this is not believed: at 20 ms a chunk it is half an hour of audio."""

MAX_REMEMBERED: Final = 1_000
"""Holes of a call that are remembered to tell a late event from a repeat."""


class Held(msgspec.Struct, frozen=True):
    """An event in its place."""

    seq: int
    record: AudioEvent
    event: Event


class Missing(msgspec.Struct, frozen=True, array_like=True):
    """Events that never came: the first one's number, how many, and the audio frames of silence in their place."""

    first_seq: int
    events: int
    frames: int


class EventOrder:
    """`cursor` is the number of the next event to be handed out, `highest` of the furthest that has arrived."""

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
        """Whether what is handed out next was never taken before."""
        return self.cursor >= self.fresh_from

    @property
    def is_full(self) -> bool:
        fresh = sum(1 for seq in self._held if seq >= self.fresh_from)
        return self.is_fresh and (fresh > MAX_HELD_EVENTS or self._held_bytes > MAX_HELD_BYTES)

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def is_late(self, seq: int) -> bool:
        """Whether an event's place was given up before it came."""
        if seq >= self.cursor and seq >= self.fresh_from:
            return False
        return any(gap.first_seq <= seq < gap.first_seq + gap.events for gap in self.missing)

    def is_repeat(self, seq: int) -> bool:
        return seq < self.cursor or seq in self._held

    def hold(self, record: AudioEvent, event: Event) -> None:
        """Take an event that is neither late nor a repeat."""
        self._held[event.seq] = Held(event.seq, record, event)
        self._held_bytes += _size(record)
        self.highest = max(self.highest, event.seq)

    def ready(self) -> Iterator[Held | Missing]:
        """What is in order now. An item counts as handed out once the next one is asked for."""
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
        """The first audio behind a hole."""
        chunks = (self._held[seq].record for seq in sorted(self._held))
        return next((chunk for chunk in chunks if isinstance(chunk, AudioChunk)), None)

    def give_up_next(self, frames_per_event: int) -> None:
        """Declare missing what lies between the cursor and the first held event, if anything is held.

        A hole reaches to `fresh_from` at most, so that replayed and fresh events never share one.
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
        """Take out all that is held, in order."""
        held = [self._held[seq] for seq in sorted(self._held)]
        self._held.clear()
        self._held_bytes = 0
        return held


def _size(record: AudioEvent) -> int:
    if isinstance(record, UnusableUpdate):
        return len(record.value)
    return len(record.data) if isinstance(record, AudioChunk) else 0
