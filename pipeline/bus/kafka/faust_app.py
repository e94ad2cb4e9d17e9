"""Faust 0.15 for group membership, fetching and flow control. This bus commits positions itself.

Four parts of Faust are replaced, because each loses records when acknowledgements come out of order or late
(`tests/contract/test_faust_pitfalls.py` shows each on a real broker):

- Its bookkeeping of acknowledged positions commits past a record that is still held. Here `commit` commits the floors
  of `pipeline.bus.tracker`, and `ack` does nothing, even for events that Faust's streams skip and acknowledge.
- It may commit a position of an earlier generation as one of the current. Here a commit is sent once, in the
  generation of its floors, or not at all.
- Records that were fetched before a rebalance may reach the stream after it. Here a fetch carries its generation, and
  one of another generation is dropped as a whole: its partitions are re-read from the committed positions.
- Its assignor does not keep a partition number of several topics together. Kafka's range assignor does.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import faust
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.app.base import BootStrategy
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as driver
from mode.services import WaitResults
from yarl import URL

from pipeline.bus.kafka.buffer import StreamBuffer
from pipeline.bus.kafka.clients import KafkaClients

SESSION_S: Final = 10.0
HEARTBEAT_S: Final = 1.0
"""The delay after which a worker learns that another joined or left."""
REBALANCE_S: Final = 30.0
COMMIT_S: Final = 1.0
_COMMIT_WITHIN_S: Final = 5.0
_LEAVE_WITHIN_S: Final = 5.0
_SEEK_PAUSE_S: Final = 0.2
_NEVER_S: Final = 86_400.0
_NEVER_FULL: Final = 1_000_000


class Floors(Protocol):
    """The positions that may be committed."""

    def floors(self) -> tuple[int, Mapping[tuple[str, int], int]]:
        """Return the generation in which partitions are held, and the floor of each by topic and partition.

        The floor is the position up to which everything that was delivered is acknowledged, -1 before the first.
        """
        ...


class _Fetched(dict[Any, Any]):
    """Records by partition, with the generation of the group in which they were fetched."""

    generation: int = -1


class GroupError(Exception):
    """The group refuses this worker, for example by an access list, until an operator changes that."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread with the Kafka client. Methods named _fetch… or _commit… run in it, the others in the app's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.last_fetched: dict[Any, tuple[int, int]] = {}
        """By partition, in this generation: the position of the last record, and the start of the next fetch."""
        self._last_generation = -1
        self._committed: dict[Any, int] = {}
        self.heard_at_s = 0.0
        """When the last heartbeat was sent that the broker answered with this worker being in the group."""
        super().__init__(*arguments, **options)

    def _create_consumer(self, loop: Any) -> Any:
        consumer = super()._create_consumer(loop)
        consumer._partition_assignment_strategy = (RangePartitionAssignor,)
        consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        beat = coordinator._do_heartbeat

        async def noted() -> bool:
            sent_at_s = time.monotonic()
            member: bool = await beat()
            if member:
                self.heard_at_s = sent_at_s
            return member

        coordinator._do_heartbeat = noted

    async def on_partitions_assigned(self, *arguments: Any) -> None:
        self.heard_at_s = time.monotonic()
        await super().on_partitions_assigned(*arguments)

    async def seek_to_committed(self) -> Any:
        """Seek the committed positions, and the beginning of partitions without one.

        For those aiokafka leaves the position after the records that it has handed out.
        """
        committed = await super().seek_to_committed()
        fresh = [tp for tp, position in committed.items() if not position or position < 0]
        if fresh:
            await self.call_thread(self._ensure_consumer().seek_to_beginning, *fresh)
        self._committed = {tp: position or 0 for tp, position in committed.items()}
        return committed

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> _Fetched:
        fetched = _Fetched(await super()._fetch_records(consumer, *arguments, **options))
        fetched.generation = consumer._coordinator.generation
        if fetched.generation != self._last_generation:
            self._last_generation = fetched.generation
            self.last_fetched.clear()
        for tp, records in fetched.items():
            self.last_fetched[tp] = (records[-1].offset, 0)
        for tp, (last, _) in self.last_fetched.items():
            self.last_fetched[tp] = (last, _next_position(consumer, tp) or 0)
        return fetched

    async def commit_floors(self, generation: int, floors: Mapping[tuple[str, int], int]) -> None:
        """Commit from the app's thread. Without floors it only raises the error that reading has failed with.

        Raises what `_commit_floors` raises, and TimeoutError also if Faust's thread has ended and does not answer.
        """
        async with asyncio.timeout(2 * _COMMIT_WITHIN_S):
            await self.call_thread(self._commit_floors, generation, floors)

    async def _commit_floors(self, generation: int, floors: Mapping[tuple[str, int], int]) -> None:
        """Commit once. Unlike Faust's own commit this does not end the app.

        Raises what aiokafka raises, and GroupError for an error of aiokafka's group coordination, which Faust never
        asks for.

        Once everything that was fetched is acknowledged, the positions up to the next fetch hold no records (they are
        markers of transactions, or compaction removed theirs). They are committed too: else they count as lag for ever.
        """
        consumer = self._ensure_consumer()
        try:
            consumer._coordinator.check_errors()
        except KafkaError as error:
            raise GroupError(repr(error)) from error
        if generation != consumer._coordinator.generation:
            return
        positions = {}
        for tp, floor in floors.items():
            position = floor + 1
            last = self.last_fetched.get(tp)
            if generation == self._last_generation and last is not None and floor >= last[0]:
                position = max(position, last[1])
            if position > self._committed.get(tp, position):
                positions[TopicPartition(*tp)] = OffsetAndMetadata(position, "")
        if not positions:
            return
        async with asyncio.timeout(_COMMIT_WITHIN_S):
            await consumer._coordinator._do_commit_offsets(None, positions)
        self._committed |= {tp: committed.offset for tp, committed in positions.items()}

    async def on_thread_stop(self) -> None:
        """Leave the group if the broker answers; if not, the group's session expires.

        Faust waits a minute for it. A CancelledError here is one of aiokafka's own tasks: nobody cancels this.
        """
        await super(driver.AIOKafkaConsumerThread, self).on_thread_stop()
        consumer = self._consumer
        if consumer is None:
            return
        for end in (consumer.stop, consumer._client.close):
            with contextlib.suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(_LEAVE_WITHIN_S):
                    await end()


