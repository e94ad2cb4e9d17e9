"""Records that Kafka deletes before they were read: the handler is told once, and log, metric and ledger say it."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.protocol import Expired, Outgoing, Partition, Record, Subscription, TopicSpec
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import separate, sink
from pipeline.wiring.embedded import Embedded
from schemas import cloudevents, topics
from schemas.audio import AudioEvent
from schemas.calls import CallRef
from tests.contract.brokers import KafkaBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding
from tests.support.brokers.kafka import KafkaServer
from tests.unit.stages.separate.scripted import bursts, call_events

TOPIC = TopicSpec(name=topics.AUDIO, partitions=1, retention_s=3600)
GROUP = Subscription(group="separate", topics=(TOPIC.name,), prefetch_bytes=100_000)
SECONDS = 60

pytestmark = pytest.mark.kafka

Expire = Callable[[int], Awaitable[None]]
"""Deletes the records of the topic's partition that are before a position."""


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def expire(kafka_server: KafkaServer) -> AsyncIterator[Expire]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.inside)
    await admin.start()

    async def delete(before: int) -> None:
        await admin.delete_records({TopicPartition(TOPIC.name, 0): RecordsToDelete(before_offset=before)})

    yield delete
    await admin.close()


async def publish(bus: KafkaBus, count: int, *, size: int = 1) -> None:
    for number in range(count):
        await bus.publish(Outgoing(TOPIC.name, key=b"call", value=bytes(size), event_id=str(number)))


def positions(recorder: Recorder) -> list[int]:
    return [record.position for record in recorder.records]


@pytest.mark.parametrize("left", [4, 0])
async def test_the_next_reader_is_told_once_what_expired_unread(
    kafka: KafkaBroker, expire: Expire, running: Running, left: int
) -> None:
    bus = await kafka.bus()
    await bus.ensure_topics([TOPIC])
    await publish(bus, 10)
    first = holding()
    async with running(bus, GROUP, first):
        await first.count(10)
        for record in first.records[:3]:
            first.ack(record)
    assert first.expired == []
    await expire(10 - left)
    second = Recorder()
    async with running(bus, GROUP, second):
        await second.until(lambda: len(second.records) == left and bool(second.expired))
        await asyncio.sleep(1.5)
    assert second.expired == [Expired(TOPIC.name, 0, 3, 9 - left)]
    assert positions(second) == list(range(10 - left, 10))
    third = Recorder()
    async with running(bus, GROUP, third):
        await third.until(lambda: bool(third.held))
        await asyncio.sleep(0.5)
    assert (third.expired, third.records) == ([], [])


async def test_a_reader_that_is_too_slow_is_told_what_expires_under_it(
    kafka: KafkaBroker, expire: Expire, running: Running
) -> None:
    bus = await kafka.bus()
    await bus.ensure_topics([TOPIC])
    await publish(bus, 120, size=100_000)
    goes_on = asyncio.Event()

    async def wait(record: Record, partition: Partition) -> None:
        await goes_on.wait()
        partition.ack(record.position)

    slow = Recorder(wait)
    async with running(bus, GROUP, slow):
        await slow.count(1)
        await asyncio.sleep(1.0)
        await expire(110)
        goes_on.set()
        await slow.until(lambda: bool(slow.records) and slow.records[-1].position == 119)
    [expired] = slow.expired
    assert (expired.topic, expired.partition, expired.last) == (TOPIC.name, 0, 109)
    assert positions(slow) == [*range(expired.first), *range(110, 120)]


async def send(bus: KafkaBus, call: CallRef, events: list[tuple[int, AudioEvent]]) -> None:
    for seq, event in events:
        headers, value = cloudevents.encode_audio_event(event, call=call, seq=seq, source="/pbx")
        await bus.publish(Outgoing(topics.AUDIO, key=call.key, value=value, event_id=headers["ce_id"], headers=headers))


@contextlib.asynccontextmanager
async def separating(kafka: KafkaBroker, data: Path) -> AsyncIterator[Metrics]:
    """The stages separate and sink, on a data directory."""
    settings = Settings(data=data, bus=f"kafka://{kafka.server.bootstrap}", partitions=1, metrics_port=None)
    async with Embedded(settings, stages=(separate.WIRING, sink.WIRING)) as embedded:
        await embedded.worker.ready.wait()
        yield embedded.metrics


async def said(*arguments: str) -> Any:
    """Return what a command prints as JSON."""
    command = (str(Path(sys.executable).parent / "callstream"), *arguments, "--json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_ledger_metric_and_status_say_which_calls_lost_what(
    kafka: KafkaBroker, expire: Expire, tmp_path: Path
) -> None:
    events = list(enumerate(call_events(bursts((1, 2), (3, 4), length_s=8), chunk_s=0.5)))
    begun, late, whole = (CallRef("default", name) for name in ("begun", "late", "whole"))
    data = tmp_path / "data"
    bus = await kafka.bus()
    async with separating(kafka, data):
        await send(bus, begun, events[:10])
        async with asyncio.timeout(SECONDS):
            while not [record async for record in bus.stored(topics.UTTERANCES)]:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)
    await send(bus, begun, events[10:])
    await send(bus, late, events)
    await send(bus, whole, events)
    await expire(len(events) + 6)
    async with separating(kafka, data) as metrics:
        async with asyncio.timeout(SECONDS):
            while not (await said("status", "--data", str(data)))["lost"]:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.2)
        [lost] = (await said("status", "--data", str(data)))["lost"]
        shown = {name: await said("show", name, "--data", str(data)) for name in ("begun", "late")}
        told = metrics.registry.get_sample_value(
            "callstream_records_expired_unread_total", {"stage": "separate", "topic": topics.AUDIO}
        )
    assert told == lost["records"] >= len(events) - 10 + 6
    assert (lost["stage"], lost["topic"], lost["partition"], lost["calls"]) == ("separate", topics.AUDIO, 0, 2)
    entries = {
        name: [job for job in call["jobs"] if (job["job"], job["status"]) == ("separate", "expired")]
        for name, call in shown.items()
    }
    [of_begun], [of_late] = entries["begun"], entries["late"]
    assert 0 < of_begun["detail"]["first_number"] <= 10
    assert of_begun["detail"]["last_number"] is None
    assert (of_late["detail"]["first_number"], of_late["detail"]["last_number"]) == (0, 5)
    assert "calls.audio expired unread: from number 0 to 5" in of_late["error"]
