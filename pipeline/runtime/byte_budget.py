"""A bound on the bytes of the records that a stage has taken and not finished."""

import asyncio
from collections import deque


class ByteBudget:
    """Bytes are given first come, first served. A record larger than the budget passes when nothing else is held."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def exhausted(self) -> bool:
        """True while a caller waits for room."""
        return bool(self._waiting)

    async def take(self, size_bytes: int) -> None:
        """Wait for room and take it."""
        if not self._waiting and self._fits(size_bytes):
            self._used += size_bytes
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size_bytes)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._admit()
            raise

    def give(self, size_bytes: int) -> None:
        """Give back what `take` took."""
        self._used -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, turn = self._waiting.popleft()
            if turn.done():
                continue
            self._used += size_bytes
            turn.set_result(None)

    def _fits(self, size_bytes: int) -> bool:
        return self._used == 0 or self._used + size_bytes <= self._limit
