import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from pipeline.bus.kafka.clients import bus_errors
from pipeline.errors import BusError


async def cancelled() -> None:
    """As aiokafka does: await a task that was cancelled."""
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


async def test_an_error_of_a_client_says_what_it_was_doing() -> None:
    with pytest.raises(BusError, match="publishing: KafkaConnectionError"), bus_errors("publishing"):
        raise KafkaConnectionError
    with pytest.raises(BusError, match="publishing: TimeoutError"), bus_errors("publishing"):
        async with asyncio.timeout(0):
            await asyncio.sleep(10)


async def test_a_task_that_a_client_cancels_does_not_cancel_who_waits_for_it() -> None:
    with pytest.raises(BusError, match="publishing: the Kafka client gave up"):
        await publishing()
    task = asyncio.create_task(publishing())
    await asyncio.wait([task])
    assert not task.cancelled()
    assert isinstance(task.exception(), BusError)


async def test_who_is_cancelled_ends_as_cancelled() -> None:
    doing = asyncio.Event()
    task = asyncio.create_task(publishing(doing))
    await doing.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_time_limit_around_it_is_a_time_limit() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await publishing(asyncio.Event())
