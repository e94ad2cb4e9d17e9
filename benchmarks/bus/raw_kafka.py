"""The loop by hand with aiokafka: a careful program that uses none of our code.

Batches are prefetched. Records of one key are published and awaited one by one, those of different keys concurrently,
so that one request carries several. Every second it commits the offsets up to which everything is done. Records are
forwarded unchanged, headers included: no progress, no trace, no metrics, no handling of rebalances.
"""

import asyncio
from collections import deque
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.bus.load import Load
from benchmarks.bus.meter import Meter

COMMIT_S = 1.0
LINGER_MS = 5
"""Our bus's setting: with eight keys in flight it saves requests."""
MAX_BATCH_BYTES = 524_288
HELD_BYTES = 8_000_000


async def relay(load: Load, meter: Meter) -> None:
    """Relay all records; returns when all are committed."""
    consumer = AIOKafkaConsumer(
        load.input,
        bootstrap_servers=load.servers,
        group_id=load.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=load.servers,
        acks="all",
        enable_idempotence=True,
        linger_ms=LINGER_MS,
        max_batch_size=MAX_BATCH_BYTES,
    )
    await consumer.start()
    await producer.start()
    work = _Work(load, meter, producer)
    committing = asyncio.create_task(_keep_committing(consumer, work))
    while not meter.done.is_set():
        for tp, records in (await consumer.getmany(timeout_ms=1000)).items():
            work.take(tp, records)
        await work.room()
    await work.end()
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    await _commit(consumer, work)
    await producer.stop()
    await consumer.stop()


async def _keep_committing(consumer: AIOKafkaConsumer, work: "_Work") -> None:
    while True:
        await asyncio.sleep(COMMIT_S)
        await _commit(consumer, work)


async def _commit(consumer: AIOKafkaConsumer, work: "_Work") -> None:
    floors = work.floors()
    if floors:
        await consumer.commit(floors)


class _Work:
    """One task for each key, and the records of each partition that are not done."""

    def __init__(self, load: Load, meter: Meter, producer: AIOKafkaProducer) -> None:
        self._output = load.output
        self._meter = meter
        self._producer = producer
        self._queues: dict[bytes, asyncio.Queue[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._open: dict[TopicPartition, deque[Any]] = {}
        self._done: set[Any] = set()
        self._held_bytes = 0
        self._given = asyncio.Event()

    def take(self, tp: TopicPartition, records: list[Any]) -> None:
        self._open.setdefault(tp, deque()).extend(record.offset for record in records)
        for record in records:
            self._held_bytes += len(record.value)
            queue = self._queues.get(record.key)
            if queue is None:
                queue = self._queues[record.key] = asyncio.Queue()
                self._tasks.append(asyncio.create_task(self._relay_key(queue)))
            queue.put_nowait((tp, record))

    async def room(self) -> None:
        await self._below(HELD_BYTES)

    async def end(self) -> None:
        """Wait until all records that were taken are done."""
        await self._below(1)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def floors(self) -> dict[TopicPartition, int]:
        """Return the offsets up to which all is done, for partitions where they have risen since the last call."""
        floors = {}
        for tp, offsets in self._open.items():
            while offsets and (tp, offsets[0]) in self._done:
                floors[tp] = offsets[0] + 1
                self._done.remove((tp, offsets.popleft()))
        return floors

    async def _relay_key(self, queue: "asyncio.Queue[Any]") -> None:
        while True:
            tp, record = await queue.get()
            self._meter.tick()
            await self._producer.send_and_wait(
                self._output,
                record.value,
                key=record.key,
                partition=record.partition,
                headers=list(record.headers),
            )
            self._done.add((tp, record.offset))
            self._held_bytes -= len(record.value)
            self._given.set()

    async def _below(self, limit_bytes: int) -> None:
        while self._held_bytes >= limit_bytes:
            self._given.clear()
            await self._given.wait()
