"""Following topics: the queue between what reads the broker and the caller that iterates."""

import asyncio
from typing import Final

from pipeline.bus.protocol import Record
from pipeline.errors import BusError

FEED_RECORDS: Final = 10_000
"""A follower that lags by more records than this misses the oldest of them."""


class QueueFeed:
    """The iteration of a `Feed`. A bus's own feed puts records in and stops its reading in `close`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Record | BusError | None] = asyncio.Queue(FEED_RECORDS)

    def put(self, item: Record | BusError | None) -> None:
        """Queue a record, an error that iteration raises, or None, which ends it. A full queue drops its oldest."""
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(item)

    def __aiter__(self) -> "QueueFeed":
        return self

    async def __anext__(self) -> Record:
        item = await self._queue.get()
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
