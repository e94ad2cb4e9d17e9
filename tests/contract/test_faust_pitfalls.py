"""Cases in which Faust loses records if acknowledgements come late and out of order. Our bus does not lose them.

Each pitfall has two tests on a real broker: one shows that the bus redelivers the record, its twin that Faust with the
same settings, `stream.noack()` and `event.ack()`, does not (faust-streaming 0.15.3). A twin that fails is good news:
Faust has fixed the fault, and the bus may drop its workaround.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faust.app.base import BootStrategy

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.kafka.clients import KafkaClients
from pipeline.bus.kafka.faust_app import settings
from pipeline.bus.protocol import Outgoing, Partition, Record, Subscription, TopicSpec
from pipeline.bus.security import BusSecurity
from tests.contract.brokers import KafkaBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding
from tests.support.brokers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

TOPIC = "calls.audio"
GROUP = "separate"
SUBSCRIPTION = Subscription(group=GROUP, topics=(TOPIC,))


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


class _Boot(BootStrategy):  # type: ignore[misc]
    enable_web = False
    enable_sensors = False


class PlainFaust:
    """A worker of the group as in Faust's documentation: one agent, manual acknowledgements."""

    def __init__(self, server: KafkaServer, data: Path, on_event: Callable[[Any], Awaitable[None]] | None = None):
        clients = KafkaClients(server.bootstrap, BusSecurity(), request_timeout_s=40.0)
        self.app = faust.App(GROUP, **settings(clients, prefetch_bytes=4_000_000, data=data))
        self.app.BootStrategy = _Boot
        self.app.boot_strategy = _Boot(self.app)
        self.events: list[Any] = []
        channel = self.app.topic(TOPIC, key_serializer="raw", value_serializer="raw")

        @self.app.agent(channel, concurrency=1)  # type: ignore[untyped-decorator]
        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                self.events.append(event)
                if on_event is not None:
                    await on_event(event)

        self.app.finalize()

    @property
    def numbers(self) -> list[int]:
        return [int(event.value) for event in self.events]

    @property
    def held(self) -> set[int]:
        return {place.partition for place in self.app.consumer.assignment()}

    async def ack(self, *numbers: int) -> None:
        """Acknowledge the first delivery of each number."""
        for number in numbers:
            event = next(event for event in self.events if int(event.value) == number)
            event.ack()

    async def __aenter__(self) -> "PlainFaust":
        await self.app.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.app.stop()


async def until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # Faust does not tell
            await asyncio.sleep(0.02)


async def topic(kafka: KafkaBroker, *, partitions: int = 1) -> KafkaBus:
    bus = await kafka.bus()
    await bus.ensure_topics([TopicSpec(name=TOPIC, partitions=partitions, retention_s=3600)])
    return bus


async def publish(bus: KafkaBus, first: int, count: int, *, partitions: int = 1) -> None:
    """Publish records `first`, `first` + 1, …, to the partitions in turn."""
    for number in range(first, first + count):
        await bus.publish(
            Outgoing(TOPIC, key=b"call", value=str(number).encode(), event_id=str(number)),
            partition=number % partitions,
        )


async def committed(kafka: KafkaBroker, partition: int = 0) -> int | None:
    """Return the group's committed offset in the partition, None without one."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.server.inside)
    await admin.start()
    try:
        place = TopicPartition(TOPIC, partition)
        offset: int = (await admin.list_consumer_group_offsets(GROUP, partitions=[place]))[place].offset
    finally:
        await admin.close()
    return None if offset < 0 else offset


async def comes_to(kafka: KafkaBroker, offset: int, *, partition: int = 0, timeout_s: float = 10.0) -> None:
    """Wait until the group's committed offset is `offset`."""
    async with asyncio.timeout(timeout_s):
        while await committed(kafka, partition) != offset:  # noqa: ASYNC110  # the broker does not tell
            await asyncio.sleep(0.1)


async def acknowledge_the_first(bus: KafkaBus, count: int, running: Running) -> None:
    """Let the group read and acknowledge `count` records, so that it is no longer new."""
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(count)


async def delivered_next(bus: KafkaBus, running: Running, *, last: int) -> list[int]:
    """Return what the group's next worker gets, up to the record `last`."""
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: str(last).encode() in recorder.values)
    return [int(value) for value in recorder.values]


