import asyncio

import pytest

from pipeline.backoff import Backoff
from pipeline.runtime.restarts import restarting, until_one_ends


async def test_an_attempt_that_fails_is_reported_and_repeated_after_a_pause() -> None:
    backoff = Backoff((0.001, 0.002))
    reports: list[tuple[str, float]] = []
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            backoff.reset()
        if attempts == 4:
            return
        if attempts == 5:
            await asyncio.Event().wait()
        raise ArithmeticError(f"attempt {attempts}")

    async with asyncio.timeout(5):
        task = asyncio.create_task(
            restarting(attempt, backoff=backoff, report=lambda error, pause_s: reports.append((str(error), pause_s)))
        )
        while attempts < 5:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reports == [
        ("attempt 1", 0.001),
        ("attempt 2", 0.002),
        ("attempt 3", 0.001),
        ("reading ended without an error", 0.002),
    ]


async def test_the_first_work_that_ends_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ArithmeticError("boom")

    with pytest.raises(ArithmeticError, match="boom"):
        await until_one_ends(wait(), fail())
    assert cancelled.is_set()


async def test_if_several_works_end_at_once_the_first_given_counts() -> None:
    failed: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    for number, future in enumerate(failed):
        future.set_exception(ArithmeticError(str(number)))
    with pytest.raises(ArithmeticError, match="0"):
        await until_one_ends(*failed)
