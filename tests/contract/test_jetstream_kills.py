"""Kills while records flow through JetStream: workers, the broker, a worker that is stopped and resumes."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from pipeline.bus.protocol import Bus, Outgoing, Partition, Record, Subscription, TopicSpec
from tests.contract.brokers import JetStreamBroker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder
from tests.contract.worker import IN, OUT

ROOT = Path(__file__).parents[2]
KEYS = [f"call-{number}".encode() for number in range(10)]


async def bus_with_topics(broker: JetStreamBroker) -> Bus:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=name, partitions=4, retention_s=3600) for name in (IN, OUT)])
    return bus


async def forget_event_ids(url: str) -> None:
    """Let the output topic drop repeats only for as long as its server allows at least."""
    client = await nats.connect(url)
    config = (await client.jetstream().stream_info("calls-segments")).config
    await client.jsm().update_stream(config, duplicate_window=0.1)
    await client.close()


@contextlib.asynccontextmanager
async def worker(url: str, *, pause_s: float = 0.0) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield a worker process that holds a partition, and pauses before each output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.worker", url, str(pause_s), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        assert line.startswith(b"assigned")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def publish_calls(bus: Bus, count: int, *, first: int = 0, pause_s: float) -> None:
    """Publish `count` records of every call, in order per call, numbered from `first` on."""
    for number in range(first, first + count):
        for key in KEYS:
            await bus.publish(Outgoing(IN, key=key, value=str(number).encode(), event_id=f"{key.decode()}/{number}"))
        await asyncio.sleep(pause_s)


async def until_stored(url: str, expected: int, *, timeout_s: float) -> None:
    """Wait until the output topic holds `expected` records, or until the time is over."""
    client = await nats.connect(url)
    for _ in range(int(timeout_s / 0.1)):
        if (await client.jetstream().stream_info("calls-segments")).state.messages >= expected:
            break
        await asyncio.sleep(0.1)
    await client.close()


async def outputs(url: str, expected: int, *, timeout_s: float) -> dict[str, list[int]]:
    """Return the records of the output topic by subject, once there are `expected`."""
    await until_stored(url, expected, timeout_s=timeout_s)
    client = await nats.connect(url)
    stream = client.jetstream()
    subscription = await stream.subscribe("calls.segments.>", ordered_consumer=True)
    found: dict[str, list[int]] = defaultdict(list)
    with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=0.5)
            found[message.subject].append(int(message.data))
    await client.close()
    return found


@pytest.mark.slow
async def test_killed_workers_lose_and_duplicate_nothing(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topics(jetstream)
    count = 60
    async with worker(jetstream.url) as first, worker(jetstream.url) as second:
        publishing = asyncio.create_task(publish_calls(bus, count, pause_s=0.03))
        await asyncio.sleep(0.7)
        first.kill()
        async with worker(jetstream.url):
            await asyncio.sleep(0.5)
            second.kill()
            await publishing
            found = await outputs(jetstream.url, count * len(KEYS), timeout_s=30)
    assert len(found) == len(KEYS)
    assert all(values == list(range(count)) for values in found.values())


@pytest.mark.slow
async def test_a_worker_stopped_for_longer_than_its_lease_does_no_harm(jetstream: JetStreamBroker) -> None:
    bus = await bus_with_topics(jetstream)
    count = 100
    async with worker(jetstream.url) as stopped, worker(jetstream.url):
        publishing = asyncio.create_task(publish_calls(bus, count, pause_s=0.08))
        await asyncio.sleep(0.5)
        stopped.send_signal(signal.SIGSTOP)
        await asyncio.sleep(7.0)
        stopped.send_signal(signal.SIGCONT)
        await publishing
        found = await outputs(jetstream.url, count * len(KEYS), timeout_s=20)
    assert len(found) == len(KEYS)
    assert all(values == list(range(count)) for values in found.values())


@pytest.mark.slow
async def test_a_worker_that_stood_still_until_all_event_ids_were_forgotten_changes_nothing(
    jetstream: JetStreamBroker,
) -> None:
    """It is stopped before an output, and another worker takes its place and goes far ahead.

    The calls are at different outputs, so some of those that it goes on with have a small state and some a large one.
    """
    bus = await bus_with_topics(jetstream)
    await forget_event_ids(jetstream.url)
    count = 20
    await publish_calls(bus, count, pause_s=0.0)
    async with worker(jetstream.url, pause_s=0.1) as stopped:
        await until_stored(jetstream.url, 20, timeout_s=20)
        stopped.send_signal(signal.SIGSTOP)
        async with worker(jetstream.url):
            await until_stored(jetstream.url, count * len(KEYS), timeout_s=90)
            stopped.send_signal(signal.SIGCONT)
            await asyncio.sleep(2.0)
            await publish_calls(bus, 5, first=count, pause_s=0.0)
            found = await outputs(jetstream.url, (count + 5) * len(KEYS), timeout_s=20)
            assert stopped.returncode is None
    assert len(found) == len(KEYS)
    assert all(values == list(range(count + 5)) for values in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_dies_or_hangs_is_replaced_within_seconds(
    jetstream: JetStreamBroker, number: signal.Signals
) -> None:
    bus = await bus_with_topics(jetstream)
    count = 40
    loop = asyncio.get_running_loop()
    async with worker(jetstream.url) as lost, worker(jetstream.url):
        await publish_calls(bus, 10, pause_s=0.0)
        await outputs(jetstream.url, 10 * len(KEYS), timeout_s=20)
        lost.send_signal(number)
        lost_at = loop.time()
        await publish_calls(bus, count - 10, first=10, pause_s=0.0)
        found = await outputs(jetstream.url, count * len(KEYS), timeout_s=90)
        assert all(values == list(range(count)) for values in found.values())
        assert loop.time() - lost_at < 20.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_broker_killed_under_load_loses_and_reorders_nothing(
    jetstream: JetStreamBroker, running: Running, number: signal.Signals
) -> None:
    bus, other = await bus_with_topics(jetstream), await jetstream.bus()
    count = 60
    acks: set[asyncio.Task[None]] = set()

    async def ack_later(record: Record, partition: Partition) -> None:
        async def ack() -> None:
            await asyncio.sleep(random.random() * 0.2)
            partition.ack(record.position)

        acks.add(asyncio.create_task(ack()))

    recorder = Recorder(ack_later)
    subscription = Subscription(group="merge", topics=(IN,), prefetch_bytes=2_000)
    async with running(bus, subscription, recorder):
        publishing = asyncio.create_task(publish_calls(other, count, pause_s=0.03))
        for _ in range(3):
            await asyncio.sleep(0.6)
            assert jetstream.server.pid is not None
            os.kill(jetstream.server.pid, number)
        await publishing
        await recorder.count(count * len(KEYS))
        await asyncio.gather(*acks)
        for _ in range(100):
            if await bus.lag(subscription) == 0:
                break
            await asyncio.sleep(0.05)
        assert await bus.lag(subscription) == 0
    assert jetstream.server.restarts == 3
    for key in KEYS:
        assert [int(value) for value in recorder.of_key(key)] == list(range(count))
