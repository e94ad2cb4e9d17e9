"""What stays in memory of calls that are quiet: nothing if nothing of them is open, else where their inputs are."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.runtime import call_runner, call_work
from pipeline.runtime.call_runner import StageRunner
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    INPUTS_PER_CALL,
    OUTPUT,
    Faults,
    SumStage,
    bus_with_inputs,
    by_call,
    expected_outputs,
    publish,
    read_all,
    runner_on,
    stop,
    wait_for_lag,
)


@pytest.fixture(autouse=True)
def quiet_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_runner, "CHECK_EVERY_S", 0.005)
    monkeypatch.setattr(call_runner, "_KEEP_IDLE_CALL_S", 0.01)
    monkeypatch.setattr(call_runner, "_REST_AFTER_S", 0.01)


async def until(met: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not met():  # noqa: ASYNC110  # a runner has no event for it
            await asyncio.sleep(0.005)


async def running(bus: MemoryBus, stage: SumStage, do: Callable[[StageRunner], Awaitable[None]]) -> None:
    runner = runner_on(bus, stage)
    task = asyncio.create_task(runner.run())
    try:
        await do(runner)
    finally:
        await stop(task)
    assert runner.budget.used_bytes == 0


async def test_a_call_whose_every_input_was_refused_leaves_memory() -> None:
    bus = await bus_with_inputs()

    async def do(runner: StageRunner) -> None:
        await publish(bus, CALLS[0], 0, 16)
        await publish(bus, CALLS[1], 0, 1)
        await wait_for_lag(bus, runner, 1)
        await until(lambda: CALLS[0] not in {work.call for work in runner.open_calls()})

    await running(bus, SumStage(Faults(rejects=16)), do)


async def test_a_quiet_call_leaves_memory_but_holds_its_last_input_and_goes_on() -> None:
    bus = await bus_with_inputs()

    async def do(runner: StageRunner) -> None:
        for begin, end in ((0, 7), (7, 8), (8, INPUTS_PER_CALL)):
            for seq in range(begin, end):
                await publish(bus, CALLS[0], seq, seq * seq)
            await asyncio.sleep(0.05)
            await until(lambda: not runner.open_calls())
        assert await bus.lag(runner.subscription) == 1  # the last input gave no output

    async def begun(runner: StageRunner) -> None:
        await publish(bus, CALLS[1], 0, 0)
        await asyncio.sleep(0.05)
        await until(lambda: not runner.open_calls())
        assert await bus.lag(runner.subscription) == 2

    async def restarted(runner: StageRunner) -> None:
        await until(lambda: CALLS[1] in {work.call for work in runner.open_calls()})

    await running(bus, SumStage(), do)
    assert by_call(await read_all(bus, OUTPUT, 17)) == {CALLS[0].key: expected_outputs()}
    await running(bus, SumStage(), begun)
    await running(bus, SumStage(), restarted)


async def test_a_call_that_an_idle_limit_ends_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await bus_with_inputs()
    monkeypatch.setattr("tests.unit.pipeline.runtime.test_call_runner.Sums.idle_position", 1)

    async def do(runner: StageRunner) -> None:
        await publish(bus, CALLS[0], 0, 0)
        await asyncio.sleep(0.1)
        assert [work.call for work in runner.open_calls()] == [CALLS[0]]

    await running(bus, SumStage(), do)


async def test_a_call_with_many_open_inputs_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_work, "_MOST_REREAD", 1)
    bus = await bus_with_inputs()

    async def do(runner: StageRunner) -> None:
        await publish(bus, CALLS[0], 0, 0)
        await publish(bus, CALLS[0], 1, 0)  # neither gives an output, so nothing releases them
        await asyncio.sleep(0.1)
        assert [work.call for work in runner.open_calls()] == [CALLS[0]]

    await running(bus, SumStage(), do)


@pytest.mark.parametrize("seed", range(4))
async def test_calls_that_rest_at_random_moments_lose_and_double_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(call_runner, "_REST_AFTER_S", 0.0)
    monkeypatch.setattr(call_runner, "CHECK_EVERY_S", 0.0)
    bus = await bus_with_inputs()

    async def do(runner: StageRunner) -> None:
        for seq in range(INPUTS_PER_CALL):
            for call in CALLS:
                await publish(bus, call, seq, seq * seq)
                for _ in range(chance.choice([0, 0, 1, 5, 30])):
                    await asyncio.sleep(0)
        await wait_for_lag(bus, runner, len(CALLS), timeout_s=20)

    await running(bus, SumStage(), do)
    outputs = by_call(await read_all(bus, OUTPUT, len(CALLS) * len(expected_outputs())))
    assert outputs == {call.key: expected_outputs() for call in CALLS}, f"seed {seed}"
