"""Whose fault an error is, and what follows: a call retries alone, a record is given up, or nothing is."""

import asyncio
import errno
import random

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Partition, Record, Subscription
from pipeline.errors import BusError, RecordTooLargeError
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.failures import Blame, blame
from schemas import topics
from schemas.calls import CallRef
from schemas.status import DeadLetter, JobStatus
from stages.errors import MachineFailure, RejectedInput
from stages.protocol import CallProcessor
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    INPUT,
    INPUTS_PER_CALL,
    OUTPUT,
    Faults,
    Sums,
    SumStage,
    bus_with_inputs,
    by_call,
    expected_outputs,
    publish,
    publish_all,
    read_all,
    runner_on,
    stop,
    wait_for_lag,
)

N_OUTPUTS = len(CALLS) * len(expected_outputs())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_work._RETRY_PAUSES_S", (0.0,))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RejectedInput("no audio"), Blame.RECORD),
        (BusError("away"), Blame.BUS),
        (RecordTooLargeError("calls.segments", 9, 8), Blame.UNKNOWN),
        (OSError(errno.ENOSPC, "No space left on device"), Blame.MACHINE),
        (MemoryError(), Blame.MACHINE),
        (ConnectionResetError(), Blame.MACHINE),
        (RuntimeError("can't start new thread"), Blame.MACHINE),
        (MachineFailure("the device is gone"), Blame.MACHINE),
        (ZeroDivisionError(), Blame.UNKNOWN),
        (RuntimeError("CUDA"), Blame.UNKNOWN),
    ],
)
def test_the_blame_follows_from_the_error(error: Exception, expected: Blame) -> None:
    assert blame(error) is expected


class CountingRunner:
    """Counts how often the bus assigned a partition to a runner."""

    def __init__(self, runner: StageRunner) -> None:
        self.assigned = 0
        self._on_assigned = runner.on_assigned
        runner.on_assigned = self.on_assigned  # type: ignore[method-assign]

    async def on_assigned(self, partition: Partition) -> None:
        self.assigned += 1
        await self._on_assigned(partition)


async def letters(bus: MemoryBus, expected: int) -> list[DeadLetter]:
    return [msgspec.json.decode(r.value, type=DeadLetter) for r in await read_all(bus, topics.DEAD_LETTERS, expected)]


async def retries(bus: MemoryBus) -> list[JobStatus]:
    entries = [msgspec.json.decode(r.value, type=JobStatus) for r in await read_all(bus, topics.STATUS, 1)]
    return [entry for entry in entries if entry.status == "retrying"]


async def test_a_call_that_fails_retries_alone_and_the_lane_keeps_its_partitions() -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(breaks_on=25, times=2 * len(CALLS))))
    counting = CountingRunner(runner)
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, len(CALLS))
    await stop(task)
    assert counting.assigned == 2
    assert by_call(await read_all(bus, OUTPUT, N_OUTPUTS)) == {call.key: expected_outputs() for call in CALLS}
    assert await letters(bus, 0) == []
    assert sorted((entry.call_id, entry.detail["attempt"]) for entry in await retries(bus)) == [
        (call.call_id, attempt) for call in CALLS for attempt in (1, 2)
    ]


async def test_a_failure_of_the_machine_gives_nothing_up() -> None:
    class FullDisk(Sums):
        async def submit(self, record: int, event: object):  # type: ignore[no-untyped-def]
            if record == 25 and self.faults.left > 0:
                self.faults.left -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            async for output in super().submit(record, event):  # type: ignore[arg-type]
                yield output

    class FullDiskStage(SumStage):
        def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
            return FullDisk(call, state, self.faults)

    bus = await bus_with_inputs()
    runner = runner_on(bus, FullDiskStage(Faults(times=60)))
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, len(CALLS))
    await stop(task)
    assert by_call(await read_all(bus, OUTPUT, N_OUTPUTS)) == {call.key: expected_outputs() for call in CALLS}
    assert await letters(bus, 0) == []
    assert await retries(bus) == []


async def test_the_attempts_at_a_record_survive_the_process() -> None:
    bus = await bus_with_inputs()
    for seq in range(3):
        await publish(bus, CALLS[0], seq, seq)
    attempts = []
    for _ in range(2):  # each process fails once, and is killed
        stage = SumStage(Faults(breaks_on=2, times=1))
        runner = runner_on(bus, stage)
        task = asyncio.create_task(runner.run())
        while not (counted := runner.attempts._counts.get(CALLS[0])):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await stop(task)
        attempts.append(next(iter(counted.values())))
    assert attempts == [1, 2]
    runner = runner_on(bus, SumStage(Faults(breaks_on=2, times=10**9)))
    task = asyncio.create_task(runner.run())
    [letter] = await letters(bus, 1)
    await stop(task)
    assert (letter.value, letter.attempts) == (b"2", 3)


async def test_records_of_one_id_are_counted_apart() -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(breaks_on=7, times=10**9)))
    task = asyncio.create_task(runner.run())
    for call, number in ((CALLS[0], 7), (CALLS[1], 8)):
        headers = {"ce_callseq": "0", "ce_id": "0"}
        await bus.publish(
            Outgoing(INPUT, key=call.key, value=str(number).encode(), event_id=call.call_id, headers=headers)
        )
    await wait_for_lag(bus, runner, 1)
    await asyncio.sleep(0.05)
    await stop(task)
    assert [letter.key for letter in await letters(bus, 1)] == [CALLS[0].key]


