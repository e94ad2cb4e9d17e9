"""The reference bus: everything in this process, for tests and as the shortest definition of a bus."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import msgspec

from pipeline.bus.assignment import Store, TopicPartition, read_shared, revoked
from pipeline.bus.feed import QueueFeed
from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.protocol import (
    Feed,
    Handler,
    Outgoing,
    Progress,
    Record,
    Subscription,
    TopicSpec,
    TopicState,
)
from pipeline.bus.tracker import PrefixTracker
from pipeline.errors import BusError, RecordTooLargeError, StoreFullError


class MemoryBus:
    """Keeps topics, groups and their floors as long as it exists, in one event loop. Retention is not applied.

    `partitions` is the number for topics that were not passed to `ensure_topics`.
    """

    def __init__(
        self,
        partitions: int = 4,
        *,
        max_record_bytes: int = 8_000_000,
        clock: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ) -> None:
        self._partitions = partitions
        self._max_record_bytes = max_record_bytes
        self._clock = clock
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._closed = False

    async def ensure_topics(self, topics: list[TopicSpec]) -> None:
        for spec in topics:
            self._topics.setdefault(spec.name, _Topic(spec))

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        await self._store(record, partition, None)

    async def _store(self, record: Outgoing, partition: int | None, progress: Progress | None) -> None:
        if self._closed:
            raise BusError("the bus is closed")
        target = self._topic(record.topic)
        count = target.spec.partitions
        number = partition_of(key_token(record.key).encode(), count) if partition is None else partition % count
        stored = Record(
            topic=record.topic,
            partition=number,
            position=len(target.logs[number]),
            key=record.key,
            value=record.value,
            headers=dict(record.headers),
            timestamp_s=self._clock(),
        )
        if stored.size_bytes > self._max_record_bytes:
            raise RecordTooLargeError(record.topic, stored.size_bytes, self._max_record_bytes)
        target.append(stored, record.event_id, progress)
        await asyncio.sleep(0)

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        group = self._groups.setdefault(subscription.group, _Group())
        topics = [self._topic(name) for name in subscription.topics]
        progress_topic = None if subscription.progress_topic is None else self._topic(subscription.progress_topic)

        async def open_partition(tp: TopicPartition) -> _MemoryPartition:
            return _MemoryPartition(self._topic(tp.topic), tp.partition, group, progress_topic, self._store)

        partitions = [
            TopicPartition(topic.spec.name, number) for topic in topics for number in range(topic.spec.partitions)
        ]
        await read_shared(group.join(partitions), open_partition, handler)

    async def follow(self, topics: tuple[str, ...], *, key: bytes | None = None) -> Feed:
        return _MemoryFeed([self._topic(name) for name in topics], key)

    async def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        logs = self._existing(topic).logs
        snapshot = [list(log) for log in logs] if start is None else [logs[start[0]][start[1] :]]
        for log in snapshot:
            for record in log:
                if (key is None or record.key == key) and not self._existing(topic).is_deleted(record):
                    yield record

    async def read(self, topic: str, partition: int, position: int) -> Record | None:
        logs = self._existing(topic).logs
        if not 0 <= partition < len(logs) or not 0 <= position < len(logs[partition]):
            return None
        record = logs[partition][position]
        return None if self._existing(topic).is_deleted(record) else record

    async def delete(self, topic: str, partition: int, position: int) -> bool:
        record = await self.read(topic, partition, position)
        if record is None:
            return False
        self._existing(topic).delete(record)
        return True

    async def freed_at(self, topic: str, key: bytes) -> float | None:  # noqa: ARG002  # the protocol's
        return None

    async def lag(self, subscription: Subscription) -> int:
        return sum((await self.lag_by_partition(subscription)).values())

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        floors = self._groups.setdefault(subscription.group, _Group()).floors
        return {
            (name, number): len(log) - 1 - floors.get(TopicPartition(name, number), -1)
            for name in subscription.topics
            for number, log in enumerate(self._topic(name).logs)
        }

    async def describe(self, topics: tuple[str, ...]) -> list[TopicState]:
        return [self._topics[name].state() for name in topics if name in self._topics]

    async def close(self) -> None:
        self._closed = True

    def _topic(self, name: str) -> "_Topic":
        if name not in self._topics:
            self._topics[name] = _Topic(TopicSpec(name=name, partitions=self._partitions, retention_s=0))
        return self._topics[name]

    def _existing(self, name: str) -> "_Topic":
        if name not in self._topics:
            raise BusError(f"there is no topic {name}")
        return self._topics[name]


class _Topic:
    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self.logs: list[list[Record]] = [[] for _ in range(spec.partitions)]
        self.progress: dict[bytes, Progress] = {}
        self.feeds: set[_MemoryFeed] = set()
        self._grown = [asyncio.Event() for _ in range(spec.partitions)]
        self._ids: set[str] = set()
        self._bytes = 0
        self._deleted: set[tuple[int, int]] = set()

    def is_deleted(self, record: Record) -> bool:
        return (record.partition, record.position) in self._deleted

    def delete(self, record: Record) -> None:
        """Delete a record. Groups that have not read it do not get it."""
        self._deleted.add((record.partition, record.position))
        self._bytes -= record.size_bytes

    def append(self, record: Record, event_id: str, progress: Progress | None) -> None:
        if event_id in self._ids:
            return
        limit = self.spec.max_bytes
        if limit is not None and self._bytes + record.size_bytes > limit:
            raise StoreFullError(f"{self.spec.name} holds {self._bytes} bytes, its limit is {limit}")
        self._ids.add(event_id)
        self._bytes += record.size_bytes
        self.logs[record.partition].append(record)
        if progress is not None:
            self.progress[record.key] = progress
        self._grown[record.partition].set()
        for feed in self.feeds:
            feed.offer(record)

    def state(self) -> TopicState:
        return TopicState(
            name=self.spec.name,
            partitions=self.spec.partitions,
            retention_s=self.spec.retention_s,
            max_bytes=self.spec.max_bytes,
            replicas=1,
            compacted=False,
            records=sum(map(len, self.logs)) - len(self._deleted),
            size_bytes=self._bytes,
        )

    async def read(self, number: int, position: int) -> Record:
        """Wait for the record at `position` and return it with its lag as of now."""
        log = self.logs[number]
        while len(log) <= position:
            self._grown[number].clear()
            await self._grown[number].wait()
        return msgspec.structs.replace(log[position], lag=len(log) - 1 - position)


class _MemoryPartition:
    def __init__(
        self,
        topic: _Topic,
        number: int,
        group: "_Group",
        progress_topic: _Topic | None,
        store: Store,
    ) -> None:
        self._store = store
        self.topic = topic.spec.name
        self.number = number
        self._log = topic
        self._group = group
        self._progress_topic = progress_topic
        self._tracker = PrefixTracker()
        self._revoked = False

    def ack(self, position: int) -> None:
        if self._revoked:
            return
        floor = self._tracker.ack(position)
        if floor is not None:
            self._group.floors[TopicPartition(self.topic, self.number)] = floor

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        if self._revoked:
            raise revoked(self)
        await self._store(record, self.number, progress)

    async def progress(self, key: bytes) -> Progress | None:
        return None if self._progress_topic is None else self._progress_topic.progress.get(key)

    async def records(self) -> AsyncIterator[Record]:
        position = self._group.floors.get(TopicPartition(self.topic, self.number), -1) + 1
        while True:
            record = await self._log.read(self.number, position)
            position += 1
            if not self._log.is_deleted(record):
                self._tracker.deliver(record.position)
                yield record

    def revoke(self) -> None:
        self._revoked = True

    async def close(self) -> None:
        pass


class _Group:
    """The workers of a group, and the floors that they have reached together."""

    def __init__(self) -> None:
        self.floors: dict[TopicPartition, int] = {}
        self.members: list[_Member] = []

    def join(self, partitions: list[TopicPartition]) -> "_Member":
        member = _Member(self, partitions)
        self.members.append(member)
        self.share_out()
        return member

    def share_out(self) -> None:
        """Deal partition numbers out in turn. A partition moves once its holder has released it."""
        for index, member in enumerate(self.members):
            member.wanted = {tp for tp in member.partitions if tp.partition % len(self.members) == index}
        for member in self.members:
            others = {tp for other in self.members if other is not member for tp in other.reading}
            held = member.wanted - others
            member.reading |= held
            member.hold(frozenset(held))


class _Member:
    def __init__(self, group: _Group, partitions: list[TopicPartition]) -> None:
        self.partitions = partitions
        self.wanted: set[TopicPartition] = set()
        self.reading: set[TopicPartition] = set()
        self._held: frozenset[TopicPartition] = frozenset()
        self._group = group
        self._change = asyncio.Event()

    @property
    def held(self) -> frozenset[TopicPartition]:
        return self._held

    def hold(self, partitions: frozenset[TopicPartition]) -> None:
        if partitions != self._held:
            self._held = partitions
            self._change.set()

    async def changed(self) -> None:
        await self._change.wait()
        self._change.clear()

    async def release(self, partitions: set[TopicPartition]) -> None:
        self.reading -= partitions
        self._group.share_out()

    async def close(self) -> None:
        self._group.members.remove(self)
        self._group.share_out()


class _MemoryFeed(QueueFeed):
    def __init__(self, topics: list[_Topic], key: bytes | None) -> None:
        super().__init__()
        self._topics = topics
        self._key = key
        for topic in topics:
            topic.feeds.add(self)

    def offer(self, record: Record) -> None:
        if self._key is None or record.key == self._key:
            self.put(record)

    async def close(self) -> None:
        for topic in self._topics:
            topic.feeds.discard(self)
        await super().close()
