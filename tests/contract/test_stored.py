"""Reading stored records without a group. Tests run on every bus, except those of one broker's peculiarities."""

import asyncio
import base64
import tracemalloc
from collections import defaultdict

import nats
import pytest

from pipeline.bus.nats.bus import JetStreamBus
from pipeline.bus.protocol import Bus, Outgoing, Record, Subscription, TopicSpec
from pipeline.errors import BusError
from tests.contract.brokers import Broker, JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder

TOPIC, AUDIO = "calls.segments", "calls.audio"
GROUP = Subscription(group="merge", topics=(TOPIC,))


async def bus_with_topic(broker: Broker, *, partitions: int = 4) -> Bus:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=TOPIC, partitions=partitions, retention_s=3600)])
    return bus


async def publish(bus: Bus, count: int, *, keys: int = 1, first: int = 0, size: int = 0) -> None:
    for number in range(first, first + count):
        value = str(number).encode().ljust(size, b".")
        await bus.publish(Outgoing(TOPIC, key=f"call-{number % keys}".encode(), value=value, event_id=f"in/{number}"))


async def everything(bus: Bus, topic: str = TOPIC, key: bytes | None = None) -> list[Record]:
    return [record async for record in bus.stored(topic, key=key)]


def numbers(records: list[Record]) -> list[int]:
    return [int(record.value.rstrip(b".")) for record in records]


async def test_stored_records_are_those_that_a_group_reads(broker: Broker, running: Running) -> None:
    bus = await bus_with_topic(broker)
    headers = {"ce_id": "a/1", "content-type": "application/msgpack", "Status": "ok"}
    await bus.publish(Outgoing(TOPIC, key=b"a/b c.>*\x1f\xff", value=b"\x00\xff", event_id="1", headers=headers))
    await bus.publish(Outgoing(TOPIC, key=b"k", value=b"", event_id="2"))
    recorder = Recorder()
    async with running(bus, GROUP, recorder):
        await recorder.count(2)
    assert by_place(await everything(bus)) == by_place(recorder.records)
    assert {record.key: dict(record.headers) for record in await everything(bus)} == {
        b"a/b c.>*\x1f\xff": headers,
        b"k": {},
    }


def by_place(records: list[Record]) -> dict[tuple[int, int], tuple[object, ...]]:
    return {
        (r.partition, r.position): (r.topic, r.key, r.value, dict(r.headers), round(r.timestamp_s, 2)) for r in records
    }


async def test_records_are_read_in_order_per_partition(broker: Broker) -> None:
    bus = await bus_with_topic(broker)
    await publish(bus, 200, keys=13)
    by_partition: dict[int, list[Record]] = defaultdict(list)
    for record in await everything(bus):
        by_partition[record.partition].append(record)
    assert len(by_partition) > 1
    for records in by_partition.values():
        positions = [record.position for record in records]
        assert positions == sorted(set(positions))
        assert numbers(records) == sorted(numbers(records))
    assert sorted(n for records in by_partition.values() for n in numbers(records)) == list(range(200))


async def test_the_records_of_one_key_are_read_alone(broker: Broker) -> None:
    bus = await bus_with_topic(broker, partitions=2)
    await publish(bus, 60, keys=7)
    assert numbers(await everything(bus, key=b"call-3")) == list(range(3, 60, 7))
    assert await everything(bus, key=b"call-9") == []


async def test_an_empty_topic_yields_nothing(broker: Broker) -> None:
    assert await everything(await bus_with_topic(broker)) == []


async def test_records_stored_after_reading_began_are_left_out(broker: Broker) -> None:
    bus = await bus_with_topic(broker)
    await publish(bus, 20, keys=5)
    reading = bus.stored(TOPIC)
    seen = [await anext(reading)]
    await publish(bus, 20, keys=5, first=20)
    seen += [record async for record in reading]
    assert sorted(numbers(seen)) == list(range(20))


async def test_reading_moves_no_floor(broker: Broker, running: Running) -> None:
    bus = await bus_with_topic(broker)
    await publish(bus, 10, keys=3)
    assert len(await everything(bus)) == 10
    assert await bus.lag(GROUP) == 10
    recorder = Recorder()
    async with running(bus, GROUP, recorder):
        await recorder.count(10)
    assert len(await everything(bus)) == 10


async def test_a_large_topic_is_read_in_little_memory(broker: Broker) -> None:
    bus = await bus_with_topic(broker)
    await publish(bus, 200, keys=13, size=100_000)
    count = 0
    tracemalloc.start()
    try:
        async for _ in bus.stored(TOPIC):
            count += 1
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 200
    assert peak_bytes < 10_000_000


