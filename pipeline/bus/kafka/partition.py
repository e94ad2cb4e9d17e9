"""One assigned partition of Kafka: the records that Faust delivered and the handler has not taken, and the floor."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from pipeline.bus.assignment import Store, revoked
from pipeline.bus.protocol import Expired, Outgoing, Progress, Record
from pipeline.bus.tracker import PrefixTracker

_CHECK_EVERY_S: Final = 0.05


class _Hole(NamedTuple):
    """Positions that were not delivered: expired, or markers of transactions, which are no records."""

    first: int
    last: int


class KafkaPartition:
    """A partition from assignment to revocation. `prefetch_bytes` bounds what is held for the handler.

    `next_position` is that of the first record to deliver, None if the group never read the partition. `begins_at`
    returns the first position that the topic still has.

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
        next_position: int | None,
        begins_at: Callable[[], Awaitable[int]],
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
        self._next = next_position
        self._read_begin = begins_at
        self._begin = 0
        self._begin_holds_to = 0
        """The position before which no hole can have expired other than before `_begin`."""
        self._waiting: deque[tuple[Record | _Hole, int]] = deque()
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
        if self._revoked:
            return
        if self._next is not None and record.position > self._next:
            self.lose(record.position - 1)
        if not self._tracker.deliver(record.position):
            return
        self._next = record.position + 1
        self._waiting.append((record, size_bytes))
        self._held_bytes += size_bytes
        self._arrived.set()

    def lose(self, last: int) -> None:
        """Note that nothing is delivered up to `last`. `records` then tells what of it has expired."""
        assert self._next is not None
        self._tracker.deliver(last)
        self._waiting.append((_Hole(self._next, last), 0))
        self._next = last + 1
        self._arrived.set()

    async def records(self) -> AsyncIterator[Record | Expired]:
        while True:
            while self._waiting:
                record, size_bytes = self._waiting.popleft()
                if isinstance(record, _Hole):
                    expired = await self._expired_in(record)
                    if expired is not None:
                        yield expired
                    self.ack(record.last)
                    continue
                self._held_bytes -= size_bytes
                if 2 * self._held_bytes <= self._prefetch_bytes:
                    self._has_room.set()
                yield record
            self._arrived.clear()
            await self._arrived.wait()

    async def _expired_in(self, hole: _Hole) -> Expired | None:
        """Return what of a hole has expired. One request answers for all holes that are held at the moment."""
        if hole.last >= self._begin_holds_to:
            assert self._next is not None
            holds_to = self._next
            self._begin = await self._read_begin()
            self._begin_holds_to = holds_to
        last = min(hole.last, self._begin - 1)
        return Expired(self.topic, self.number, hole.first, last) if last >= hole.first else None

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
