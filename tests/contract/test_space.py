"""Room in a store that is short of it, on a real nats-server: what is freed, what never is, who is refused."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.bus.keys import key_token
from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.nats.connection import NatsConnection, Session
from pipeline.bus.nats.server import NatsServer
from pipeline.bus.nats.space import EASED, SHORT, SpaceKeeper
from pipeline.bus.protocol import Bus, Outgoing, Partition, Progress, Record, Subscription, TopicSpec
from pipeline.errors import StoreFullError
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.embedded_bus import open_deployment_bus
from schemas import topics
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder

STORE_BYTES = 4_000_000
KB = 1_000
SEPARATE = Subscription(group="separate", topics=(topics.AUDIO,), progress_topic=topics.UTTERANCES)
TRANSCRIBE = Subscription(group="transcribe", topics=(topics.UTTERANCES,), progress_topic=topics.SEGMENTS)
AUDIO = TopicSpec(
    name=topics.AUDIO, partitions=1, retention_s=3600, max_bytes=1_000_000, readers=(SEPARATE,), frees=True
)
UTTERANCES = TopicSpec(
    name=topics.UTTERANCES,
    partitions=1,
    retention_s=3600,
    max_bytes=1_000_000,
    readers=(TRANSCRIBE,),
    writers=(SEPARATE,),
    frees=True,
)
SEGMENTS = TopicSpec(name=topics.SEGMENTS, partitions=1, retention_s=3600, writers=(TRANSCRIBE,))
TRANSCRIPTS = TopicSpec(name=topics.TRANSCRIPTS, partitions=1, retention_s=3600)
LETTERS = TopicSpec(name=topics.DEAD_LETTERS, partitions=1, retention_s=3600, max_bytes=200 * KB, drops_oldest=True)
SPECS = [AUDIO, UTTERANCES, SEGMENTS, TRANSCRIPTS, LETTERS]


class Store:
    """A small store with its topics and a keeper, which looks when it is told to."""

    def __init__(self, bus: JetStreamBus, connection: NatsConnection) -> None:
        self.bus = bus
        self.now = 0.0
        self._connection = connection
        self.keeper = self.kept(SPECS)

    def kept(self, specs: list[TopicSpec]) -> SpaceKeeper:
        return SpaceKeeper(self._connection, specs, store_bytes=STORE_BYTES, clock=lambda: self.now)

    async def put(self, topic: str, call: str, number: int = 0, *, size: int = 100 * KB) -> None:
        await self.bus.publish(
            Outgoing(topic, key=call.encode(), value=bytes(size), event_id=f"{topic}/{call}/{number}")
        )

    async def held(self, topic: str) -> list[tuple[str, int]]:
        """Return the calls that have records on a topic, in their order, with the number of their records."""
        counts: dict[str, int] = {}
        async for record in self.bus.stored(topic):
            counts[record.key.decode()] = counts.get(record.key.decode(), 0) + 1
        return list(counts.items())

    async def max_bytes(self, topic: str) -> int:
        [state] = await self.bus.describe((topic,))
        assert state.max_bytes is not None
        return state.max_bytes


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    server = NatsServer(tmp_path / "store", max_store_bytes=STORE_BYTES)
    url = await server.start()
    bus = JetStreamBus(url)
    connection = NatsConnection(url, name="space", reconnect_s=5)
    try:
        await bus.connect()
        await connection.connect()
        await bus.ensure_topics(SPECS)
        yield Store(bus, connection)
    finally:
        await connection.close()
        await bus.close()
        await server.stop()


def stage(*, until: Callable[[Record], bool] = lambda _record: True) -> Recorder:
    """Return a stage that answers each record with one numbered output, which releases it, and acknowledges it.

    Records that `until` does not hold for are taken and left.
    """
    numbers: dict[bytes, int] = {}

    async def answer(record: Record, partition: Partition) -> None:
        if not until(record):
            return
        seq = numbers[record.key] = numbers.get(record.key, -1) + 1
        output = {topics.AUDIO: topics.UTTERANCES, topics.UTTERANCES: topics.SEGMENTS}[record.topic]
        progress = Progress(seq=seq, released=seq + 1, state=b"s")
        outgoing = Outgoing(output, key=record.key, value=bytes(KB), event_id=f"{output}/{record.key!r}/{seq}")
        await partition.publish(outgoing, progress=progress)
        partition.ack(record.position)

    return Recorder(answer)


async def read(store: Store, running: Running, subscription: Subscription, recorder: Recorder, count: int) -> None:
    async with running(store.bus, subscription, recorder):
        await recorder.until(lambda: len(recorder.records) >= count)
        await asyncio.sleep(0.2)


async def numbered(store: Store, call: str, count: int) -> None:
    """Publish `count` large utterances of a call as its separate stage does."""
    await store.put(topics.AUDIO, call, size=KB)
    writer = Recorder(_write_nothing)
    task = asyncio.create_task(store.bus.run(SEPARATE, writer))
    try:
        await writer.until(lambda: bool(writer.records))
        for seq in range(count):
            outgoing = Outgoing(topics.UTTERANCES, key=call.encode(), value=bytes(50 * KB), event_id=f"u/{call}/{seq}")
            progress = Progress(seq=seq, released=0, state=call.encode())
            await writer.partitions[topics.AUDIO, 0].publish(outgoing, progress=progress)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def filled(store: Store, topic: str) -> int:
    """Publish records of 100 kB until the store refuses one. Return how many it took."""
    for number in itertools.count():
        try:
            await store.put(topic, f"call-{number}")
        except StoreFullError:
            return number
    raise AssertionError


async def _write_nothing(*_given: object) -> None:
    """Acknowledge nothing."""


async def test_what_was_read_is_freed_when_room_is_short_the_oldest_call_first(store: Store, running: Running) -> None:
    for number in range(4):
        await store.put(topics.AUDIO, f"call-{number}", size=150 * KB)
    await read(store, running, SEPARATE, stage(), 4)
    await store.keeper.look()
    assert await store.held(topics.AUDIO) == [(f"call-{number}", 1) for number in range(4)], "there is room"
    await store.put(topics.AUDIO, "call-4", size=190 * KB)
    await store.keeper.look()
    assert await store.held(topics.AUDIO) == [("call-2", 1), ("call-3", 1), ("call-4", 1)]
    assert await store.bus.freed_at(topics.AUDIO, b"call-1") is not None
    assert await store.bus.freed_at(topics.AUDIO, b"call-2") is None


async def test_nothing_unread_is_freed_and_the_producer_is_refused(store: Store) -> None:
    assert await filled(store, topics.AUDIO) == 9
    held = await store.held(topics.AUDIO)
    await store.keeper.look()
    assert await store.held(topics.AUDIO) == held


async def test_the_last_record_of_a_call_between_stages_stays_with_its_progress(store: Store, running: Running) -> None:
    for call in ("one", "two", "three"):
        await numbered(store, call, 6)
    await read(store, running, TRANSCRIBE, stage(), 18)
    await store.keeper.look()
    assert await store.held(topics.UTTERANCES) == [("one", 1), ("two", 1), ("three", 6)]
    again = Recorder(_write_nothing)
    async with running(store.bus, SEPARATE, again):
        await again.until(lambda: len(again.records) == 3)
        progress = await again.partitions[topics.AUDIO, 0].progress(b"one")
    assert progress == Progress(seq=5, released=0, state=b"one")


async def test_records_after_the_floor_are_freed_if_their_call_has_released_them(
    store: Store, running: Running
) -> None:
    """The slowest call holds the floor of its partition. The others must not wait for it."""
    for call in ("slow", "one", "two"):
        await numbered(store, call, 6)
    reader = stage(until=lambda record: record.key != b"slow")
    await read(store, running, TRANSCRIBE, reader, 18)
    await store.keeper.look()
    assert await store.held(topics.UTTERANCES) == [("slow", 6), ("one", 1), ("two", 1)]
    again = Recorder()
    async with running(store.bus, TRANSCRIBE, again):
        await again.until(lambda: len(again.of_key(b"slow")) == 6)
        assert again.records[0].key == b"slow"


async def test_read_records_of_an_open_call_are_freed_last(store: Store, running: Running) -> None:
    await numbered(store, "open", 10)
    await numbered(store, "closed", 6)
    reader = stage(until=lambda record: record.key == b"closed" or len(reader.of_key(b"open")) <= 7)
    await read(store, running, TRANSCRIBE, reader, 16)
    await store.keeper.look()
    assert await store.held(topics.UTTERANCES) == [("open", 10), ("closed", 1)]
    await numbered(store, "more", 6)
    await store.keeper.look()
    assert await store.held(topics.UTTERANCES) == [("open", 3), ("closed", 1), ("more", 6)]


async def test_the_door_closes_before_text_has_no_room_and_opens_again(store: Store) -> None:
    await store.keeper.look()
    assert await store.max_bytes(topics.AUDIO) == AUDIO.max_bytes
    for number in range(22):
        await store.put(topics.TRANSCRIPTS, "long", number)
    await store.keeper.look()
    closed = await store.max_bytes(topics.AUDIO)
    assert 0 < closed < 500 * KB
    assert await filled(store, topics.AUDIO) <= 5
    await store.put(topics.TRANSCRIPTS, "long", 22)
    await store.bus.ensure_topics(SPECS)
    assert await store.max_bytes(topics.AUDIO) == closed, "a worker that starts does not open it"
    async for record in store.bus.stored(topics.TRANSCRIPTS):
        await store.bus.delete(topics.TRANSCRIPTS, 0, record.position)
    await store.keeper.look()
    assert await store.max_bytes(topics.AUDIO) == AUDIO.max_bytes


async def test_dead_letters_drop_the_oldest_at_their_limit(store: Store) -> None:
    for number in range(9):
        await store.put(topics.DEAD_LETTERS, f"call-{number}", size=20 * KB)
    await store.keeper.look()
    held = await store.held(topics.DEAD_LETTERS)
    assert held == [(f"call-{number}", 1) for number in range(9 - len(held), 9)]
    assert 0.4 * 9 < len(held) < 9
    [state] = await store.bus.describe((topics.DEAD_LETTERS,))
    assert state.size_bytes is not None
    assert state.size_bytes < SHORT * 200 * KB


async def test_dead_letters_that_are_dropped_are_counted(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", store_gb=0.05, partitions=1)
    settings.data.mkdir()
    metrics = Metrics()
    async with open_deployment_bus(settings, metrics) as opened:
        for number in range(16):
            letter = Outgoing(topics.DEAD_LETTERS, key=b"call", value=bytes(100 * KB), event_id=str(number))
            await opened.bus.publish(letter)
        async with asyncio.timeout(10):
            while not (evicted := evictions(metrics)):  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        left = [record async for record in opened.bus.stored(topics.DEAD_LETTERS)]
        assert evicted == 16 - len(left)
        assert 0 < evicted < 16


def evictions(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("callstream_dead_letters_evicted_total") or 0.0


async def test_dropping_many_dead_letters_asks_for_none_of_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(400):
        await store.put(topics.DEAD_LETTERS, f"call-{number}", size=KB // 3)
    asked: list[str] = []
    api = Session.api

    async def noted(session: Session, subject: str, *arguments: Any) -> dict[str, Any]:
        asked.append(subject)
        return await api(session, subject, *arguments)

    monkeypatch.setattr(Session, "api", noted)
    await store.keeper.look()
    held = await store.held(topics.DEAD_LETTERS)
    assert held == [(f"call-{number}", 1) for number in range(400 - len(held), 400)]
    [state] = await store.bus.describe((topics.DEAD_LETTERS,))
    assert state.size_bytes is not None
    assert 0.95 * EASED * 200 * KB < state.size_bytes <= EASED * 200 * KB
    assert "CONSUMER.CREATE.calls-dead-letters" not in asked
    assert 1 < len([subject for subject in asked if subject.startswith("STREAM.PURGE")]) < 20


async def test_a_record_in_no_partition_holds_no_room(store: Store) -> None:
    connection = store._connection
    session = await connection.session()
    await store.put(topics.UTTERANCES, "call", size=50 * KB)
    for number in range(16):
        await session.request(f"calls.utterances.x.{key_token(b'%d' % number)}", bytes(50 * KB))
    await store.keeper.look()
    held = await store.held(topics.UTTERANCES)
    assert held == [("call", 1), *((str(number), 1) for number in range(17 - len(held), 16))]
    assert len(held) * 50 * KB < SHORT * 1000 * KB


async def test_what_is_unread_outlives_its_age_and_what_is_read_does_not(store: Store, running: Running) -> None:
    specs = [msgspec.structs.replace(spec, retention_s=1.0) for spec in SPECS]
    await store.bus.ensure_topics(specs)
    keeper = store.kept(specs)
    await store.put(topics.AUDIO, "call")
    await asyncio.sleep(1.5)
    store.now = await newest_at(store.bus, topics.AUDIO) + 100
    await keeper.look()
    assert await store.held(topics.AUDIO) == [("call", 1)]
    await read(store, running, SEPARATE, stage(), 1)
    store.now += 10
    await keeper.look()
    assert await store.held(topics.AUDIO) == []
    assert await store.held(topics.UTTERANCES) == [("call", 1)]
    [state] = await store.bus.describe((topics.AUDIO,))
    assert state.retention_s == 1.0


async def test_age_leaves_the_progress_of_a_call_that_its_stage_may_go_on_with(store: Store, running: Running) -> None:
    specs = [msgspec.structs.replace(spec, retention_s=1.0) for spec in SPECS]
    await store.bus.ensure_topics(specs)
    keeper = store.kept(specs)
    await numbered(store, "open", 3)
    await read(store, running, TRANSCRIBE, stage(), 3)
    store.now = await newest_at(store.bus, topics.UTTERANCES) + 100
    await keeper.look()
    assert await store.held(topics.UTTERANCES) == [("open", 3)], "its audio is not acknowledged"
    done = Recorder()
    await read(store, running, SEPARATE, done, 1)
    store.now += 10
    await keeper.look()
    assert await store.held(topics.UTTERANCES) == []


async def newest_at(bus: Bus, topic: str) -> float:
    return max([record.timestamp_s async for record in bus.stored(topic)])
