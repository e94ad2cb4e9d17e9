"""The bus on NATS JetStream: a stream for each topic, a consumer for each group and partition.

Names are in `subjects`, reading in `partition`, sharing between workers in `leases`, reading without a group in
`stored`. The last record of a key's subject on a topic holds the key's progress (`outputs`). Other producers publish to
`calls.audio.<call id in base64url>`; the server adds the partition.
"""

import re
import secrets
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from pipeline.bus.assignment import TopicPartition, read_shared
from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.nats.connection import ApiError, NatsConnection, Session, check_publish
from pipeline.bus.nats.consumer import CONSUMER_NOT_FOUND, consumer_name
from pipeline.bus.nats.feed import JetStreamFeed
from pipeline.bus.nats.freeing import freed_mark
from pipeline.bus.nats.large_states import STREAM, ensure_states
from pipeline.bus.nats.leases import LeaseShares
from pipeline.bus.nats.outputs import NumberedOutputs
from pipeline.bus.nats.partition import PulledPartition
from pipeline.bus.nats.publishing import put_beside, refusal, storing, wire_headers
from pipeline.bus.nats.stored import record_at, stored_records
from pipeline.bus.nats.streams import PARTITIONS, STREAM_NOT_FOUND, ensure_stream, topic_state
from pipeline.bus.nats.subjects import PRODUCER_TOPICS, KeyLocation, key_spellings, stream_name, subject_base
from pipeline.bus.protocol import Feed, Handler, Outgoing, Record, Subscription, TopicSpec, TopicState
from pipeline.bus.security import BusSecurity
from pipeline.errors import BusError, ConfigurationError

_GROUP: Final = re.compile(r"[A-Za-z0-9_-]+")

_RECORD_NOT_FOUND: Final = 10043


class JetStreamBus:
    """`reconnect_s` is how long a lost broker is waited for before BusError."""

    def __init__(self, url: str, *, reconnect_s: float = 30.0, security: BusSecurity | None = None) -> None:
        self._worker_id = secrets.token_hex(4)
        self._connection = NatsConnection(
            url, name=f"callstream {self._worker_id}", reconnect_s=reconnect_s, security=security
        )
        self._partitions: dict[str, int] = {}
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
                    await ensure_stream(session, spec)
                except ApiError as error:
                    raise refusal(error, spec.name) from error

            await self._connection.retrying(ensure)

        async def states(session: Session) -> None:
            try:
                await ensure_states(session, retention_s=max(spec.retention_s for spec in topics))
            except ApiError as error:
                raise refusal(error, STREAM) from error

        await self._connection.retrying(states)

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        headers = wire_headers(record)
        location = await self._location(record.topic, record.key, partition)

        async def send(session: Session) -> None:
            if partition is None or record.topic in PRODUCER_TOPICS:
                check_publish(await session.request(location.publish_subject, record.value, headers=headers))
            else:
                await put_beside(session, location, record.value, headers)

        await storing(self._connection, record, headers, send)

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

        async def open_partition(tp: TopicPartition) -> PulledPartition:
            return PulledPartition(
                self._connection,
                topic=tp.topic,
                group=subscription.group,
                number=tp.partition,
                prefetch_bytes=subscription.prefetch_bytes,
                outputs=NumberedOutputs(
                    self._connection, self._location, topic=subscription.progress_topic, number=tp.partition
                ),
                store=self.publish,
                lose=shares.lose,
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

    async def delete(self, topic: str, partition: int, position: int) -> bool:
        if await self.read(topic, partition, position) is None:
            return False

        async def remove(session: Session) -> None:
            try:
                await session.api(f"STREAM.MSG.DELETE.{stream_name(topic)}", {"seq": position, "no_erase": True})
            except ApiError as error:
                if error.code != _RECORD_NOT_FOUND:
                    raise BusError(f"a record of {topic} cannot be deleted: {error}") from error

        await self._connection.retrying(remove)
        return True

    async def freed_at(self, topic: str, key: bytes) -> float | None:
        marks = [freed_mark(topic, token) for token in key_spellings(topic, key)]

        async def look(session: Session) -> float | None:
            found = [await session.request(f"$JS.API.DIRECT.GET.{STREAM}.{mark}") for mark in marks]
            times = [(message.headers or {}).get("Nats-Time-Stamp") for message in found]
            return max((datetime.fromisoformat(time).timestamp() for time in times if time), default=None)

        return await self._connection.retrying(look)

    async def lag(self, subscription: Subscription) -> int:
        return sum((await self.lag_by_partition(subscription)).values())

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        found = {}
        for topic in subscription.topics:
            for number in range(await self._partitions_of(topic)):

                async def count(session: Session, topic: str = topic, number: int = number) -> int:
                    return await _lag(session, topic, number, subscription.group)

                found[topic, number] = await self._connection.retrying(count)
        return found

    async def describe(self, topics: tuple[str, ...]) -> list[TopicState]:
        async def look(session: Session) -> list[TopicState]:
            found = []
            for topic in topics:
                try:
                    found.append(topic_state(topic, await session.api(f"STREAM.INFO.{stream_name(topic)}")))
                except ApiError as error:
                    if error.code != STREAM_NOT_FOUND:
                        raise BusError(f"the topic {topic} cannot be described: {error}") from error
            return found

        return await self._connection.retrying(look)

    async def _location(self, topic: str, key: bytes, partition: int | None = None) -> KeyLocation:
        """Return where the key's records are: in `partition`, if it is given.

        On topics of producers the server chooses the partition, so the key needs a spelling that goes into `partition`.
        """
        count = await self._partitions_of(topic)
        token = key_token(key)
        if partition is not None and topic not in PRODUCER_TOPICS:
            return KeyLocation(topic, partition % count, token)
        spellings = key_spellings(topic, key)
        token = next((text for text in spellings if partition_of(text.encode(), count) == partition), token)
        return KeyLocation(topic, partition_of(token.encode(), count), token)

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
            return int(info["config"]["metadata"][PARTITIONS])

        found = self._partitions[topic] = await self._connection.retrying(look)
        return found


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
