"""Bytes that no client library sends: record batches of a producer that writes Kafka's protocol itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.codec import zstd_encode

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.kafka.compression import MOST_BYTES
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from tests.contract.brokers import KafkaBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder
from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.record_batches import Header, batch, produce, record
from tests.support.requirements import require

pytestmark = pytest.mark.kafka

AUDIO = "calls.audio"
READ = Subscription(group="separate", topics=(AUDIO,))
ODD: list[Header] = [(b"\xff\xfe", b"value"), (b"ce_id", b"1"), (b"ce_\xe9", None), (b"", b"\xff")]


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


async def bus_with_audio(kafka: KafkaBroker) -> KafkaBus:
    bus = await kafka.bus()
    await bus.ensure_topics([TopicSpec(name=AUDIO, partitions=1, retention_s=3600)])
    return bus


async def until_lag(bus: KafkaBus, lag: int) -> None:
    async with asyncio.timeout(10):
        while await bus.lag(READ) != lag:  # noqa: ASYNC110  # Kafka has no event for it
            await asyncio.sleep(0.05)


async def send(kafka: KafkaBroker, data: bytes) -> str | None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.server.bootstrap) as producer:
        return await produce(producer, AUDIO, 0, data)


async def test_names_of_headers_that_are_no_utf_8_are_a_record_like_any_other(
    kafka: KafkaBroker, running: Running
) -> None:
    bus = await bus_with_audio(kafka)
    made = [record(0, b"call", [(b"a", b"b")], b"0"), record(1, b"call", ODD, b"1"), record(2, b"call", [], b"2")]
    feed = await bus.follow((AUDIO,))
    assert await send(kafka, batch(made)) is None
    await bus.publish(Outgoing(AUDIO, key=b"good", value=b"after it", event_id="good/1"))
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(4)
    assert [(found.position, found.value) for found in recorder.records] == [
        (0, b"0"),
        (1, b"1"),
        (2, b"2"),
        (3, b"after it"),
    ]
    assert recorder.records[1].headers == {"\ufffd\ufffd": "value", "ce_id": "1", "ce_\ufffd": "", "": "\ufffd"}
    followed = [await anext(feed) for _ in range(4)]
    await feed.close()
    stored = [found async for found in bus.stored(AUDIO)]
    assert followed == stored
    assert [found.value for found in stored] == [b"0", b"1", b"2", b"after it"]
    assert stored[1] == await bus.read(AUDIO, 0, 1)
    assert stored[1].headers == recorder.records[1].headers


@pytest.mark.kcat
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_a_producer_compresses_is_a_record_like_any_other(
    kafka: KafkaBroker, running: Running, codec: str
) -> None:
    bus = await bus_with_audio(kafka)
    command = [require("kcat"), "-P", "-b", kafka.server.bootstrap, "-t", AUDIO, "-p", "0", "-k", "call", "-z", codec]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    await process.communicate(b"\n".join([b"a" * 5_000] * 3))
    assert process.returncode == 0
    recorder = Recorder()
    async with asyncio.timeout(20), running(bus, READ, recorder):
        await recorder.count(3)
    found = [(record.position, record.key, record.value) for record in recorder.records]
    assert found == [(n, b"call", b"a" * 5_000) for n in range(3)]


async def test_the_offsets_that_records_state_neither_hide_nor_skip_others(
    kafka: KafkaBroker, running: Running
) -> None:
    bus = await bus_with_audio(kafka)
    made = [record(offset, b"call", [], b"%d" % number) for number, offset in enumerate((0, 1_000_000, 2))]
    assert await send(kafka, batch(made)) is None
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(3)
    assert [(found.position, found.value) for found in recorder.records] == [(0, b"0"), (1, b"1"), (2, b"2")]
    await bus.publish(Outgoing(AUDIO, key=b"good", value=b"after it", event_id="good/1"))
    await until_lag(bus, 1)
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(1)
    assert [(found.position, found.value) for found in recorder.records] == [(3, b"after it")]


async def test_a_batch_that_would_fill_the_memory_is_one_record(kafka: KafkaBroker, running: Running) -> None:
    bus = await bus_with_audio(kafka)
    bomb = zstd_encode(record(0, b"call", [], bytes(MOST_BYTES)))
    assert await send(kafka, batch([bomb], attributes=4)) is None
    await bus.publish(Outgoing(AUDIO, key=b"good", value=b"after it", event_id="good/1"))
    recorder = Recorder()
    async with running(bus, READ, recorder):
        await recorder.count(2)
    assert [(found.position, found.key, found.value) for found in recorder.records] == [
        (0, b"", bomb),
        (1, b"good", b"after it"),
    ]
    assert recorder.records[0].headers == {"unreadable": "compressed with zstd: failed to write whole buffer"}
