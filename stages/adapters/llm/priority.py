"""Priorities of requests to a language model."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from itertools import count


class Urgency(IntEnum):
    """Priorities of requests, the most urgent first. Nobody waits for the replacement of a deferred summary."""

    LIVE = 0
    ROLLING = 1
    BATCH = 2
    DEFERRED = 3


class PrioritySemaphore:
    """A semaphore for `limit` tasks. The most urgent waiting task goes first, of equals the one that came first.

    asyncio has a semaphore and a priority queue, but nothing that is both.
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
        admitted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrivals), admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave()  # its slot goes to the next task
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, admitted = heapq.heappop(self._waiting)
            if not admitted.done():
                admitted.set_result(None)
                return
        self._free += 1
