"""The bus on Kafka: a Kafka topic for each topic, a Faust app for each run, progress in headers and an index.

Reading is in `pipeline.bus.kafka.reading`, progress in `pipeline.bus.kafka.progress`. Keys go to the partitions that
NATS would choose; outside producers may use any partitioner that keeps a call on one partition. Kafka cannot recognise
a repeat after a restart: stages recognise it by the numbers in a call's records.
"""

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from pipeline.backoff import Backoff
from pipeline.bus.kafka.clients import KafkaClients, bus_errors, read_to_end
from pipeline.bus.kafka.feed import KafkaFeed
from pipeline.bus.kafka.producing import RecordProducer
from pipeline.bus.kafka.progress import ProgressIndex, progress_topic
from pipeline.bus.kafka.reading import FaustReading
from pipeline.bus.kafka.records import stored_record, to_wire
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
from pipeline.bus.security import BusSecurity
from pipeline.clock import SECONDS_PER_DAY
from pipeline.errors import BusError

REQUEST_S: Final = 40.0
"""How long a broker may take to answer: longer than any pause of it that clients should outlast."""
_CONNECT_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)
_COORDINATOR_PAUSE_S: Final = 0.2
_CREATED_WITHIN_S: Final = 20.0
_CLOSE_S: Final = 5.0
_KEPT_S: Final = 90 * SECONDS_PER_DAY
"""How long the index keeps the progress of a call. It is needed while its records are kept, or may arrive late."""
_INDEX_SEGMENT_BYTES: Final = 64 << 20


