"""The progress index on a real broker that compacts or has lost it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.bus.kafka.bus import KafkaBus
from pipeline.bus.kafka.progress import ProgressIndex, progress_topic
from pipeline.bus.protocol import Outgoing, Progress, Subscription, TopicSpec
from pipeline.errors import BusError
from tests.contract.brokers import KafkaBroker
from tests.contract.conftest import Running
from tests.contract.recorder import holding
from tests.support.brokers.kafka import KafkaServer

pytestmark = pytest.mark.kafka

IN, OUT, GROUP = "calls.utterances", "calls.segments", "transcribe"
SUBSCRIPTION = Subscription(group=GROUP, topics=(IN,), progress_topic=OUT)
KEYS = [f"call-{number}".encode() for number in range(5)]


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def admin(kafka_server: KafkaServer) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.inside)
    await admin.start()
    yield admin
    await admin.close()


async def bus_with_topics(kafka: KafkaBroker) -> KafkaBus:
    bus = await kafka.bus()
    topics = [
        TopicSpec(name=IN, partitions=1, retention_s=3600),
        TopicSpec(name=OUT, partitions=1, retention_s=3600, groups=(GROUP,)),
    ]
    await bus.ensure_topics(topics)
    return bus


def progress(seq: int) -> Progress:
    """Return progress; every third state is too large for headers."""
    return Progress(seq=seq, released=seq, state=bytes([seq % 256]) * (20_000 if seq % 3 == 0 else 9))


async def publish(bus: KafkaBus, running: Running, seqs: range) -> None:
    """Publish an output of each call for each number, as a worker that comes and goes."""
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 1)
        partition = recorder.partitions[IN, 0]
        for seq in seqs:
            for key in KEYS:
                await partition.publish(Outgoing(OUT, key=key, value=b"", event_id=""), progress=progress(seq))


async def known(bus: KafkaBus, running: Running) -> dict[bytes, Progress | None]:
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 1)
        return {key: await recorder.partitions[IN, 0].progress(key) for key in KEYS}


async def test_progress_is_found_in_an_index_that_was_compacted(
    kafka: KafkaBroker, admin: AIOKafkaAdminClient, running: Running
) -> None:
    bus = await bus_with_topics(kafka)
    index = progress_topic(GROUP)
    quick = {"cleanup.policy": "compact,delete", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, index, configs=quick)])
    for first in range(0, 12, 3):
        await publish(bus, running, range(first, first + 3))
        await asyncio.sleep(0.15)
    await publish(bus, running, range(12, 13))
    # Some 80 records were written.
    async with asyncio.timeout(30):
        while len([record async for record in bus.stored(index)]) > 7 * len(KEYS):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.3)
    assert await known(await kafka.bus(), running) == dict.fromkeys(KEYS, progress(12))


async def test_a_state_survives_a_crash_before_the_next_output_whatever_that_output_s_number(
    kafka: KafkaBroker, admin: AIOKafkaAdminClient, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output 1 was not given, as for a record that became a dead letter; then the state of output 2 was stored."""
    bus = await bus_with_topics(kafka)
    index = progress_topic(GROUP)
    quick = {"cleanup.policy": "compact,delete", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, index, configs=quick)])
    send = ProgressIndex.publish
    states = [Progress(seq=seq, released=seq, state=bytes([seq]) * 20_000) for seq in (0, 2)]

    async def killed_before_its_output(progresses: ProgressIndex, *given: Any) -> None:
        sending = progresses._send

        async def cut(topic: str, *rest: Any) -> int:
            if topic == OUT:
                raise BusError("killed here")
            return await sending(topic, *rest)

        progresses._send = cut
        await send(progresses, *given)

    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 1)
        partition = recorder.partitions[IN, 0]
        output = Outgoing(OUT, key=b"call", value=b"", event_id="")
        await partition.publish(output, progress=states[0])
        monkeypatch.setattr(ProgressIndex, "publish", killed_before_its_output)
        with pytest.raises(BusError, match="killed here"):
            await partition.publish(output, progress=states[1])
        monkeypatch.undo()
    for number in range(40):  # until the segment with both states is closed, and compacted
        await publish(bus, running, range(number, number + 1)) if number % 4 == 0 else await asyncio.sleep(0.1)
    found = holding()
    async with running(await kafka.bus(), SUBSCRIPTION, found):
        await found.until(lambda: len(found.held) == 1)
        assert await found.partitions[IN, 0].progress(b"call") == states[0]


async def test_progress_is_found_in_the_outputs_when_the_index_is_lost(
    kafka: KafkaBroker, admin: AIOKafkaAdminClient, running: Running
) -> None:
    bus = await bus_with_topics(kafka)
    await publish(bus, running, range(5))
    await admin.delete_topics([progress_topic(GROUP)])
    while progress_topic(GROUP) in await admin.list_topics():  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.05)
    assert await known(await kafka.bus(), running) == dict.fromkeys(KEYS, progress(4))
    await publish(bus, running, range(5, 6))
    assert await known(await kafka.bus(), running) == dict.fromkeys(KEYS, progress(5))


async def test_outputs_that_are_gone_leave_their_progress_in_the_index(
    kafka: KafkaBroker, admin: AIOKafkaAdminClient, running: Running
) -> None:
    bus = await bus_with_topics(kafka)
    await publish(bus, running, range(5))
    quick = {"segment.ms": "100", "retention.ms": "100"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, OUT, configs=quick)])
    await asyncio.sleep(0.2)
    await bus.publish(Outgoing(OUT, key=b"another", value=b"", event_id=""), partition=0)
    async with asyncio.timeout(30):
        while len([record async for record in bus.stored(OUT)]) > 1:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.3)
    assert await known(await kafka.bus(), running) == dict.fromkeys(KEYS, progress(4))
