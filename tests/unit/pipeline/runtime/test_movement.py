"""A group that stands still is named, and readiness is taken back."""

import asyncio

import pytest

from pipeline.runtime.movement import Health, Movement
from pipeline.telemetry.metrics import Metrics
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    StuckStage,
    SumStage,
    bus_with_inputs,
    publish,
    publish_all,
    runner_on,
    stop,
    wait_for_lag,
)


def test_a_group_stands_still_only_while_records_wait() -> None:
    now = 0.0
    health = Health(Metrics())
    movement = Movement("merge", health, clock=lambda: now)
    for now, waiting, expected in ((59, True, []), (61, True, ["merge"]), (62, False, []), (200, False, [])):  # noqa: B007
        movement.check(waiting=waiting)
        assert health.stalled == expected
    movement.check(waiting=True)
    assert health.stalled == []
    now = 261.0
    movement.check(waiting=True)
    assert health.stalled == ["merge"]
    movement.moved()
    movement.check(waiting=True)
    assert health.stalled == []


@pytest.mark.parametrize(("stage", "stalled"), [(StuckStage(), ["sums"]), (SumStage(), [])])
async def test_a_runner_whose_stage_hangs_is_named_and_one_with_an_open_call_is_not(
    monkeypatch: pytest.MonkeyPatch, stage: SumStage, stalled: list[str]
) -> None:
    monkeypatch.setattr("pipeline.runtime.call_runner.CHECK_EVERY_S", 0.01)
    bus = await bus_with_inputs()
    runner = runner_on(bus, stage)
    health = Health(runner.metrics)
    runner.movement = Movement("sums", health, standstill_s=0.2)
    task = asyncio.create_task(runner.run())
    await publish(bus, CALLS[0], 0, 1)
    await asyncio.sleep(0.6)
    await stop(task)
    assert health.stalled == stalled


async def test_a_group_that_moves_again_is_ready_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_runner.CHECK_EVERY_S", 0.01)
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage())
    health = Health(runner.metrics)
    runner.movement = Movement("sums", health, standstill_s=0.2)
    health.report("sums", stalled=True)
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, len(CALLS))
    await asyncio.sleep(0.1)
    await stop(task)
    assert health.stalled == []
    assert health.changed.is_set()
