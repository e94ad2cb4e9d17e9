"""Faust 0.15 as this bus uses it: group membership, fetching and flow control; positions are committed by us.

Three things of Faust's own are switched off, each because it loses records when acknowledgements come out of order or
late (`tests/contract/test_faust_pitfalls.py` shows each on a real broker):

- Its bookkeeping of acknowledged positions commits past a record that is still held. Here `commit` commits floors of
  `pipeline.bus.tracker`, and `ack` does nothing, also for the events that Faust's streams skip and acknowledge.
- Records that were fetched before a rebalance may reach the stream after it. Here a fetch carries the generation in
  which it was made, and one of another generation is dropped whole: its partitions begin again at what is committed.
- Its assignor does not keep a partition number of several topics together. Kafka's range assignor does.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import faust
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.app.base import BootStrategy
from faust.transport.drivers import aiokafka as driver
from yarl import URL

from pipeline.bus.kafka.clients import KafkaClients

RECORD_BYTES: Final = 32_000
"""What a record is taken to have when a limit of bytes has to be one of records."""
SESSION_S: Final = 10.0
REBALANCE_S: Final = 30.0
COMMIT_S: Final = 1.0
_NEVER_S: Final = 86_400.0

Place = tuple[str, int]


class Floors(Protocol):
    """What may be committed: positions up to which everything in a partition is acknowledged."""

    def risen(self) -> dict[Place, int]:
        """The floors that are above what was committed last."""
        ...

    def committed(self, floors: Mapping[Place, int]) -> None: ...


class _Fetched(dict[Any, Any]):
    """Records by partition, and the generation of the group in which they were fetched."""

    generation: int = -1


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_consumer(self, loop: Any) -> Any:
        consumer = super()._create_consumer(loop)
        consumer._partition_assignment_strategy = (RangePartitionAssignor,)
        return consumer

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> _Fetched:
        fetched = _Fetched(await super()._fetch_records(consumer, *arguments, **options))
        fetched.generation = consumer._coordinator.generation
        return fetched

    async def commit_positions(self, positions: Mapping[Any, int]) -> None:
        """Raises what aiokafka raises; unlike Faust's own commit it does not end the app."""
        consumer = self._ensure_consumer()
        offsets = {
            TopicPartition(*place): OffsetAndMetadata(position, "")
            for place, position in positions.items()
            if place in consumer.assignment()
        }
        if offsets:
            await self.call_thread(consumer.commit, offsets)


class _Consumer(driver.Consumer):  # type: ignore[misc]
    floors: Floors

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        fetched = await super()._getmany(active_partitions, timeout)
        if fetched and fetched.generation != self.app.consumer_generation_id:
            self.log.info("records of generation %s dropped", fetched.generation)
            return {}
        return fetched

    def ack(self, _message: Any) -> bool:
        return False

    async def commit(self, _topics: Any = None, **_options: Any) -> bool:
        """Commit the floors. What fails is committed with the next: the broker is away, or the group rebalances."""
        floors = self.floors.risen()
        if not floors:
            return False
        try:
            await self._thread.commit_positions({place: floor + 1 for place, floor in floors.items()})
        except KafkaError as error:
            self.log.info("the commit failed: %s", error)
            return False
        self.floors.committed(floors)
        return True


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class _Boot(BootStrategy):  # type: ignore[misc]
    """Outputs go through the bus's own producer, metrics through ours."""

    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class ReaderApp(faust.App):  # type: ignore[misc]
    """A Faust app that reads topics as one worker of a group."""

    BootStrategy = _Boot

    def behind(self, topic: str, partition: int, position: int) -> int:
        """How many records of the partition are behind `position`, as of the last fetch."""
        end = self.consumer.highwater(TopicPartition(topic, partition))
        return max(0, (end or 0) - position - 1)


Take = Callable[[Any], Awaitable[None]]


def reader_app(
    clients: KafkaClients,
    *,
    group: str,
    topics: tuple[str, ...],
    prefetch_bytes: int,
    data: Path,
    floors: Floors,
    take: Take,
) -> ReaderApp:
    """An app whose one agent gives each message of `topics` to `take`, in order per partition. Not started."""
    app = ReaderApp(
        group,
        broker=[URL(f"kafka://{server}") for server in clients.servers.split(",")],
        broker_credentials=_credentials(clients),
        datadir=data,
        store="memory://",
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_buffer_maxsize=max(16, prefetch_bytes // RECORD_BYTES),
        stream_processing_timeout=_NEVER_S,
        consumer_max_fetch_size=max(1_048_576, prefetch_bytes // 2),
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=COMMIT_S,
        broker_commit_livelock_soft_timeout=_NEVER_S,
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=REBALANCE_S,
        broker_max_poll_interval=3600.0,
    )
    channel = app.topic(*topics, key_serializer="raw", value_serializer="raw", acks=True)

    @app.agent(channel, concurrency=1, name=f"{group}.read")  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            await take(event.message)

    app.finalize()
    app.transport = _Transport(app.conf.broker_consumer, app)
    app.consumer.floors = floors
    return app


def _credentials(clients: KafkaClients) -> Any:
    security = clients.security
    if security.user is None:
        return None if clients.ssl_context is None else faust.SSLCredentials(context=clients.ssl_context)
    assert security.password is not None
    return faust.SASLCredentials(
        username=security.user,
        password=security.password.reveal(),
        ssl_context=clients.ssl_context,
        mechanism=security.sasl,
    )
