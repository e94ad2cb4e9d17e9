"""Leases on a real server while a worker, or the broker, stands still."""

import asyncio
import time

import nats
import pytest

from pipeline.bus.nats.leases import LeaseShares
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


@pytest.mark.slow
async def test_a_lease_entry_that_cannot_be_read_stops_no_worker_for_good(
    jetstream: JetStreamBroker, running: Running
) -> None:
    bus = await bus_with_topic(jetstream)
    recorder = Recorder()
    client = await nats.connect(jetstream.url)
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.until(lambda: len(recorder.held) == 4)
        await client.publish("$KV.callstream-leases.merge", b"written by somebody else")
        await recorder.until(lambda: not recorder.held)
        await recorder.until(lambda: len(recorder.held) == 4)
        await bus.publish(Outgoing("calls.segments", key=b"k", value=b"1", event_id="1"))
        await recorder.count(1)
    await client.close()


async def test_a_lease_task_that_dies_ends_the_run(jetstream: JetStreamBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await bus_with_topic(jetstream)
    recorder = Recorder()
    task = asyncio.create_task(bus.run(SUBSCRIPTION, recorder))
    await recorder.until(lambda: len(recorder.held) == 4)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    monkeypatch.setattr(LeaseShares, "_round", broken)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 5)
