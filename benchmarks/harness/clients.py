"""Plain clients of the brokers, without the product's code: they send and read as outsiders do."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol

import nats
import nats.errors
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pipeline.bus.keys import partition_of
from pipeline.wiring.stage_list import stage_named

SEND_TIMEOUT_S = 5.0
AGAIN_AFTER_S = 0.5
AWAY = (KafkaError, nats.errors.Error, OSError, TimeoutError)
"""Raised by the libraries while a broker does not answer."""


class Unsent(Exception):
    """The broker has not acknowledged the record: it may or may not be stored."""


class Seen(NamedTuple):
    """A record on a topic, with the headers that outsiders use."""

    topic: str
    partition: int
    headers: Mapping[str, str]
    value: bytes


class Backlog(NamedTuple):
    """Records delivered and not acknowledged, and records that wait. Kafka does not distinguish them: there all count
    as given.
    """

    given: int
    waiting: int


class PlainClient(Protocol):
    async def send(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes) -> None:
        """Send; returns when the broker has acknowledged the record. Raises Unsent."""
        ...

    async def write(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes, *, partitions: int) -> None:
        """Store a record on a stage's topic, where the records of the key's call are. Raises Unsent."""
        ...

    def read(self, topic: str) -> AsyncIterator[Seen]:
        """Yield all records that are on the topic now, in the order of their partitions."""
        ...

    async def backlog(self, group: str, topics: tuple[str, ...], partitions: frozenset[int]) -> Backlog:
        """Return the group's unacknowledged records in the partitions."""
        ...

    async def close(self) -> None: ...


async def unacknowledged(client: PlainClient, stage: str, partitions: int) -> int:
    """Return how many records a stage's workers have not acknowledged, in all its lanes. Raises one of `AWAY`."""
    left = 0
    for lane in stage_named(stage).lanes:
        reads = stage_named(stage).subscription(lane)
        backlog = await client.backlog(reads.group, reads.topics, frozenset(range(partitions)))
        left += backlog.given + backlog.waiting
    return left


async def connect(url: str) -> PlainClient:
    """Return a client for a CALLSTREAM_BUS URL, connected. Retries until the broker answers."""
    while True:
        client = KafkaClient() if url.startswith("kafka://") else NatsClient()
        try:
            await client.connect(url)
            return client
        except AWAY:
            await client.close()
        await asyncio.sleep(AGAIN_AFTER_S)


class NatsClient:
    """nats-py, which reconnects by itself."""

    def __init__(self) -> None:
        self._client: Any = None
        self._js: Any = None

    async def connect(self, url: str) -> None:
        async def ignore(_error: Exception) -> None:
            """Sends raise their own errors."""

        self._client = await nats.connect(
            url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=5, error_cb=ignore
        )
        self._js = self._client.jetstream()

    async def send(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes) -> None:
        await self._publish(f"{_base(topic)}.{base64.urlsafe_b64encode(key).decode()}", headers, value)

    async def write(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes, *, partitions: int) -> None:
        token = base64.urlsafe_b64encode(key)
        subject = f"{_base(topic)}.{partition_of(token, partitions)}.{token.decode().rstrip('=')}"
        await self._publish(subject, headers, value)

    async def _publish(self, subject: str, headers: Mapping[str, str], value: bytes) -> None:
        spelled = {name.replace("ce_", "ce-"): text for name, text in headers.items()}
        try:
            await self._js.publish(subject, value, headers=spelled, timeout=SEND_TIMEOUT_S)
        except AWAY as error:
            raise Unsent(str(error)) from error

    async def read(self, topic: str) -> AsyncIterator[Seen]:
        stream = topic.replace(".", "-")
        state = (await self._js.stream_info(stream)).state
        if not state.messages:
            return
        subscription = await self._js.subscribe(f"{_base(topic)}.>", ordered_consumer=True)
        async for message in subscription.messages:
            named = {name.replace("ce-", "ce_"): text for name, text in (message.headers or {}).items()}
            headers = {name: text for name, text in named.items() if not name.startswith(("Nats-", "callstream-"))}
            yield Seen(topic, int(message.subject.split(".")[2]), headers, message.data)
            if message.metadata.sequence.stream >= state.last_seq:
                break
        await subscription.unsubscribe()

    async def backlog(self, group: str, topics: tuple[str, ...], partitions: frozenset[int]) -> Backlog:
        given = waiting = 0
        for topic in topics:
            for number in partitions:
                info = await self._js.consumer_info(topic.replace(".", "-"), f"{group}_{number}", timeout=1.0)
                given += info.num_ack_pending or 0
                waiting += info.num_pending or 0
        return Backlog(given, waiting)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class KafkaClient:
    """aiokafka with its defaults except the request timeout."""

    def __init__(self) -> None:
        self._servers = ""
        self._producer: Any = None
        self._reader: Any = None
        self._admin: Any = None

    async def connect(self, url: str) -> None:
        self._servers = url.removeprefix("kafka://")
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", request_timeout_ms=int(SEND_TIMEOUT_S * 1000)
        )
        self._reader = AIOKafkaConsumer(bootstrap_servers=self._servers, enable_auto_commit=False)
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        for client in (self._producer, self._reader, self._admin):
            await client.start()

    async def send(self, topic: str, key: bytes, headers: Mapping[str, str], value: bytes) -> None:
        encoded = [(name, text.encode()) for name, text in headers.items()]
        try:
            await self._producer.send_and_wait(topic, value, key=key, headers=encoded)
        except AWAY as error:
            raise Unsent(str(error)) from error

    async def write(
        self,
        topic: str,
        key: bytes,
        headers: Mapping[str, str],
        value: bytes,
        *,
        partitions: int,  # noqa: ARG002  # the client's own partitioner knows it
    ) -> None:
        await self.send(topic, key, headers, value)

    async def read(self, topic: str) -> AsyncIterator[Seen]:
        reader = AIOKafkaConsumer(
            topic, bootstrap_servers=self._servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await reader.start()
        try:
            ends = await reader.end_offsets(list(reader.assignment()))
            while any([await reader.position(place) < end for place, end in ends.items()]):
                for records in (await reader.getmany(timeout_ms=500)).values():
                    for record in records:
                        headers = {
                            name: raw.decode() for name, raw in record.headers if not name.startswith("callstream-")
                        }
                        yield Seen(topic, record.partition, headers, record.value)
        finally:
            await reader.stop()

    async def backlog(self, group: str, topics: tuple[str, ...], partitions: frozenset[int]) -> Backlog:
        places = [TopicPartition(topic, number) for topic in topics for number in partitions]
        if not places:
            return Backlog(0, 0)
        committed = await self._admin.list_consumer_group_offsets(group, partitions=places)
        ends = await self._reader.end_offsets(places)
        return Backlog(
            sum(ends[place] - max(0, committed[place].offset if place in committed else 0) for place in places), 0
        )

    async def close(self) -> None:
        for stop in (self._producer.stop, self._reader.stop, self._admin.close):
            await stop()


def _base(topic: str) -> str:
    """Return the beginning of a topic's subjects: `calls.audio_batch` for `calls.audio.batch`."""
    root, _, rest = topic.partition(".")
    return f"{root}.{rest.replace('.', '_')}"
