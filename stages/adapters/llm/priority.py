"""Who asks the language model next: a few at a time, the most urgent first."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from itertools import count


class Urgency(IntEnum):
    """The lower, the sooner. Somebody waits for a live call's summary; nobody for a stand-in's replacement."""

    LIVE = 0
    ROLLING = 1
    BATCH = 2
    DEFERRED = 3


class PrioritySemaphore:
    """At most `limit` inside at a time. Of those who wait the most urgent goes first, of equals the one who came first.

    asyncio has a semaphore and a priority queue and nothing that is both.
    """

    def __init__(self, limit: int = 1) -> None:
        self._free = limit
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def slot(self, urgency: Urgency) -> AsyncIterator[None]:
        await self._enter(urgency)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgency: Urgency) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        called = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrivals), called))
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self._leave()  # it was called and cannot come: the next one may
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, called = heapq.heappop(self._waiting)
            if not called.done():
                called.set_result(None)
                return
        self._free += 1