async def test_what_outsiders_write_to_the_ledger_does_not_keep_a_call_retrying() -> None:
    bus = await bus_with_inputs()
    call = CALLS[0]
    for number, value in enumerate((b'{"tenant":"\xff"}', b'{"detail":' + b"[" * 5000, b"\xff", b"{}")):
        await bus.publish(Outgoing(topics.STATUS, key=call.key, value=value, event_id=f"outsider/{number}"))
    runner = runner_on(bus, SumStage(Faults(breaks_on=7, times=10**9)))
    task = asyncio.create_task(runner.run())
    await publish(bus, call, 0, 7)
    async with asyncio.timeout(10):
        [letter] = await letters(bus, 1)
    await stop(task)
    assert (letter.value, letter.attempts) == (b"7", 3)


async def test_a_call_that_fails_without_end_holds_no_budget_that_others_need() -> None:
    class Broken(Sums):
        async def submit(self, record: int, event: object):  # type: ignore[no-untyped-def]
            if self.call == CALLS[0]:
                raise MachineFailure("its disk is full")
            async for output in super().submit(record, event):  # type: ignore[arg-type]
                yield output

    class BrokenStage(SumStage):
        def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
            return Broken(call, state, self.faults)

    bus = await bus_with_inputs()
    runner = runner_on(bus, BrokenStage(), budget_bytes=150)
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    others = {call.key: expected_outputs() for call in CALLS[1:]}
    async with asyncio.timeout(30):
        while by_call(await read_all(bus, OUTPUT, 10**6)) != others:
            pass
    assert await bus.lag(runner.subscription) >= INPUTS_PER_CALL
    await stop(task)
    assert runner.budget.used_bytes == 0


class SlowToFail(Sums):
    """Fails at its first number after a while, as an engine does."""

    async def submit(self, record: int, event: object):  # type: ignore[no-untyped-def]
        if record == 0 and self.faults.left > 0:
            await asyncio.sleep(0.005)
            self.faults.left -= 1
            raise MachineFailure("its device is gone")
        async for output in super().submit(record, event):  # type: ignore[arg-type]
            yield output


class SlowToFailStage(SumStage):
    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
        return SlowToFail(call, state, self.faults)


async def test_an_attempt_reads_few_records_again_however_many_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await bus_with_inputs()
    reads: list[int] = []
    read = bus.read

    async def counted(topic: str, partition: int, position: int) -> Record | None:
        reads.append(position)
        return await read(topic, partition, position)

    monkeypatch.setattr(bus, "read", counted)
    for seq in range(1000):
        await publish(bus, CALLS[0], seq, seq)
    faults = Faults(times=6)
    runner = runner_on(bus, SlowToFailStage(faults), budget_bytes=1_000_000)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(30):
        while faults.left > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert len(reads) <= 8 * 5
    for seq in range(1000, 1010):
        await publish(bus, CALLS[0], seq, seq)
    await wait_for_lag(bus, runner, 3)
    await stop(task)
    assert runner.budget.used_bytes == 0
    totals = [total for total, _ in by_call(await read_all(bus, OUTPUT, 500))[CALLS[0].key]]
    assert totals == [
        sum(range(seq + 1)) for seq in range(1010) for _ in range(2 if seq % 9 == 8 else 1 if seq % 3 == 2 else 0)
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_kills_amid_failures_lose_and_duplicate_nothing(seed: int) -> None:
    chance = random.Random(seed)
    bus = await bus_with_inputs()
    publishing = asyncio.create_task(publish_all(bus))
    stage = SumStage(Faults(breaks_on=chance.randrange(INPUTS_PER_CALL) ** 2, times=2))
    for _ in range(15):
        runner = runner_on(bus, stage, budget_bytes=chance.choice([60, 300, 10_000]))
        task = asyncio.create_task(runner.run())
        for _ in range(chance.randrange(1, 120)):
            await asyncio.sleep(0)
        await stop(task)
        assert runner.budget.used_bytes == 0
    await publishing
    runner = runner_on(bus, stage)
    task = asyncio.create_task(runner.run())
    await wait_for_lag(bus, runner, len(CALLS))
    await stop(task)
    assert by_call(await read_all(bus, OUTPUT, N_OUTPUTS)) == {call.key: expected_outputs() for call in CALLS}, (
        f"seed {seed}"
    )
    assert await letters(bus, 0) == []


async def test_the_death_of_a_runner_s_sweep_restarts_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_runner._KEEP_IDLE_CALL_S", 0.03)
    monkeypatch.setattr("pipeline.runtime.call_runner._RESTART_PAUSES_S", (0.0,))
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage())
    counting = CountingRunner(runner)
    lag, errors = bus.lag_by_partition, [ValueError("odd")]

    async def odd_once(subscription: Subscription) -> dict[tuple[str, int], int]:
        if counting.assigned and errors:
            raise errors.pop()
        return await lag(subscription)

    monkeypatch.setattr(bus, "lag_by_partition", odd_once)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(10):
        while counting.assigned < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await publish_all(bus)
    await wait_for_lag(bus, runner, len(CALLS))
    await stop(task)
    assert by_call(await read_all(bus, OUTPUT, N_OUTPUTS)) == {call.key: expected_outputs() for call in CALLS}