def ack(recorder: Recorder, *numbers: int) -> None:
    for number in numbers:
        recorder.ack(next(record for record in recorder.records if int(record.value) == number))


# -- one held head record ----------------------------------------------------------------------------------------------


async def test_a_single_held_head_record_is_redelivered(kafka: KafkaBroker, running: Running) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 10)
    await acknowledge_the_first(bus, 10, running)
    await publish(bus, 10, 10)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(10)
        ack(recorder, *range(11, 20))
        await asyncio.sleep(1.5)
        assert await committed(kafka) == 10
    assert await delivered_next(bus, running, last=19) == list(range(10, 20))


async def test_plain_faust_commits_past_a_single_held_head_record(
    kafka: KafkaBroker, running: Running, tmp_path: Path
) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 10)
    await acknowledge_the_first(bus, 10, running)
    await publish(bus, 10, 10)
    async with PlainFaust(kafka.server, tmp_path) as plain:
        await until(lambda: len(plain.events) == 10)
        await plain.ack(*range(11, 20))
        await comes_to(kafka, 20)
    await publish(bus, 20, 1)
    assert await delivered_next(bus, running, last=20) == [20]


# -- the first records of a new group ----------------------------------------------------------------------------------


async def test_the_first_records_of_a_new_group_are_redelivered(kafka: KafkaBroker, running: Running) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 20)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(20)
        ack(recorder, *range(7, 20))
        await asyncio.sleep(1.5)
        assert not await committed(kafka)
    assert await delivered_next(bus, running, last=19) == list(range(20))


async def test_plain_faust_commits_past_all_the_first_records_of_a_new_group(
    kafka: KafkaBroker, running: Running, tmp_path: Path
) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 20)
    async with PlainFaust(kafka.server, tmp_path) as plain:
        await until(lambda: len(plain.events) == 20)
        await plain.ack(*range(7, 20))
        await comes_to(kafka, 20)
    await publish(bus, 20, 1)
    assert await delivered_next(bus, running, last=20) == [20]


# -- positions without records -----------------------------------------------------------------------------------------


