"""Leases on a real server while a worker, or the broker, stands still."""

import asyncio
import time

import pytest

from pipeline.bus.protocol import Bus, Outgoing, Subscription, TopicSpec
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder

SUBSCRIPTION = Subscription(group="merge", topics=("calls.segments",))


async def bus_with_topic(broker: JetStreamBroker) -> Bus:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name="calls.segments", partitions=4, retention_s=3600)])
    return bus


@pytest.mark.slow
async def test_a_lone_worker_that_stood_still_keeps_its_partitions(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await bus_with_topic(jetstream)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 4)
        time.sleep(6.0)  # noqa: ASYNC251 - longer than the lease, as when a large library is loaded
        for number in range(10):
            await bus.publish(Outgoing("calls.segments", key=b"k", value=str(number).encode(), event_id=str(number)))
        await recorder.count(10)
        await asyncio.sleep(1.5)
        assert [kind for kind, *_ in recorder.log] == ["assigned"] * 4


@pytest.mark.slow
async def test_a_worker_without_a_broker_gives_up_in_time_and_comes_back(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await bus_with_topic(jetstream)
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 4)
        await jetstream.server.stop()
        stopped = loop.time()
        await recorder.until(lambda: not recorder.held)
        assert 2.0 < loop.time() - stopped < 5.0
        assert await jetstream.server.start() == jetstream.url
        await recorder.until(lambda: len(recorder.held) == 4)
        await bus.publish(Outgoing("calls.segments", key=b"k", value=b"1", event_id="1"))
        await recorder.count(1)
