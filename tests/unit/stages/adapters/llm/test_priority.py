"""The order of requests to a language model."""

import asyncio
import random

from stages.adapters.llm.priority import PrioritySemaphore, Urgency


async def test_the_most_urgent_goes_first_and_of_equals_the_first() -> None:
    semaphore, order = PrioritySemaphore(), list[str]()

    async def ask(name: str, urgency: Urgency) -> None:
        async with semaphore.slot(urgency):
            order.append(name)
            await asyncio.sleep(0)

    waiting = [
        ("first", Urgency.DEFERRED),
        ("again", Urgency.DEFERRED),
        ("batch 1", Urgency.BATCH),
        ("batch 2", Urgency.BATCH),
    ]
    waiting += [("live", Urgency.LIVE), ("rolling", Urgency.ROLLING)]
    await asyncio.gather(*(ask(name, urgency) for name, urgency in waiting))
    assert order == ["first", "live", "rolling", "batch 1", "batch 2", "again"]


async def test_a_cancelled_task_is_passed_over_and_no_slot_is_lost() -> None:
    chance = random.Random(1)
    semaphore = PrioritySemaphore(2)
    inside = most = done = 0

    async def ask() -> None:
        nonlocal inside, most, done
        async with semaphore.slot(chance.choice(list(Urgency))):
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(chance.random() / 500)
            finally:
                inside -= 1
            done += 1

    tasks = [asyncio.create_task(ask()) for _ in range(200)]
    for task in chance.sample(tasks, 60):
        await asyncio.sleep(chance.random() / 500)
        task.cancel()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert done == sum(result is None for result in results) >= 140
    async with semaphore.slot(Urgency.DEFERRED), semaphore.slot(Urgency.DEFERRED):
        pass