async def compacted_topic(kafka: KafkaBroker) -> tuple[KafkaBus, int]:
    """Return a bus with records 0 to 4, a gap, and records 5 to 9, and the position of record 5.

    The records of the gap had the key of record 5, and compaction removed them.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.server.inside)
    await admin.start()
    quick = {"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.001"}
    await admin.create_topics([NewTopic(TOPIC, 1, 1, topic_configs=quick)])
    await admin.close()
    bus = await kafka.bus()
    n_lost = 8

    async def put(number: int, key: bytes) -> None:
        await bus.publish(Outgoing(TOPIC, key=key, value=str(number).encode(), event_id=""), partition=0)

    for number in range(5):
        await put(number, f"call-{number}".encode())
    for _ in range(n_lost):
        await put(-1, b"call-5")
    await put(5, b"call-5")
    await asyncio.sleep(0.4)
    for number in range(6, 10):
        await put(number, f"call-{number}".encode())
    async with asyncio.timeout(60):
        while len([record async for record in bus.stored(TOPIC)]) > 10:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.2)
    positions = {int(record.value): record.position async for record in bus.stored(TOPIC)}
    assert positions[5] == positions[4] + 1 + n_lost
    return bus, positions[5]


async def transactional_topic(kafka: KafkaBroker) -> tuple[KafkaBus, int]:
    """The same, with records 0 to 4 and 5 to 9 in two transactions of an outside producer."""
    bus = await topic(kafka)
    async with AIOKafkaProducer(bootstrap_servers=kafka.server.bootstrap, transactional_id="outside") as producer:
        for numbers in (range(5), range(5, 10)):
            async with producer.transaction():
                for number in numbers:
                    await producer.send_and_wait(TOPIC, str(number).encode(), key=b"call", partition=0)
    return bus, 6


GAPS = pytest.mark.parametrize("with_gap", [compacted_topic, transactional_topic])


@GAPS
async def test_a_record_after_a_gap_is_redelivered(
    kafka: KafkaBroker, running: Running, with_gap: Callable[[KafkaBroker], Awaitable[tuple[KafkaBus, int]]]
) -> None:
    bus, behind_hole = await with_gap(kafka)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(10)
        ack(recorder, *(number for number in range(10) if number != 5))
        await comes_to(kafka, behind_hole)
        await asyncio.sleep(1.5)
        assert await committed(kafka) == behind_hole
    assert await delivered_next(bus, running, last=9) == list(range(5, 10))
    assert await bus.lag(SUBSCRIPTION) == 0


@GAPS
async def test_plain_faust_commits_past_a_held_record_after_a_gap(
    kafka: KafkaBroker,
    running: Running,
    tmp_path: Path,
    with_gap: Callable[[KafkaBroker], Awaitable[tuple[KafkaBus, int]]],
) -> None:
    bus, behind_hole = await with_gap(kafka)
    async with PlainFaust(kafka.server, tmp_path) as plain:
        await until(lambda: len(plain.events) == 10)
        await plain.ack(*(number for number in range(10) if number != 5))
        await comes_to(kafka, behind_hole + 5)
    await publish(bus, 10, 1)
    assert await delivered_next(bus, running, last=10) == [10]


async def test_the_end_marker_of_a_transaction_is_no_lag(kafka: KafkaBroker, running: Running) -> None:
    bus, _ = await transactional_topic(kafka)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(10)
        await comes_to(kafka, 12)
        assert await bus.lag(SUBSCRIPTION) == 0
    assert recorder.records[-1].lag == 0
    assert [record.lag for record in recorder.records[:2]] == [11, 10]


async def test_records_of_an_aborted_transaction_are_not_read(kafka: KafkaBroker, running: Running) -> None:
    bus = await topic(kafka)
    async with AIOKafkaProducer(bootstrap_servers=kafka.server.bootstrap, transactional_id="outside") as producer:
        with contextlib.suppress(ArithmeticError):
            async with producer.transaction():
                await producer.send_and_wait(TOPIC, b"1", key=b"call", partition=0)
                raise ArithmeticError
    await publish(bus, 2, 1)
    assert await delivered_next(bus, running, last=2) == [2]


# -- acknowledgements of an earlier generation -------------------------------------------------------------------------


async def test_acknowledgements_from_before_a_rebalance_do_not_count_after_it(
    kafka: KafkaBroker, running: Running
) -> None:
    bus, other = await topic(kafka, partitions=2), await kafka.bus()
    await publish(bus, 0, 10, partitions=2)
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(10)
        before = [(record, first.partitions[record.topic, record.partition]) for record in first.records]
        second = holding()
        async with running(other, SUBSCRIPTION, second):
            await first.until(lambda: len(first.held) == len(second.held) == 1)
        await first.until(lambda: len(first.held) == 2)
        await first.count(25)
        for record, partition in before:
            partition.ack(record.position)
        await asyncio.sleep(1.5)
        assert not await committed(kafka, 0)
        assert not await committed(kafka, 1)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(10)


async def test_plain_faust_counts_acknowledgements_from_before_a_rebalance(kafka: KafkaBroker, tmp_path: Path) -> None:
    bus = await topic(kafka, partitions=2)
    await publish(bus, 0, 10, partitions=2)
    async with PlainFaust(kafka.server, tmp_path) as plain:
        await until(lambda: len(plain.events) == 10)
        before = list(plain.events)
        async with PlainFaust(kafka.server, tmp_path) as second:
            await until(lambda: len(plain.held) == len(second.held) == 1)
        # That records may not be redelivered by then is another pitfall: nothing was committed yet.
        await until(lambda: len(plain.held) == 2, timeout_s=40.0)
        await asyncio.sleep(2.0)
        for event in before:
            event.ack()
        await comes_to(kafka, 5)


# -- a rebalance while a record is being worked on ---------------------------------------------------------------------

MODEL_CALL_S = 25.0


class ModelCalls:
    """Processes each record in a task of its own, as a stage does. Record 0 takes as long as a slow model."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, number: int, done: Callable[[], object]) -> None:
        async def call() -> None:
            await asyncio.sleep(MODEL_CALL_S if number == 0 else 0.01)
            done()

        self.tasks.add(asyncio.create_task(call()))

    async def on_record(self, record: Record, partition: Partition) -> None:
        self.start(int(record.value), lambda: partition.ack(record.position))

    async def on_event(self, event: Any) -> None:
        self.start(int(event.value), event.ack)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.slow
