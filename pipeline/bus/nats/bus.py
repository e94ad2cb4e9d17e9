"""The bus on NATS JetStream: a stream for each topic, a consumer for each group and partition.

Names are in `subjects`, reading in `partition`, sharing between workers in `leases`, reading without a group in
`stored`. The last record of a key's subject on a topic holds the key's progress, so `progress` is one request for that
record, except for large states (`pipeline.bus.nats.large_states`). Other producers publish to
`calls.audio.<call id in base64url>`; the server adds the partition.
"""

import re
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.bus.assignment import TopicPartition, read_shared
from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.nats.connection import NANOSECONDS, ApiError, NatsConnection, Session, check_publish
from pipeline.bus.nats.consumer import CONSUMER_NOT_FOUND, consumer_name
from pipeline.bus.nats.feed import JetStreamFeed
from pipeline.bus.nats.large_states import STREAM, drop_states, ensure_states, read_state, write_state
from pipeline.bus.nats.leases import LeaseShares
from pipeline.bus.nats.partition import PulledPartition
from pipeline.bus.nats.stored import record_at, stored_records
from pipeline.bus.nats.subjects import (
    EVENT_ID_HEADER,
    PRODUCER_TOPICS,
    PROGRESS_HEADERS,
    key_spellings,
    progress_from_wire,
    progress_to_wire,
    stream_name,
    subject_base,
    to_wire,
)
from pipeline.bus.protocol import Feed, Handler, Outgoing, Progress, Record, Subscription, TopicSpec, TopicState
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError, RecordTooLargeError, StoreFullError

_PARTITIONS: Final = "callstream-partitions"
_DUPLICATE_WINDOW_S: Final = 120.0
_GROUP: Final = re.compile(r"[A-Za-z0-9_-]+")

_STREAM_NOT_FOUND: Final = 10059
_STORE_FULL: Final = frozenset({10023, 10028, 10047, 10077})
"""Error codes of JetStream: insufficient resources, resource limits exceeded, insufficient storage, store failed."""
_EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"
_ANOTHER_CAME_BEFORE: Final = 10071
_HEADER_LIMIT: Final = 64 * 1024


