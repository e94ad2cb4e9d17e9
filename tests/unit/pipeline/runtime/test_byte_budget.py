import asyncio

from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.byte_budget import ByteBudget


async def test_a_taker_waits_until_there_is_room_and_is_served_in_turn() -> None:
    budget = ByteBudget(10)
    await budget.take(8)
    order: list[str] = []

    async def take(name: str, size_bytes: int) -> None:
        await budget.take(size_bytes)
        order.append(name)

    large, small = asyncio.create_task(take("large", 6)), asyncio.create_task(take("small", 2))
    await asyncio.sleep(0)
    assert order == []
    assert budget.exhausted
    budget.give(8)
    await asyncio.gather(large, small)
    assert order == ["large", "small"]
    assert not budget.exhausted


async def test_a_record_larger_than_the_budget_passes_alone() -> None:
    budget = ByteBudget(10)
    await budget.take(100)
    waiting = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give(100)
    await waiting


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=30), st.integers(1, 40))
def test_nothing_leaks_when_any_taker_is_cancelled(takers: list[tuple[int, bool]], limit_bytes: int) -> None:
    async def run() -> None:
        budget = ByteBudget(limit_bytes)

        async def work(size_bytes: int) -> None:
            await budget.take(size_bytes)
            try:
                assert budget.used_bytes <= max(limit_bytes, size_bytes)
                await asyncio.sleep(0)
            finally:
                budget.give(size_bytes)

        tasks = [asyncio.create_task(work(size_bytes)) for size_bytes, _ in takers]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, takers, strict=True):
            if cancelled:
                task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used_bytes == 0
        assert not budget.exhausted

    asyncio.run(run())