class KafkaBus:
    """The bus on the cluster at `servers` ("host:port[,host:port]").

    `replication` is the replication factor of new topics. A cluster that does not answer is waited for `reconnect_s`
    before BusError.
    """

    def __init__(
        self,
        servers: str,
        *,
        security: BusSecurity | None = None,
        replication: int = 1,
        reconnect_s: float = 30.0,
    ) -> None:
        self.servers = servers
        self._clients = KafkaClients(servers, security or BusSecurity(), request_timeout_s=REQUEST_S)
        self._replication = replication
        self._worker_id = secrets.token_hex(4)
        self._reconnect_s = reconnect_s
        self._producer = RecordProducer(self._clients)
        self._reader: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._partitions: dict[str, int] = {}
        self._faust_data = tempfile.TemporaryDirectory(prefix="callstream-faust-")
        self._log = structlog.get_logger("callstream.kafka").bind(servers=servers)

    async def connect(self) -> None:
        """Raises BusError if no broker answers within `reconnect_s`, ConfigurationError if one refuses us."""
        deadline = asyncio.get_running_loop().time() + self._reconnect_s
        backoff = Backoff(_CONNECT_PAUSES_S)
        try:
            while True:
                try:
                    self._admin = await self._clients.admin()
                    self._reader = await self._clients.reader()
                    await self._producer.open()
                    return
                except BusError:
                    await self._close_clients()
                    if asyncio.get_running_loop().time() > deadline:
                        raise
                await backoff.pause()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._producer.close()
        await self._close_clients()
        self._faust_data.cleanup()

    async def _close_clients(self) -> None:
        admin, self._admin = self._admin, None
        reader, self._reader = self._reader, None
        stops: list[Any] = [] if reader is None else [reader.stop]
        if admin is not None:
            stops.append(admin.close)
        for stop in stops:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await stop()

    async def ensure_topics(self, topics: list[TopicSpec]) -> None:
        """Create missing topics. Existing ones stay as they are: their operator may have reasons."""
        wanted = [self._topic(spec) for spec in topics]
        wanted += [self._index(group, spec.partitions) for spec in topics for group in spec.groups]
        await self._create(wanted)

    async def _create(self, wanted: list[NewTopic]) -> None:
        with bus_errors("creating topics"):
            known = set(await self._open_admin.list_topics())
            missing = [topic for topic in wanted if topic.name not in known]
            if not missing:
                return
            answer = await self._open_admin.create_topics(missing)
            for name, code, *_ in answer.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise BusError(f"Kafka refuses to create the topic {name}: {error.description or error.__name__}")
            async with asyncio.timeout(_CREATED_WITHIN_S):
                for topic in missing:
                    while not await self._has_leaders(topic.name):  # noqa: ASYNC110  # the client has no event for it
                        await asyncio.sleep(0.05)

    def _topic(self, spec: TopicSpec) -> NewTopic:
        return self._new_topic(spec.name, spec.partitions, spec.retention_s, "delete")

    def _index(self, group: str, partitions: int) -> NewTopic:
        """Return the spec of a group's index. It is read whole at each assignment, so it is compacted early."""
        return self._new_topic(
            progress_topic(group),
            partitions,
            _KEPT_S,
            "compact,delete",
            {"segment.bytes": str(_INDEX_SEGMENT_BYTES), "min.cleanable.dirty.ratio": "0.1"},
        )

    def _new_topic(
        self, name: str, partitions: int, retention_s: float, cleanup: str, more: Mapping[str, str] | None = None
    ) -> NewTopic:
        """Return the spec of a topic. Times are the broker's: a producer's wrong clock must not affect retention."""
        config = {
            "retention.ms": str(int(retention_s * 1000)),
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": cleanup,
            **(more or {}),
        }
        if self._replication >= 3:
            config["min.insync.replicas"] = "2"
        return NewTopic(name, partitions, self._replication, topic_configs=config)

    async def _has_leaders(self, topic: str) -> bool:
        found = (await self._open_admin.describe_topics([topic]))[0]
        return not found["error_code"] and all(partition["leader"] >= 0 for partition in found["partitions"])

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        """See `Bus.publish`. Kafka cannot recognise a repeated event id."""
        count = await self._partitions_of(record.topic)
        number = partition_of(key_token(record.key).encode(), count) if partition is None else partition % count
        await self._producer.send(record.topic, number, record.key, record.value, to_wire(record.headers))

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        counts = [await self._partitions_of(topic) for topic in subscription.topics]
        index = None
        if subscription.progress_topic is not None:
            await self._create([self._index(subscription.group, max(counts))])
            index = ProgressIndex(
                self._clients,
                group=subscription.group,
                topic=subscription.progress_topic,
                writer=self._worker_id,
                send=self._producer.send,
            )

        async def store(record: Outgoing, number: int, progress: Progress | None) -> None:
            if progress is None:
                await self.publish(record, partition=number)
                return
            assert index is not None
            assert record.topic == subscription.progress_topic
            await index.publish(record, number, number % await self._partitions_of(record.topic), progress)

        reading = FaustReading(
            self._clients,
            subscription,
            data=Path(self._faust_data.name),
            index=index,
            store=store,
            floors=self._floors,
            begins=self._begins,
        )
        await reading.run(handler)

    async def follow(self, topics: tuple[str, ...], *, key: bytes | None = None) -> Feed:
        for topic in topics:
            await self._partitions_of(topic)
        feed = KafkaFeed(self._clients, topics, key, reconnect_s=self._reconnect_s)
        await feed.start()
        return feed

    async def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        numbers = range(await self._partitions_of(topic)) if start is None else [start[0]]
        partitions = [TopicPartition(topic, number) for number in numbers]
        with bus_errors(f"reading {topic}"):
            async with self._clients.reading() as reader:
                starts, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
                if start is not None:
                    starts = {tp: min(ends[tp], max(starts[tp], start[1])) for tp in partitions}
                async for record in read_to_end(reader, starts, ends, timeout_s=self._reconnect_s):
                    if key is None or record.key == key:
                        yield stored_record(record, record.timestamp / 1000)

    async def read(self, topic: str, partition: int, position: int) -> Record | None:
        tp = TopicPartition(topic, partition)
        if partition >= await self._partitions_of(topic):
            return None
        with bus_errors(f"reading {topic}"):
            async with self._clients.reading() as reader:
                begin, end = await reader.beginning_offsets([tp]), await reader.end_offsets([tp])
                if not begin[tp] <= position < end[tp]:
                    return None
                wanted = {tp: position + 1}
                async for record in read_to_end(reader, {tp: position}, wanted, timeout_s=self._reconnect_s):
                    return stored_record(record, record.timestamp / 1000)
        return None

    async def delete(self, topic: str, partition: int, position: int) -> bool:  # noqa: ARG002  # Kafka deletes by age
        return False

    async def freed_at(self, topic: str, key: bytes) -> float | None:  # noqa: ARG002  # the protocol's
        return None

    async def _begins(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the position of the first record that each partition still has."""
        with bus_errors("reading where partitions begin"):
            async with asyncio.timeout(self._reconnect_s):
                begins: dict[TopicPartition, int] = await self._open_reader.beginning_offsets(partitions)
                return begins

    async def _floors(self, group: str, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the position that the group reads next in each partition, without those that it never read."""
        with bus_errors(f"reading the offsets of {group}"):
            async with asyncio.timeout(self._reconnect_s):
                done = await self._committed(group, partitions)
                return {tp: position for tp, position in done.items() if position >= 0}

    async def lag(self, subscription: Subscription) -> int:
        return sum((await self.lag_by_partition(subscription)).values())

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        found = {}
        for topic in subscription.topics:
            wanted = [TopicPartition(topic, number) for number in range(await self._partitions_of(topic))]
            with bus_errors(f"reading the offsets of {subscription.group}"):
                async with asyncio.timeout(self._reconnect_s):
                    done = await self._committed(subscription.group, wanted)
                    begins = await self._open_reader.beginning_offsets(wanted)
                    ends = await self._open_reader.end_offsets(wanted)
            for tp in wanted:
                found[topic, tp.partition] = ends[tp] - max(begins[tp], done.get(tp, 0))
        return found

    async def _committed(self, group: str, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the group's committed offsets. A new cluster first has to create the topic that stores them."""
        while True:
            try:
                done = await self._open_admin.list_consumer_group_offsets(group, partitions=partitions)
            except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, GroupLoadInProgressError):
                await asyncio.sleep(_COORDINATOR_PAUSE_S)
            else:
                return {tp: committed.offset for tp, committed in done.items()}

    async def describe(self, topics: tuple[str, ...]) -> list[TopicState]:
        with bus_errors("describing topics"):
            async with asyncio.timeout(self._reconnect_s):
                known = set(await self._open_admin.list_topics())
                return [await self._describe(topic) for topic in topics if topic in known]

    async def _describe(self, topic: str) -> TopicState:
        found: Any = (await self._open_admin.describe_topics([topic]))[0]
        [answer] = await self._open_admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        config = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        partitions = [TopicPartition(topic, partition["partition"]) for partition in found["partitions"]]
        begins = await self._open_reader.beginning_offsets(partitions)
        ends = await self._open_reader.end_offsets(partitions)
        retention_ms = int(config["retention.ms"])
        return TopicState(
            name=topic,
            partitions=len(partitions),
            retention_s=None if retention_ms < 0 else retention_ms / 1000,
            max_bytes=None,
            replicas=min(len(partition["replicas"]) for partition in found["partitions"]),
            compacted="compact" in config["cleanup.policy"],
            records=sum(ends[tp] - begins[tp] for tp in partitions),
            size_bytes=None,
        )

    async def _partitions_of(self, topic: str) -> int:
        """Return the topic's number of partitions. Raises BusError if there is no such topic."""
        known = self._partitions.get(topic)
        if known is not None:
            return known
        with bus_errors(f"looking for the topic {topic}"):
            found: Any = (await self._open_admin.describe_topics([topic]))[0]
        if found["error_code"]:
            if for_code(found["error_code"]) is UnknownTopicOrPartitionError:
                raise BusError(f"there is no topic {topic}: create the topics with `callstream topics create`")
            raise BusError(f"the topic {topic} cannot be used: {for_code(found['error_code']).__name__}")
        count = self._partitions[topic] = len(found["partitions"])
        return count

    @property
    def _open_admin(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            raise BusError(f"the connection to Kafka at {self.servers} is closed")
        return self._admin

    @property
    def _open_reader(self) -> AIOKafkaConsumer:
        if self._reader is None:
            raise BusError(f"the connection to Kafka at {self.servers} is closed")
        return self._reader