class JetStreamBus:
    """`reconnect_s` is how long a lost broker is waited for before BusError."""

    def __init__(self, url: str, *, reconnect_s: float = 30.0, security: BusSecurity | None = None) -> None:
        self._worker_id = secrets.token_hex(4)
        self._connection = NatsConnection(
            url, name=f"callstream {self._worker_id}", reconnect_s=reconnect_s, security=security
        )
        self._partitions: dict[str, int] = {}
        self._large_states: set[_KeyLocation] = set()
        self._runs = 0

    async def connect(self) -> None:
        """Raises BusError if no server answers within `reconnect_s`, ConfigurationError if one refuses at once."""
        await self._connection.connect()

    async def close(self) -> None:
        await self._connection.close()

    async def ensure_topics(self, topics: list[TopicSpec]) -> None:
        """Create missing streams, and give existing ones the retention and size of their spec.

        Raises StoreFullError if the limits of the topics together exceed the store's.
        """
        for spec in topics:

            async def ensure(session: Session, spec: TopicSpec = spec) -> None:
                try:
                    await _ensure_stream(session, spec)
                except ApiError as error:
                    raise _refusal(error, spec.name) from error

            await self._connection.retrying(ensure)

        async def states(session: Session) -> None:
            try:
                await ensure_states(session, retention_s=max(spec.retention_s for spec in topics))
            except ApiError as error:
                raise _refusal(error, STREAM) from error

        await self._connection.retrying(states)

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        await self._store(record, partition, None)

    async def _store(self, record: Outgoing, partition: int | None, progress: Progress | None) -> None:
        headers = to_wire(record.headers) | {EVENT_ID_HEADER: record.event_id}
        if progress is not None:
            headers |= progress_to_wire(progress)
        header_bytes = _header_bytes(headers)
        location = await self._location(record.topic, record.key, partition)

        async def send(session: Session) -> None:
            size_bytes, limit_bytes = len(record.value) + header_bytes, session.max_payload_bytes
            if size_bytes > limit_bytes:
                raise RecordTooLargeError(record.topic, size_bytes, limit_bytes)
            if header_bytes > _HEADER_LIMIT:
                raise RecordTooLargeError(record.topic, header_bytes, _HEADER_LIMIT)
            try:
                if partition is None or progress is not None or record.topic in PRODUCER_TOPICS:
                    await self._send(session, location, record.value, headers, progress)
                else:
                    await self._put_back(session, location, record.value, headers)
            except ApiError as error:
                raise _refusal(error, record.topic) from error

        await self._connection.retrying(send)

    async def _send(
        self,
        session: Session,
        location: "_KeyLocation",
        value: bytes,
        headers: dict[str, str],
        progress: Progress | None,
    ) -> None:
        """Publish a record: a large state before its output. The key's next output with a small one deletes it."""
        large = progress is not None and progress.is_large
        if progress is not None and large:
            self._large_states.add(location)
            await write_state(session, *location, progress)
        check_publish(await session.request(location.publish_subject, value, headers=headers))
        if progress is not None and not large and location in self._large_states:
            await drop_states(session, *location)
            self._large_states.discard(location)

    async def _put_back(
        self, session: Session, location: "_KeyLocation", value: bytes, headers: dict[str, str]
    ) -> None:
        """Store a record without progress on a topic whose records have it.

        It repeats the progress of its key's last record, and is stored directly after that record or not at all.
        """
        while True:
            last = (await session.request(location.last_record_subject)).headers or {}
            kept = {name: text for name, text in last.items() if name in PROGRESS_HEADERS}
            expected = {_EXPECTED_LAST: last.get("Nats-Sequence", "0")}
            try:
                check_publish(await session.request(location.publish_subject, value, headers=headers | kept | expected))
                return
            except ApiError as error:
                if error.code != _ANOTHER_CAME_BEFORE:
                    raise

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        if not _GROUP.fullmatch(subscription.group):
            raise ConfigurationError(f"the group {subscription.group!r} may only have letters, digits, '_' and '-'")
        counts = {topic: await self._partitions_of(topic) for topic in subscription.topics}
        self._runs += 1
        shares = LeaseShares(
            self._connection,
            group=subscription.group,
            member=f"{self._worker_id}-{self._runs}",
            partitions={
                number: frozenset(TopicPartition(topic, number) for topic, count in counts.items() if number < count)
                for number in range(max(counts.values()))
            },
        )

        async def read_progress(number: int, key: bytes) -> Progress | None:
            return await self._progress(subscription.progress_topic, number, key)

        async def open_partition(tp: TopicPartition) -> PulledPartition:
            return PulledPartition(
                self._connection,
                topic=tp.topic,
                group=subscription.group,
                number=tp.partition,
                prefetch_bytes=subscription.prefetch_bytes,
                read_progress=read_progress,
                store=self._store,
            )

        await shares.start()
        await read_shared(shares, open_partition, handler)

    async def follow(self, topics: tuple[str, ...], *, key: bytes | None = None) -> Feed:
        feed = JetStreamFeed(self._connection, topics, key)
        await feed.start()
        return feed

    def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        return stored_records(self._connection, topic, key, start)

    async def read(self, topic: str, partition: int, position: int) -> Record | None:
        await self._partitions_of(topic)
        record = await record_at(self._connection, topic, position)
        return record if record is not None and record.partition == partition else None

    async def lag(self, subscription: Subscription) -> int:
        total = 0
        for topic in subscription.topics:
            for number in range(await self._partitions_of(topic)):

                async def count(session: Session, topic: str = topic, number: int = number) -> int:
                    return await _lag(session, topic, number, subscription.group)

                total += await self._connection.retrying(count)
        return total

    async def describe(self, topics: tuple[str, ...]) -> list[TopicState]:
        async def look(session: Session) -> list[TopicState]:
            found = []
            for topic in topics:
                try:
                    found.append(_topic_state(topic, await session.api(f"STREAM.INFO.{stream_name(topic)}")))
                except ApiError as error:
                    if error.code != _STREAM_NOT_FOUND:
                        raise BusError(f"the topic {topic} cannot be described: {error}") from error
            return found

        return await self._connection.retrying(look)

    async def _progress(self, topic: str | None, partition: int, key: bytes) -> Progress | None:
        if topic is None:
            return None
        location = await self._location(topic, key, partition)

        async def read(session: Session) -> Progress | None:
            stored = progress_from_wire((await session.request(location.last_record_subject)).headers)
            if stored is None:
                return None
            progress, complete = stored
            if complete:
                return progress
            self._large_states.add(location)
            return msgspec.structs.replace(progress, state=await read_state(session, *location, progress.seq))

        return await self._connection.retrying(read)

    async def _location(self, topic: str, key: bytes, partition: int | None = None) -> "_KeyLocation":
        """Return where the key's records are: in `partition`, if it is given.

        On topics of producers the server chooses the partition, so the key needs a spelling that goes into `partition`.
        """
        count = await self._partitions_of(topic)
        token = key_token(key)
        if partition is not None and topic not in PRODUCER_TOPICS:
            return _KeyLocation(topic, partition % count, token)
        spellings = key_spellings(topic, key)
        token = next((text for text in spellings if partition_of(text.encode(), count) == partition), token)
        return _KeyLocation(topic, partition_of(token.encode(), count), token)

    async def _partitions_of(self, topic: str) -> int:
        """Return the topic's number of partitions. Raises BusError if there is no such topic."""
        known = self._partitions.get(topic)
        if known is not None:
            return known

        async def look(session: Session) -> int:
            try:
                info = await session.api(f"STREAM.INFO.{stream_name(topic)}")
            except ApiError as error:
                raise BusError(f"there is no topic {topic}: {error}") from error
            return int(info["config"]["metadata"][_PARTITIONS])

        found = self._partitions[topic] = await self._connection.retrying(look)
        return found


