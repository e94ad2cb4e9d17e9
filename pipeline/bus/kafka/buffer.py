"""A bound on the bytes between Faust's fetcher and the agent that reads."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

_RECORD_OVERHEAD_BYTES: Final = 1_000
_CHECK_EVERY_S: Final = 1.0


class StreamBuffer:
    """Bounds a stream's buffer by bytes: Faust counts records, whose sizes differ up to a thousandfold.

    A full buffer drains to one half before it admits more. So records pass in groups, and waiting for room costs little
    per record. A single record that is larger than the buffer passes. `is_empty` looks at Faust's own buffer, which
    Faust may discard.
    """

    def __init__(self, limit_bytes: int, is_empty: Callable[[], bool]) -> None:
        self._limit_bytes = limit_bytes
        self._is_empty = is_empty
        self._held_bytes = 0
        self._generation = -1
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def full(self) -> bool:
        return not self._has_room.is_set()

    async def room(self) -> None:
        """Wait for room."""
        while self.full:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._has_room.wait()
            if self._is_empty():
                self._held_bytes = 0
                self._has_room.set()

    def put(self, message: Any) -> None:
        """Count a Faust message that enters the stream. Messages of earlier generations never leave it."""
        if message.generation_id != self._generation:
            self._generation, self._held_bytes = message.generation_id, 0
        self._held_bytes += _size(message)
        if self._held_bytes >= self._limit_bytes:
            self._has_room.clear()

    def taken(self, message: Any) -> None:
        """Count a message that the agent has taken from the stream."""
        if message.generation_id != self._generation:
            return
        self._held_bytes -= _size(message)
        if 2 * self._held_bytes <= self._limit_bytes:
            self._has_room.set()


def _size(message: Any) -> int:
    return len(message.value or b"") + _RECORD_OVERHEAD_BYTES
