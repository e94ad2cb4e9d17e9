"""Background tasks tell their owner when they end."""

import asyncio

from pipeline.tasks import owned


async def ends(error: Exception | None = None) -> None:
    if error is not None:
        raise error


async def test_the_error_of_a_task_is_its_owner_s() -> None:
    told: list[Exception] = []
    error = ValueError("odd")
    await asyncio.wait([owned(ends(error), name="reader", failed=told.append)])
    await asyncio.sleep(0)
    assert told == [error]


async def test_a_task_that_should_run_on_must_not_end() -> None:
    told: list[Exception] = []
    await asyncio.wait([owned(ends(), name="reader", failed=told.append)])
    await asyncio.wait([owned(ends(), name="announcement", failed=told.append, ends=True)])
    await asyncio.sleep(0)
    assert [str(error) for error in told] == ["reader ended"]


async def test_cancelling_a_task_is_no_failure() -> None:
    told: list[Exception] = []
    task = owned(asyncio.sleep(10), name="reader", failed=told.append)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert told == []