async def test_a_worker_that_joins_during_a_model_call_gets_its_share_at_once(
    kafka: KafkaBroker, running: Running
) -> None:
    bus, other = await topic(kafka, partitions=2), await kafka.bus()
    await publish(bus, 0, 400, partitions=2)
    first_calls, second_calls = ModelCalls(), ModelCalls()
    first, second = Recorder(first_calls.on_record), Recorder(second_calls.on_record)
    clock = asyncio.get_running_loop().time
    async with running(bus, SUBSCRIPTION, first):
        await first.count(400)
        async with running(other, SUBSCRIPTION, second):
            joined_at = clock()
            await first.until(lambda: len(first.held) == len(second.held) == 1)
            assert clock() - joined_at < 8
            # Record 0 and those after it are redelivered to the worker that now has its partition.
            zero = first if (TOPIC, 0) in first.held else second
            await zero.until(lambda: zero.values.count(b"0") == (2 if zero is first else 1))
            assert not await committed(kafka, 0)
            await comes_to(kafka, 200, timeout_s=MODEL_CALL_S + 10)
            assert zero.values.count(b"0") == (2 if zero is first else 1)
            await comes_to(kafka, 200, partition=1)
    await first_calls.stop()
    await second_calls.stop()
    assert await bus.lag(SUBSCRIPTION) == 0


@pytest.mark.slow
async def test_a_handler_that_awaits_does_not_delay_a_worker_that_joins(kafka: KafkaBroker, running: Running) -> None:
    bus, other = await topic(kafka, partitions=2), await kafka.bus()
    await publish(bus, 0, 400, partitions=2)

    async def slow(record: Record, partition: Partition) -> None:
        await asyncio.sleep(MODEL_CALL_S)

    first, second = Recorder(slow), Recorder()
    clock = asyncio.get_running_loop().time
    small = Subscription(group=GROUP, topics=(TOPIC,), prefetch_bytes=100)
    async with running(bus, small, first):
        await first.count(2)
        async with running(other, SUBSCRIPTION, second):
            joined_at = clock()
            await second.count(200)
            assert clock() - joined_at < 8
            assert len(first.held) == 1
        assert clock() - joined_at < MODEL_CALL_S


async def test_plain_faust_does_not_redeliver_the_record_of_a_model_call(kafka: KafkaBroker, tmp_path: Path) -> None:
    """So if the worker dies during the call, nobody repeats it."""
    bus = await topic(kafka, partitions=2)
    await publish(bus, 0, 40, partitions=2)
    first_calls, second_calls = ModelCalls(), ModelCalls()
    async with PlainFaust(kafka.server, tmp_path / "1", first_calls.on_event) as first:
        await until(lambda: len(first.events) == 40)
        await comes_to(kafka, 20)
        async with PlainFaust(kafka.server, tmp_path / "2", second_calls.on_event) as second:
            await until(lambda: len(first.held) == len(second.held) == 1)
            await publish(bus, 40, 2, partitions=2)
            await until(lambda: {40, 41} <= {*first.numbers, *second.numbers})
            await first_calls.stop()
            assert first.numbers.count(0) + second.numbers.count(0) == 1
    await second_calls.stop()


# -- a handler that fails ----------------------------------------------------------------------------------------------


async def test_a_record_on_which_the_handler_failed_is_redelivered(kafka: KafkaBroker, running: Running) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 10)

    async def fail_at_three(record: Record, partition: Partition) -> None:
        if record.value == b"3":
            raise ArithmeticError("boom")
        partition.ack(record.position)

    with pytest.raises(ArithmeticError, match="boom"):
        async with asyncio.timeout(10):
            await bus.run(SUBSCRIPTION, Recorder(fail_at_three))
    assert await committed(kafka) == 3
    assert await delivered_next(bus, running, last=9) == list(range(3, 10))


async def test_plain_faust_skips_the_record_on_which_an_agent_failed(
    kafka: KafkaBroker, running: Running, tmp_path: Path
) -> None:
    bus = await topic(kafka)
    await publish(bus, 0, 10)

    async def fail_at_three(event: Any) -> None:
        if event.value == b"3":
            raise ArithmeticError("boom")
        event.ack()

    async with PlainFaust(kafka.server, tmp_path, fail_at_three) as plain:
        await until(lambda: 9 in plain.numbers)
        await comes_to(kafka, 10)
        assert plain.numbers.count(3) == 1
    await publish(bus, 10, 1)
    assert await delivered_next(bus, running, last=10) == [10]
