import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from pipeline.bus.protocol import Bus, Handler, Subscription
from tests.contract.brokers import Broker, JetStreamBroker, KafkaBroker, MemoryBroker
from tests.support.brokers.kafka import KafkaServer
from tests.support.processes.qdrant import QdrantServer

Running = Callable[[Bus, Subscription, Handler], AbstractAsyncContextManager["asyncio.Task[None]"]]


@pytest.fixture
async def jetstream(tmp_path: Path) -> AsyncIterator[JetStreamBroker]:
    """A nats-server for this test alone."""
    broker = JetStreamBroker(tmp_path / "store")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    with QdrantServer(tmp_path_factory.mktemp("qdrant")) as server:
        yield server


@pytest.fixture(params=["memory", "jetstream", pytest.param("kafka", marks=pytest.mark.kafka)])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    broker: KafkaBroker | JetStreamBroker
    if request.param == "kafka":
        broker = KafkaBroker(request.getfixturevalue("kafka_server"))
    else:
        broker = JetStreamBroker(tmp_path / "store")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
def running() -> Running:
    """`async with running(bus, subscription, handler)` reads inside the block; leaving raises what reading raised."""

    @contextlib.asynccontextmanager
    async def run(bus: Bus, subscription: Subscription, handler: Handler) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(bus.run(subscription, handler))
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return run
