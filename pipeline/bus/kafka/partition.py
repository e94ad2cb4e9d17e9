"""One assigned partition of Kafka: the records that Faust delivered and the handler has not taken, and the floor."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from pipeline.bus.assignment import Store, revoked
from pipeline.bus.protocol import Outgoing, Progress, Record
from pipeline.bus.tracker import PrefixTracker

_CHECK_EVERY_S: Final = 0.05


class KafkaPartition:
    """A partition from assignment to revocation. `prefetch_bytes` bounds what is held for the handler.

    `is_member` returns True if the group cannot have given the partition to another worker unnoticed. A worker that
    stood still for long finds out with its next heartbeat, and publishes nothing before that is answered.
    """

    def __init__(
        self,
        topic: str,
        number: int,
        *,
        generation: int,
        prefetch_bytes: int,
        is_member: Callable[[], bool],
        store: Store,
        read_progress: Callable[[int, bytes], Awaitable[Progress | None]],
    ) -> None:
        self.topic = topic
        self.number = number
        self.generation = generation
        self._prefetch_bytes = prefetch_bytes
        self._is_member = is_member
        self._store = store
        self._read_progress = read_progress
        self._tracker = PrefixTracker()
        self._revoked = False
        self._waiting: deque[tuple[Record, int]] = deque()
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()

    # -- for the handler -----------------------------------------------------------------------------------------------

    def ack(self, position: int) -> None:
        if not self._revoked:
            self._tracker.ack(position)

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        while not self._revoked and not self._is_member():  # noqa: ASYNC110  # Faust's thread finds out
            await asyncio.sleep(_CHECK_EVERY_S)
        if self._revoked:
            raise revoked(self)
        await self._store(record, self.number, progress)

    async def progress(self, key: bytes) -> Progress | None:
        return await self._read_progress(self.number, key)

    # -- for the bus ---------------------------------------------------------------------------------------------------

    async def put(self, record: Record) -> None:
        """Wait for room and hold a record for the handler. Repeats are dropped, and everything after revocation.

        A full partition drains to one half before it admits more, so that records pass in groups.
        """
        size_bytes = record.size_bytes
        if self._held_bytes + size_bytes > self._prefetch_bytes:
            while 2 * self._held_bytes > self._prefetch_bytes and not self._revoked:
                self._has_room.clear()
                await self._has_room.wait()
        if self._revoked or not self._tracker.deliver(record.position):
            return
        self._waiting.append((record, size_bytes))
        self._held_bytes += size_bytes
        self._arrived.set()

    async def records(self) -> AsyncIterator[Record]:
        while True:
            while self._waiting:
                record, size_bytes = self._waiting.popleft()
                self._held_bytes -= size_bytes
                if 2 * self._held_bytes <= self._prefetch_bytes:
                    self._has_room.set()
                yield record
            self._arrived.clear()
            await self._arrived.wait()

    @property
    def floor(self) -> int:
        """The position up to which everything delivered is acknowledged; -1 before the first."""
        return self._tracker.floor

    def revoke(self) -> None:
        self._revoked = True
        self._waiting.clear()
        self._arrived.set()
        self._has_room.set()

    async def close(self) -> None:
        """Nothing is left to close: `revoke` has dropped everything."""
