import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from pipeline.bus.kafka.clients import bus_errors
from pipeline.errors import BusError


async def cancelled() -> None:
    """Await a task that was cancelled, as aiokafka does."""
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


async def publishing(doing: "asyncio.Event | None" = None) -> None:
    with bus_errors("publishing"):
        if doing is None:
            await cancelled()
        else:
            doing.set()
            await asyncio.sleep(10)


async def test_a_client_s_error_names_what_was_done() -> None:
    with pytest.raises(BusError, match="publishing: KafkaConnectionError"), bus_errors("publishing"):
        raise KafkaConnectionError
    with pytest.raises(BusError, match="publishing: TimeoutError"), bus_errors("publishing"):
        async with asyncio.timeout(0):
            await asyncio.sleep(10)


async def test_a_task_that_a_client_cancels_does_not_cancel_its_waiter() -> None:
    with pytest.raises(BusError, match="publishing: the Kafka client gave up"):
        await publishing()
    task = asyncio.create_task(publishing())
    await asyncio.wait([task])
    assert not task.cancelled()
    assert isinstance(task.exception(), BusError)


async def test_a_cancelled_caller_ends_as_cancelled() -> None:
    doing = asyncio.Event()
    task = asyncio.create_task(publishing(doing))
    await doing.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_timeout_around_it_stays_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await publishing(asyncio.Event())
