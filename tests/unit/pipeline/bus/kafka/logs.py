"""Partition logs in memory, with the part of a Kafka client that reads them to their end."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec
from aiokafka import TopicPartition

from pipeline.bus.kafka.records import Headers


class Stored(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: Headers


class Logs:
    """A stand-in for the clients of a cluster. `reads` counts the records that were read."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._counts = partitions
        self._logs: dict[TopicPartition, list[Stored]] = defaultdict(list)
        self._ends: dict[TopicPartition, int] = defaultdict(int)
        self.reads = 0

    async def send(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers) -> int:
        place = TopicPartition(topic, partition)
        position = self._ends[place]
        self._ends[place] += 1
        self._logs[place].append(Stored(topic, partition, position, key, value, headers))
        return position

    def end(self, topic: str, partition: int) -> int:
        return self._ends[TopicPartition(topic, partition)]

    def compact(self, topic: str) -> None:
        """Keep the last record of each key at its position."""
        for place, log in self._logs.items():
            if place.topic == topic:
                last = {stored.key: stored for stored in log}
                log[:] = sorted(last.values(), key=lambda stored: stored.offset)

    def recreate(self, topic: str) -> None:
        for place in self._logs:
            if place.topic == topic:
                self._logs[place].clear()
                self._ends[place] = 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator["_Reader"]:
        yield _Reader(self)


class _Reader:
    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._client = self
        self._positions: dict[TopicPartition, int] = {}

    async def _wait_on_metadata(self, _topic: str) -> None: ...

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._logs._counts[topic]))

    async def beginning_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self._logs._ends[place] for place in places}

    def assign(self, places: Iterable[TopicPartition]) -> None: ...

    def seek(self, place: TopicPartition, position: int) -> None:
        self._positions[place] = position

    async def position(self, place: TopicPartition) -> int:
        return self._positions[place]

    async def getmany(self, *places: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        found = {}
        for place in places:
            records = [stored for stored in self._logs._logs[place] if stored.offset >= self._positions[place]]
            self._positions[place] = self._logs._ends[place]
            if records:
                found[place] = records
                self._logs.reads += len(records)
        return found
