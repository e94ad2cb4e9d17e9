"""A handler that keeps all records, and acknowledges as the test says."""

import asyncio
from collections.abc import Awaitable, Callable

from pipeline.bus.protocol import Expired, Partition, Record


class Recorder:
    """`on_each` runs for each record; without it every record is acknowledged at once."""

    def __init__(self, on_each: Callable[[Record, Partition], Awaitable[None]] | None = None) -> None:
        self.records: list[Record] = []
        self.held: set[tuple[str, int]] = set()
        self.log: list[tuple[str, str, int]] = []
        self.expired: list[Expired] = []
        self.partitions: dict[tuple[str, int], Partition] = {}
        self._on_each = on_each
        self._step = asyncio.Event()

    async def on_assigned(self, partition: Partition) -> None:
        self.log.append(("assigned", partition.topic, partition.number))
        self.held.add((partition.topic, partition.number))
        self.partitions[partition.topic, partition.number] = partition
        self._step.set()

    async def on_expired(self, expired: Expired, partition: Partition) -> None:
        assert (expired.topic, expired.partition) == (partition.topic, partition.number)
        self.expired.append(expired)
        self._step.set()

    async def on_record(self, record: Record, partition: Partition) -> None:
        assert (record.topic, record.partition) in self.held
        self.records.append(record)
        self._step.set()
        if self._on_each is None:
            partition.ack(record.position)
        else:
            await self._on_each(record, partition)

    async def on_revoked(self, partition: Partition) -> None:
        self.log.append(("revoked", partition.topic, partition.number))
        self.held.discard((partition.topic, partition.number))
        self._step.set()

    @property
    def values(self) -> list[bytes]:
        return [record.value for record in self.records]

    def of_key(self, key: bytes) -> list[bytes]:
        return [record.value for record in self.records if record.key == key]

    def ack(self, record: Record) -> None:
        self.partitions[record.topic, record.partition].ack(record.position)

    async def until(self, condition: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
        """Wait until `condition` holds. It is checked after each event and every 50 ms."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._step.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self._step.wait()
                except TimeoutError:
                    continue

    async def count(self, number: int) -> None:
        await self.until(lambda: len(self.records) >= number)


async def hold(record: Record, partition: Partition) -> None:
    """Acknowledge nothing."""


def holding() -> Recorder:
    return Recorder(hold)
