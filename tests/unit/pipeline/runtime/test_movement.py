"""A group that stands still is named, and readiness is taken back."""

import asyncio

import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Handler, Partition, Record, Subscription, TopicSpec
from pipeline.runtime.movement import Health, Movement
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    INPUT,
    OUTPUT,
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


class Mute(MemoryBus):
    """A bus that delivers nothing the first time."""

    runs = 0

    async def run(self, subscription: Subscription, handler: Handler) -> None:
        self.runs += 1
        await super().run(subscription, Silent(handler) if self.runs == 1 else handler)


class Silent:
    """Passes on that partitions are assigned, and keeps the records."""

    def __init__(self, handler: Handler) -> None:
        self.on_assigned = handler.on_assigned
        self.on_expired = handler.on_expired
        self.on_revoked = handler.on_revoked

    async def on_record(self, record: Record, partition: Partition) -> None:
        await asyncio.Event().wait()


async def test_a_bus_that_keeps_records_back_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_runner.CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("pipeline.runtime.call_runner.STANDSTILL_S", 0.2)
    monkeypatch.setattr("pipeline.runtime.call_runner._RESTART_PAUSES_S", (0.0,))
    bus = Mute(partitions=2)
    names = (INPUT, OUTPUT, topics.DEAD_LETTERS, topics.STATUS)
    await bus.ensure_topics([TopicSpec(name=name, partitions=2, retention_s=60) for name in names])
    runner = runner_on(bus, SumStage())
    health = Health(runner.metrics)
    runner.movement = Movement("sums", health, standstill_s=0.1)
    await publish_all(bus)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(10):
        await health.changed.wait()
    assert health.stalled == ["sums"]
    await wait_for_lag(bus, runner, len(CALLS))
    await asyncio.sleep(0.1)
    await stop(task)
    assert bus.runs == 2
    assert health.stalled == []


class Counting(MemoryBus):
    """A bus that counts how often it is asked what waits."""

    asked = 0

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        self.asked += 1
        return await super().lag_by_partition(subscription)


async def test_the_bus_is_asked_once_a_check_while_records_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0

    class Checked(Movement):
        def check(self, *, waiting: bool) -> None:
            nonlocal checks
            checks += 1
            super().check(waiting=waiting)

    monkeypatch.setattr("pipeline.runtime.call_runner.CHECK_EVERY_S", 0.01)
    bus = Counting(partitions=2)
    runner = runner_on(bus, StuckStage())
    runner.movement = Checked("sums", Health(runner.metrics))
    await publish(bus, CALLS[0], 0, 1)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(10):
        while checks < 5:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
    await stop(task)
    assert await bus.lag(runner.subscription) > 0
    assert bus.asked <= checks + 3, "one more to log the backlog, one in progress, one above"
