"""Restarting what reads a bus: each attempt begins at the floor that the one before has reached."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Subscription
from pipeline.errors import BusError


async def restarting(
    attempt: Callable[[], Awaitable[None]], *, backoff: Backoff, report: Callable[[Exception, float], None]
) -> NoReturn:
    """Run `attempt` until cancelled, again after each failure.

    Args:
        attempt: reads until it fails. It resets `backoff` once it has made progress.
        backoff: the pauses between attempts.
        report: called with the failure and the pause in seconds before the next attempt.
    """
    while True:
        try:
            await attempt()
            failure: Exception = RuntimeError("reading ended without an error")
        except Exception as error:
            failure = error
        pause_s = backoff.next_s()
        report(failure, pause_s)
        await asyncio.sleep(pause_s)


async def until_one_ends(*works: "Coroutine[Any, Any, None] | asyncio.Future[None]") -> None:
    """Run `works` together until one ends, cancel the others, and raise what it raised.

    Of several that end at once the first given counts.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    next(task for task in tasks if task in ended).result()


async def log_backlog(bus: Bus, subscription: Subscription, log: Any) -> None:
    """Log how many records wait when a stage begins to read: after a crash, those that it had not finished."""
    try:
        log.info("stage reads", waiting=await bus.lag(subscription))
    except BusError as error:
        log.warning("stage reads, lag unknown", error=str(error))
