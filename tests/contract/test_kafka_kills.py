"""Processes that die, stand still or leave while records flow through Kafka: workers of one group, and the broker.

What must hold after any of it: each call's outputs are all there, in order once repeats are dropped by their number,
with the same bytes wherever a number was published twice, and no worker saw progress that its records contradict
(`tests.contract.worker` asserts it and ends).
"""

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import pytest

from pipeline.bus.protocol import Bus, Outgoing, TopicSpec
from tests.contract.brokers import KafkaBroker
from tests.contract.worker import IN, OUT, SUBSCRIPTION
from tests.support.brokers.kafka import KafkaServer

ROOT = Path(__file__).parents[2]
KEYS = [f"call-{number}".encode() for number in range(10)]

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
async def kafka(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    yield broker
    await broker.stop()


class WorkerProcess:
    """`said` has the lines that it has written: its partitions as they come and go."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self.process = process
        self._errors = errors
        self.said: list[str] = []
        self._step = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def held(self) -> set[int]:
        held: set[int] = set()
        for word, _, rest in (line.partition(" ") for line in self.said):
            if word == "assigned":
                held.add(int(rest))
            elif word == "revoked":
                held.discard(int(rest))
        return held

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not condition():
                self._step.clear()
                await self._step.wait()

    async def until_it_holds(self, n_partitions: int) -> None:
        await self.until(lambda: len(self.held) == n_partitions)

    async def end(self) -> None:
        """Kill the worker. Fails if it had ended with an error."""
        ended = self.process.returncode
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        await self._reading
        await self.process.wait()
        self._errors.seek(0)
        assert ended in (None, 0, -signal.SIGKILL), self._errors.read().decode()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())
            self._step.set()


@contextlib.asynccontextmanager
async def worker(server: KafkaServer) -> AsyncIterator[WorkerProcess]:
    """Yield a worker process that holds a partition."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.worker", f"kafka://{server.bootstrap}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
        )
        started = WorkerProcess(process, errors)
        try:
            await started.until(lambda: bool(started.held))
            yield started
        finally:
            await started.end()


async def bus_with_topics(kafka: KafkaBroker) -> Bus:
    bus = await kafka.bus()
    await bus.ensure_topics([TopicSpec(name=name, partitions=4, retention_s=3600) for name in (IN, OUT)])
    return bus


async def publish_calls(bus: Bus, count: int, *, pause_s: float) -> None:
    """Publish `count` records of every call, in order per call."""
    for number in range(count):
        await asyncio.gather(
            *(
                bus.publish(Outgoing(IN, key=key, value=str(number).encode(), event_id=f"{key!r}/{number}"))
                for key in KEYS
            )
        )
        await asyncio.sleep(pause_s)


async def finished(bus: Bus, *, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await bus.lag(SUBSCRIPTION):  # noqa: ASYNC110  # the broker does not tell
            await asyncio.sleep(0.2)


async def assert_every_call_is_complete(bus: Bus, count: int) -> int:
    """Return how many outputs were published more than once."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    repeats = 0
    async for record in bus.stored(OUT):
        outputs = found[record.key]
        if int(record.value) < len(outputs):
            assert record.value == outputs[int(record.value)]
            repeats += 1
        else:
            assert int(record.value) == len(outputs), f"{record.key!r}: {record.value!r} after {outputs[-1:]}"
            outputs.append(record.value)
    assert {key: len(outputs) for key, outputs in found.items()} == dict.fromkeys(KEYS, count)
    return repeats


async def test_killed_terminated_and_new_workers_lose_nothing(kafka: KafkaBroker) -> None:
    bus = await bus_with_topics(kafka)
    count = 60
    async with worker(kafka.server) as first, worker(kafka.server) as second:
        publishing = asyncio.create_task(publish_calls(bus, count, pause_s=0.1))
        await asyncio.sleep(1.5)
        first.process.kill()
        await asyncio.sleep(1.0)
        async with worker(kafka.server) as third:
            await asyncio.sleep(1.0)
            second.process.terminate()
            await third.until_it_holds(4)
            await publishing
            await finished(bus)
            assert await second.process.wait() == 0
        await assert_every_call_is_complete(bus, count)


async def test_a_worker_stopped_for_longer_than_its_session_does_no_harm(kafka: KafkaBroker) -> None:
    bus = await bus_with_topics(kafka)
    count = 130
    async with worker(kafka.server) as stopped, worker(kafka.server) as other:
        await stopped.until_it_holds(2)
        publishing = asyncio.create_task(publish_calls(bus, count, pause_s=0.1))
        await asyncio.sleep(1.0)
        stopped.process.send_signal(signal.SIGSTOP)
        await other.until_it_holds(4)
        await asyncio.sleep(1.0)
        stopped.process.send_signal(signal.SIGCONT)
        await stopped.until_it_holds(2)
        await publishing
        await finished(bus)
    # What it was sending when it was stopped arrived once it resumed, but nothing that it did later.
    assert await assert_every_call_is_complete(bus, count) <= len(KEYS)


async def test_a_broker_that_hangs_and_then_dies_under_load_loses_nothing(kafka: KafkaBroker) -> None:
    bus = await bus_with_topics(kafka)
    count = 70
    async with worker(kafka.server), worker(kafka.server):
        publishing = asyncio.create_task(publish_calls(bus, count, pause_s=0.1))
        await asyncio.sleep(1.5)
        kafka.server.pause()
        await asyncio.sleep(15.0)
        kafka.server.resume()
        await asyncio.sleep(2.0)
        kafka.server.kill()
        await asyncio.to_thread(kafka.server.start)
        await publishing
        await finished(bus)
    await assert_every_call_is_complete(bus, count)
