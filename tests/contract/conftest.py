import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from pipeline.bus.protocol import Bus, Handler, Subscription
from tests.contract.brokers import Broker, JetStreamBroker, MemoryBroker

Running = Callable[[Bus, Subscription, Handler], AbstractAsyncContextManager["asyncio.Task[None]"]]


@pytest.fixture
async def jetstream(tmp_path: Path) -> AsyncIterator[JetStreamBroker]:
    """A real nats-server of the test's own."""
    broker = JetStreamBroker(tmp_path / "store")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture(params=["memory", "jetstream"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    broker = JetStreamBroker(tmp_path / "store")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
def running() -> Running:
    """`async with running(bus, subscription, handler)`: reads while inside; leaving raises what reading raised."""

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