async def test_a_record_is_read_by_its_position(broker: Broker) -> None:
    bus = await bus_with_topic(broker)
    await publish(bus, 30, keys=5)
    for record in await everything(bus):
        again = await bus.read(TOPIC, record.partition, record.position)
        assert again is not None
        assert by_place([again]) == by_place([record])


async def test_there_is_no_record_at_an_unused_position(broker: Broker) -> None:
    bus = await bus_with_topic(broker)
    assert await bus.read(TOPIC, 0, 0) is None
    await publish(bus, 10)
    [*_, last] = await everything(bus)
    assert await bus.read(TOPIC, last.partition, last.position + 1) is None
    assert await bus.read(TOPIC, last.partition, -1) is None
    assert await bus.read(TOPIC, 99, last.position) is None


async def test_a_missing_topic_cannot_be_read(broker: Broker) -> None:
    bus = await broker.bus()
    with pytest.raises(BusError, match=r"no topic calls\.nothing"):
        await everything(bus, "calls.nothing")
    with pytest.raises(BusError, match=r"no topic calls\.nothing"):
        await bus.read("calls.nothing", 0, 0)


async def test_reading_resumes_after_a_restart_of_the_server(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topic(jetstream)
    await publish(bus, 60, keys=5, size=100_000)
    reading = bus.stored(TOPIC)
    seen = [await anext(reading) for _ in range(25)]
    await jetstream.server.stop()
    restarting = asyncio.create_task(_start_soon(jetstream))
    seen += [record async for record in reading]
    await restarting
    assert numbers(seen) == list(range(60))


async def _start_soon(jetstream: JetStreamBroker) -> None:
    await asyncio.sleep(0.3)
    await jetstream.server.start()


async def test_a_server_that_stays_away_ends_the_reading(jetstream: JetStreamBroker) -> None:
    await publish(await bus_with_topic(jetstream), 30, size=100_000)
    bus = JetStreamBus(jetstream.url, reconnect_s=0.5)
    await bus.connect()
    reading = bus.stored(TOPIC)
    await anext(reading)
    await jetstream.server.stop()
    with pytest.raises(BusError):
        [record async for record in reading]
    with pytest.raises(BusError):
        await bus.read(TOPIC, 0, 1)
    await bus.close()


async def test_a_key_is_found_in_any_spelling_of_its_producer(jetstream: JetStreamBroker) -> None:
    bus = await jetstream.bus()
    await bus.ensure_topics([TopicSpec(name=AUDIO, partitions=4, retention_s=3600)])
    padded = base64.urlsafe_b64encode(b"call-1").decode()
    client = await nats.connect(jetstream.url)
    for number in range(12):
        token = padded if number % 3 else padded.rstrip("=")
        await client.jetstream().publish(f"calls.audio.{token}", str(number).encode())
    await client.jetstream().publish("calls.audio.=not=base64=", b"99")
    await client.close()
    assert numbers(await everything(bus, AUDIO, b"call-1")) == list(range(12))
    assert numbers(await everything(bus, AUDIO, b"=not=base64=")) == [99]


async def test_a_record_that_retention_deleted_is_not_found(jetstream: JetStreamBroker) -> None:
    bus = await jetstream.bus()
    await bus.ensure_topics([TopicSpec(name=TOPIC, partitions=1, retention_s=0.5)])
    await publish(bus, 3)
    [first, *_] = await everything(bus)
    for _ in range(100):
        if await bus.read(TOPIC, first.partition, first.position) is None:
            break
        await asyncio.sleep(0.1)
    assert await bus.read(TOPIC, first.partition, first.position) is None
    assert await everything(bus) == []


async def test_one_keys_records_are_read_from_a_position_on(broker: Broker) -> None:
    bus = await bus_with_topic(broker, partitions=2)
    await publish(bus, 40, keys=4)
    mine = await everything(bus, key=b"call-1")
    start = (mine[3].partition, mine[3].position)
    assert numbers([record async for record in bus.stored(TOPIC, key=b"call-1", start=start)]) == numbers(mine[3:])
    of_all = [record async for record in bus.stored(TOPIC, start=start)]
    assert numbers([record for record in of_all if record.key == b"call-1"]) == numbers(mine[3:])
    assert {record.partition for record in of_all} == {start[0]}
    assert not [record async for record in bus.stored(TOPIC, start=(start[0], of_all[-1].position + 1))]