class _KeyLocation(NamedTuple):
    """The subject of a key's records."""

    topic: str
    partition: int
    token: str

    @property
    def publish_subject(self) -> str:
        base = subject_base(self.topic)
        return f"{base}.{self.token}" if self.topic in PRODUCER_TOPICS else f"{base}.{self.partition}.{self.token}"

    @property
    def last_record_subject(self) -> str:
        """The subject on which the server answers with the key's last record."""
        base = subject_base(self.topic)
        return f"$JS.API.DIRECT.GET.{stream_name(self.topic)}.{base}.{self.partition}.{self.token}"


def _header_bytes(headers: dict[str, str]) -> int:
    """Return their size on the wire: a first line, and each name and text with a colon, a space and a line end."""
    texts = "".join(headers.values())
    n_bytes = len(texts) if texts.isascii() else len(texts.encode())
    return n_bytes + sum(map(len, headers)) + 4 * len(headers) + 12


async def _ensure_stream(session: Session, spec: TopicSpec) -> None:
    name, base = stream_name(spec.name), subject_base(spec.name)
    limits: dict[str, Any] = {
        "max_age": int(spec.retention_s * NANOSECONDS),
        "max_bytes": -1 if spec.max_bytes is None else spec.max_bytes,
        "duplicate_window": int(min(_DUPLICATE_WINDOW_S, spec.retention_s) * NANOSECONDS),
    }
    try:
        config = (await session.api(f"STREAM.INFO.{name}"))["config"]
    except ApiError as error:
        if error.code != _STREAM_NOT_FOUND:
            raise
    else:
        if any(config.get(field) != value for field, value in limits.items()):
            await session.api(f"STREAM.UPDATE.{name}", config | limits)
        return
    config = limits | {
        "name": name,
        "subjects": [f"{base}.*.*"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "allow_direct": True,
        "metadata": {_PARTITIONS: str(spec.partitions)},
    }
    if spec.name in PRODUCER_TOPICS:
        config["subjects"] = [f"{base}.*"]
        config["subject_transform"] = {
            "src": f"{base}.*",
            "dest": f"{base}.{{{{partition({spec.partitions},1)}}}}.{{{{wildcard(1)}}}}",
        }
    await session.api(f"STREAM.CREATE.{name}", config)


def _topic_state(topic: str, info: dict[str, Any]) -> TopicState:
    config, held = info["config"], info["state"]
    return TopicState(
        name=topic,
        partitions=int(config["metadata"][_PARTITIONS]),
        retention_s=config["max_age"] / NANOSECONDS or None,
        max_bytes=None if config["max_bytes"] < 0 else config["max_bytes"],
        replicas=config["num_replicas"],
        compacted=config["max_msgs_per_subject"] == 1,
        records=held["messages"],
        size_bytes=held["bytes"],
    )


async def _lag(session: Session, topic: str, number: int, group: str) -> int:
    stream = stream_name(topic)
    try:
        info = await session.api(f"CONSUMER.INFO.{stream}.{consumer_name(group, number)}")
        return int(info["num_pending"]) + int(info["num_ack_pending"])
    except ApiError as error:
        if error.code != CONSUMER_NOT_FOUND:
            raise BusError(f"the lag of {topic} is unknown: {error}") from error
    total, seen, expected = 0, 0, 1
    while seen < expected:
        body = {"subjects_filter": f"{subject_base(topic)}.{number}.*", "offset": seen}
        info = await session.api(f"STREAM.INFO.{stream}", body)
        counts: dict[str, int] = info["state"].get("subjects") or {}
        total, seen = total + sum(counts.values()), seen + len(counts)
        expected = int(info.get("total", 0)) if counts else seen
    return total


def _refusal(error: ApiError, topic: str) -> BusError:
    if error.code in _STORE_FULL:
        return StoreFullError(f"the store is full and accepts no more records for {topic}: {error}")
    return BusError(f"the broker refuses a request for {topic}: {error}")