def _next_position(consumer: Any, tp: Any) -> int | None:
    """Return the start of the next fetch, before which everything was handed out; None if it is not known."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or tp not in assignment.tps:
        return None
    state = assignment.state_value(TopicPartition(*tp))
    return state.position if state.has_valid_position else None


class _Consumer(driver.Consumer):  # type: ignore[misc]
    floors: Floors
    buffer: StreamBuffer
    _thread: _ConsumerThread
    _sought = True

    def __init__(self, transport: Any, callback: Any, **options: Any) -> None:
        self._give_to_stream = callback
        super().__init__(transport, self._deliver, **options)

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Seek the committed positions after a rebalance, in which Faust drops what it has fetched.

        If seeking fails Faust continues after the dropped records. So here nothing is fetched before it has succeeded.
        """
        self._sought = False
        await super().perform_seek()
        self._sought = True

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        if not self._sought:
            try:
                await self.perform_seek()
            except KafkaError as error:
                self.log.info("seek to committed positions failed: %r", error)
                await asyncio.sleep(_SEEK_PAUSE_S)
                return {}
        fetched = await super()._getmany(active_partitions, timeout)
        if fetched and fetched.generation != self.app.consumer_generation_id:
            self.log.info("records of generation %s dropped", fetched.generation)
            return {}
        return fetched

    async def _deliver(self, message: Any) -> None:
        await self.buffer.room()
        self.buffer.put(message)
        await self._give_to_stream(message)

    async def wait_first(self, *waited: Any, timeout: Any = None) -> Any:
        """Wait for a delivery or a rebalance: without tasks if a delivery cannot block. Faust makes four a record."""
        if len(waited) != 2 or self._delivery_may_wait():
            return await super().wait_first(*waited, timeout=timeout)
        delivery, suspension = waited
        suspension.close()
        return WaitResults([delivery], [await delivery], stopped=False)

    def _delivery_may_wait(self) -> bool:
        return (
            self.buffer.full or not self.app.flow_control.is_active() or self.app.topics._tp_to_callback_lock.locked()
        )

    def verify_event_path(self, _now: float, _tp: Any) -> None:
        """Do nothing. Faust's own warns of slow streams, and ends the app if it meets a newly assigned partition."""

    def ack(self, _message: Any) -> bool:
        return False

    async def commit(self, _topics: Any = None, **_options: Any) -> bool:
        """Commit the floors. If that fails (broker away, group rebalancing), the next commit includes them."""
        try:
            await self._thread.commit_floors(*self.floors.floors())
        except (KafkaError, TimeoutError) as error:
            self.log.info("commit failed: %r", error)
            return False
        except GroupError as error:
            await self.crash(error)
            return False
        return True

    @property
    def since_heartbeat_s(self) -> float:
        """Seconds since the last heartbeat that the broker answered with this worker being in the group."""
        return time.monotonic() - self._thread.heard_at_s

    def lag(self, tp: Any, position: int) -> int:
        """Return the number of the partition's positions after a record, as of the last fetch."""
        last, following = self._thread.last_fetched.get(tp, (-1, 0))
        return max(0, (self.highwater(tp) or 0) - (following if position == last else position + 1))


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class _Boot(BootStrategy):  # type: ignore[misc]
    """Without Faust's producer, web server and sensors: the bus has its own producer and metrics."""

    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False


