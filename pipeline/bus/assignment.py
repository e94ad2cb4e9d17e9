"""The reading of one `Bus.run`: a task for each partition, while this worker holds it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

from pipeline.bus.protocol import Expired, Handler, Outgoing, Partition, Progress, Record
from pipeline.errors import BusError


class TopicPartition(NamedTuple):
    """A partition of a topic; equal to the tuple of the same name that Kafka clients use.

    Workers share partition *numbers*: a worker that holds one reads it of every topic of the subscription.
    """

    topic: str
    partition: int


Store = Callable[[Outgoing, int, Progress | None], Awaitable[None]]
"""Stores an output in the partition of that number, with the progress of its key."""


class HeldPartition(Partition, Protocol):
    """A partition that a bus opens for `read_shared`: the handler's view of it, and its records."""

    def records(self) -> AsyncIterator[Record | Expired]:
        """Yield records from the group's floor on, without end.

        A broker that deletes records unread yields which ones in their place.
        """
        ...

    def revoke(self) -> None:
        """Make `ack` do nothing and `publish` raise from now on."""
        ...

    async def close(self) -> None: ...


class Shares(Protocol):
    """The partitions that this worker holds. Others get a partition that has left `held` only after `release`."""

    @property
    def held(self) -> frozenset[TopicPartition]: ...

    async def changed(self) -> None:
        """Wait until `held` differs from what it was when this last returned."""
        ...

    async def release(self, partitions: set[TopicPartition]) -> None:
        """Give up partitions that have left `held`: they are no longer read."""
        ...

    async def close(self) -> None:
        """Give up everything, after all readers have ended."""
        ...


def revoked(partition: Partition) -> BusError:
    """Return the error of publishing for a partition that its worker no longer holds."""
    return BusError(f"partition {partition.number} of {partition.topic} is no longer held")


async def read_shared(
    shares: Shares, open_partition: Callable[[TopicPartition], Awaitable[HeldPartition]], handler: Handler
) -> None:
    """Read the partitions of `shares` until cancelled. Raises what the handler or a partition raised, after all end."""
    readers: dict[TopicPartition, _Reader] = {}
    watch = asyncio.create_task(shares.changed())
    try:
        while True:
            held = shares.held
            for tp in held - readers.keys():
                readers[tp] = _Reader(tp, open_partition, handler)
            lost = readers.keys() - held
            if lost:
                await _stop([readers.pop(tp) for tp in lost])
                await shares.release(set(lost))
                continue
            await asyncio.wait(
                {watch, *(reader.task for reader in readers.values())}, return_when=asyncio.FIRST_COMPLETED
            )
            for reader in readers.values():
                if reader.task.done():
                    reader.task.result()
            if watch.done():
                watch.result()
                watch = asyncio.create_task(shares.changed())
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await _stop(list(readers.values()))
        await shares.close()


class _Reader:
    def __init__(
        self, tp: TopicPartition, open_partition: Callable[[TopicPartition], Awaitable[HeldPartition]], handler: Handler
    ) -> None:
        self._partition: HeldPartition | None = None
        self.task = asyncio.create_task(self._read(tp, open_partition, handler), name=f"read {tp.topic} {tp.partition}")

    def revoke(self) -> None:
        if self._partition is not None:
            self._partition.revoke()

    async def _read(
        self, tp: TopicPartition, open_partition: Callable[[TopicPartition], Awaitable[HeldPartition]], handler: Handler
    ) -> None:
        partition = self._partition = await open_partition(tp)
        try:
            await handler.on_assigned(partition)
            async for record in partition.records():
                if isinstance(record, Expired):
                    await handler.on_expired(record, partition)
                else:
                    await handler.on_record(record, partition)
        finally:
            partition.revoke()
            try:
                await handler.on_revoked(partition)
            finally:
                await partition.close()


async def _stop(readers: list[_Reader]) -> None:
    """Stop readers. Their failures are not raised here: `read_shared` looks at the tasks."""
    for reader in readers:
        reader.revoke()
        reader.task.cancel()
    await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)
