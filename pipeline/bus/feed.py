"""Following topics: the queue between what reads the broker and the caller that iterates."""

import asyncio
from typing import Final

from pipeline.bus.protocol import Record
from pipeline.errors import BusError

FEED_RECORDS: Final = 10_000
FEED_BYTES: Final = 32_000_000
"""A follower that lags by more than this, in records or bytes, misses the oldest of them. A part of a transcript may
have 700 kB."""


class QueueFeed:
    """The iteration of a `Feed`. A bus's own feed puts records in and stops its reading in `close`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Record | BusError | None] = asyncio.Queue()
        self._bytes = 0

    def put(self, item: Record | BusError | None) -> None:
        """Queue a record, an error that iteration raises, or None, which ends it. A full queue drops its oldest."""
        while self._queue.qsize() >= FEED_RECORDS or (self._queue.qsize() and self._bytes + _size(item) > FEED_BYTES):
            self._bytes -= _size(self._queue.get_nowait())
        self._queue.put_nowait(item)
        self._bytes += _size(item)

    def __aiter__(self) -> "QueueFeed":
        return self

    async def __anext__(self) -> Record:
        item = await self._queue.get()
        self._bytes -= _size(item)
        if isinstance(item, BusError):
            raise item
        if item is None:
            self.put(None)
            raise StopAsyncIteration
        return item

    def fail(self, error: Exception) -> None:
        """End the iteration with an error: what reads the broker has ended."""
        self.put(error if isinstance(error, BusError) else BusError(f"following topics ended: {error!r}"))

    async def close(self) -> None:
        self.put(None)


def _size(item: Record | BusError | None) -> int:
    return item.size_bytes if isinstance(item, Record) else 0