class _Tables(TableManager):  # type: ignore[misc]
    async def on_start(self) -> None:
        """Start without waiting. Faust waits a second for tables, of which there are none."""
        await self._update_channels()
        await self.recovery.start()


class ReaderApp(faust.App):  # type: ignore[misc]
    """A Faust app that reads topics as one worker of a group."""

    BootStrategy = _Boot

    def lag(self, topic: str, partition: int, position: int) -> int:
        """Return the number of the partition's records after `position`, as of the last fetch."""
        lag: int = self.consumer.lag(TopicPartition(topic, partition), position)
        return lag

    @property
    def is_member(self) -> bool:
        """True while the group cannot have given this worker's partitions away: its session has not expired."""
        since_heartbeat_s: float = self.consumer.since_heartbeat_s
        return since_heartbeat_s < SESSION_S


Take = Callable[[Any], Awaitable[None]]


def settings(clients: KafkaClients, *, prefetch_bytes: int, data: Path) -> dict[str, Any]:
    """Return the settings of an app. The timeouts of 24 hours are of watchdogs that end an app with a slow stage."""
    return {
        "broker": [URL(f"kafka://{server}") for server in clients.servers.split(",")],
        "broker_credentials": _credentials(clients),
        "datadir": data,
        "store": "memory://",
        "autodiscover": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "stream_wait_empty": False,
        "stream_buffer_maxsize": _NEVER_FULL,
        "stream_processing_timeout": _NEVER_S,
        "consumer_max_fetch_size": max(1_048_576, prefetch_bytes // 2),
        "consumer_auto_offset_reset": "earliest",
        "broker_commit_interval": COMMIT_S,
        "broker_commit_livelock_soft_timeout": _NEVER_S,
        "broker_session_timeout": SESSION_S,
        "broker_heartbeat_interval": HEARTBEAT_S,
        "broker_rebalance_timeout": REBALANCE_S,
        "broker_request_timeout": clients.request_timeout_s,
        "broker_max_poll_interval": _NEVER_S,
    }


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
    """Return an app, not started, whose one agent passes each message of `topics` to `take`, in order per partition."""
    app = ReaderApp(group, TableManager=_Tables, **settings(clients, prefetch_bytes=prefetch_bytes, data=data))
    channel = app.topic(*topics, key_serializer="raw", value_serializer="raw", acks=True)

    @app.agent(channel, concurrency=1, name=f"{group}.read")  # type: ignore[untyped-decorator]
    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            app.consumer.buffer.taken(event.message)
            await take(event.message)

    app.finalize()
    app.transport = _Transport(app.conf.broker_consumer, app)
    app.consumer.floors = floors
    app.consumer.buffer = StreamBuffer(prefetch_bytes // 4, lambda: all(topic.queue.empty() for topic in app.topics))
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
