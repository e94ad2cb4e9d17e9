"""Deleting records that a group has read, on a real nats-server."""

import asyncio

import msgspec

from pipeline.bus.nats.connection import NatsConnection
from pipeline.bus.nats.purge import drop_acknowledged
from pipeline.bus.protocol import Bus, Outgoing, Subscription, TopicSpec
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder

TOPIC = TopicSpec(name="calls.audio", partitions=3, retention_s=3600)
GROUP = Subscription(group="bridge", topics=(TOPIC.name,))


async def test_only_records_acknowledged_without_a_gap_are_deleted(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await jetstream.bus()
    await bus.ensure_topics([TOPIC])
    for number in range(60):
        await bus.publish(
            Outgoing(TOPIC.name, key=b"call-%d" % (number % 6), value=b"%d" % number, event_id=str(number), headers={})
        )
    held = Recorder(on_each=_never)
    other = msgspec.structs.replace(GROUP, group="bridge-batch")
    async with running(bus, GROUP, held), running(bus, other, Recorder()):
        await held.until(lambda: len(held.records) == 60)
        kept = {record.value for record in held.records if record.key == b"call-0"}
        stuck = {record.partition: record.position for record in reversed(held.records) if record.value in kept}
        for record in held.records:
            if record.value not in kept:
                held.ack(record)
        connection = NatsConnection(jetstream.url, name="test", reconnect_s=5)
        await connection.connect()
        expected = {
            record.value
            for record in held.records
            if record.partition in stuck and record.position >= stuck[record.partition]
        }
        async with asyncio.timeout(10):
            while await _stored(bus) != expected:
                await drop_acknowledged(connection, GROUP)
                await asyncio.sleep(0.05)
        assert kept <= expected < {record.value for record in held.records}
        await connection.close()
    again = Recorder()
    async with running(bus, GROUP, again):
        await again.until(lambda: set(again.values) >= expected)
        assert set(again.values) == expected


async def _never(*_given: object) -> None:
    """Acknowledge nothing."""


async def _stored(bus: Bus) -> set[bytes]:
    return {record.value async for record in bus.stored(TOPIC.name)}
