"""Records that Kafka deletes by age before they were read are told."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from pipeline.bus.protocol import Expired, Outgoing, Subscription, TopicSpec
from tests.contract.brokers import KafkaBroker
from tests.contract.conftest import Running
from tests.contract.recorder import holding
from tests.support.brokers.kafka import KafkaServer

TOPIC = TopicSpec(name="calls.audio", partitions=1, retention_s=3600)
GROUP = Subscription(group="separate", topics=(TOPIC.name,))


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


async def test_records_that_expired_unread_are_named(
    kafka: KafkaBroker, kafka_server: KafkaServer, running: Running
) -> None:
    bus = await kafka.bus()
    await bus.ensure_topics([TOPIC])
    for number in range(10):
        await bus.publish(Outgoing(TOPIC.name, key=b"call", value=b"x", event_id=str(number)))
    reader = holding()
    async with running(bus, GROUP, reader):
        await reader.until(lambda: len(reader.records) == 10)
        for record in reader.records[:3]:
            reader.ack(record)
        await asyncio.sleep(1.5)
    assert await bus.expired_unread(GROUP) == []
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server.inside)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(TOPIC.name, 0): RecordsToDelete(before_offset=6)})
    finally:
        await admin.close()
    assert await bus.expired_unread(GROUP) == [Expired(TOPIC.name, 0, 3, 5)]
    assert await bus.expired_unread(Subscription(group="new", topics=(TOPIC.name,))) == []
