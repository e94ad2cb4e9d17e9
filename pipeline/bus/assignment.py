"""How one `Bus.run` reads: a task for each partition that its worker holds, for as long as it holds it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

from pipeline.bus.protocol import Handler, Outgoing, Partition, Progress, Record
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
    """A partition as a bus hands it to `read_shared`: the handler's view, and where its records come from."""

    def records(self) -> AsyncIterator[Record]:
        """Records from the group's floor on, without end."""
        ...

    def revoke(self) -> None:
        """From now on `ack` does nothing."""
        ...

    async def close(self) -> None: ...


class Shares(Protocol):
    """Which partitions this worker holds. Gives up the ones that it no longer holds only after `release`."""

    @property
    def held(self) -> frozenset[TopicPartition]: ...

    async def changed(self) -> None:
        """Returns when `held` is not what it was when this was last called."""
        ...

    async def release(self, partitions: set[TopicPartition]) -> None:
        """These are no longer read; they had left `held` before."""
        ...

    async def close(self) -> None:
        """Give up everything. All readers have ended."""
        ...


def revoked(partition: Partition) -> BusError:
    """What publishing for a partition raises that its worker no longer holds."""
    return BusError(f"partition {partition.number} of {partition.topic} is no longer held")


async def read_shared(
    shares: Shares, open_partition: Callable[[TopicPartition], Awaitable[HeldPartition]], handler: Handler
) -> None:
    """Read what `shares` holds until cancelled. Raises what a handler or a partition raised, when all have stopped."""
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
                await handler.on_record(record, partition)
        finally:
            partition.revoke()
            try:
                await handler.on_revoked(partition)
            finally:
                await partition.close()


async def _stop(readers: list[_Reader]) -> None:
    """Stop readers; a failure of one is raised by whoever looks at its task, not here."""
    for reader in readers:
        reader.revoke()
        reader.task.cancel()
    await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)
