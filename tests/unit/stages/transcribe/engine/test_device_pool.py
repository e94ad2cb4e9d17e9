"""Batches spread over devices."""

import asyncio

import pytest

from schemas.calls import CallRef
from stages.transcribe.engine.device_pool import DevicePool
from stages.transcribe.engine.protocol import Row
from stages.transcribe.scheduling.scheduler import Scheduler
from tests.unit.stages.transcribe.engines import FakeEngine, audio, until

CALL = CallRef("default", "call-1")


def row(level: int) -> Row:
    return Row(audio=audio(level), voiced=[(0.0, 1.0)], language="en")


def engines(*sizes: int) -> list[FakeEngine]:
    """One for each batch size, all held back."""
    made = [FakeEngine() for _ in sizes]
    for engine, size in zip(made, sizes, strict=True):
        engine.max_batch = size
        engine.gate.clear()
    return made


async def run(pool: DevicePool, made: list[FakeEngine], n_rows: int) -> list[int]:
    """How many batches of one row are in each engine when as many run at once."""
    scheduler = Scheduler(pool, workers=n_rows, max_batch=1)
    waiting = [scheduler.submit(row(level), call=CALL, live=True) for level in range(1, n_rows + 1)]
    await until(lambda: sum(engine.running for engine in made) == n_rows)
    spread = [engine.running for engine in made]
    for engine in made:
        engine.gate.set()
    done = await asyncio.gather(*waiting)
    assert [text.text for text in done] == [f"en {level}" for level in range(1, n_rows + 1)]
    await scheduler.close()
    return spread


async def test_equal_devices_get_equally_many_batches_of_one_queue() -> None:
    made = engines(16, 16, 16)
    assert await run(DevicePool(made), made, 6) == [2, 2, 2]


async def test_a_device_that_takes_smaller_batches_gets_fewer_of_them() -> None:
    made = engines(16, 4, 1)
    assert await run(DevicePool(made), made, 5) == [4, 1, 0]


def test_a_device_that_fails_gets_fewer_batches_until_one_succeeds_there() -> None:
    made = engines(1, 1)
    pool = DevicePool(made)
    for engine in made:
        engine.gate.set()
    made[0].broken = frozenset({1})
    with pytest.raises(RuntimeError, match="broken audio"):
        pool.transcribe_batch([row(1)])
    for _ in range(3):
        pool.transcribe_batch([row(2)])
    assert [len(engine.batches) for engine in made] == [1, 3]
    made[1].broken = frozenset({1})
    with pytest.raises(RuntimeError, match="broken audio"):
        pool.transcribe_batch([row(1)])
    for _ in range(3):
        pool.transcribe_batch([row(2)])
    assert [len(engine.batches) for engine in made] == [4, 4]


def test_a_pool_has_the_model_of_its_engines_and_their_largest_batch() -> None:
    pool = DevicePool(engines(4, 16))
    assert (pool.model_name, pool.max_batch, pool.window_s(row(1))) == ("fake", 16, 10)
    assert "en" in pool.languages
