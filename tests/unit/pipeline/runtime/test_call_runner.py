"""The call runner on the memory bus, with a stage whose outputs are easy to compute."""

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Record, Subscription, TopicSpec
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import Decoded
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from schemas.status import DeadLetter
from stages.errors import RejectedInput
from stages.protocol import CallProcessor, Checkpoint, Event, Output, SkipsFailedInputs

INPUT, OUTPUT = "numbers.in", "numbers.out"
CALLS = [CallRef("default", f"call-{number}") for number in range(5)]
INPUTS_PER_CALL = 40


class Sums(SkipsFailedInputs):
    """Publishes a running sum at every third number, twice at every ninth, and holds the inputs since the last."""

    idle_position = None
    waiting = None

    def __init__(self, call: CallRef, state: bytes | None, faults: "Faults") -> None:
        self.call = call
        self.faults = faults
        restored = msgspec.msgpack.decode(state, type=tuple[int, int, int]) if state else (0, 0, 0)
        self.base: tuple[int, int, int] = restored
        self.total, self.next_seq, self.out_seq = restored

    async def submit(self, record: int, event: Event) -> AsyncIterator[Output]:
        if event.seq < self.next_seq:
            return
        if record == self.faults.rejects:
            raise RejectedInput("this number is not wanted")
        if record == self.faults.breaks_on and self.faults.left > 0:
            self.faults.left -= 1
            raise ZeroDivisionError("the stage broke")
        await asyncio.sleep(0)
        self.next_seq = event.seq + 1
        self.total += record
        copies = 2 if event.seq % 9 == 8 else 1 if event.seq % 3 == 2 else 0
        for copy in range(copies):
            yield Output(
                topic=OUTPUT,
                record={"total": object() if record == self.faults.unsendable else self.total, "copy": copy},
                event_id=f"{self.call.call_id}/{self.out_seq}",
                seq=self.out_seq,
            )
            self.out_seq += 1
        if copies:
            self.base = (self.total, self.next_seq, self.out_seq)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self.base), released=self.base[1])

    @property
    def finished(self) -> bool:
        return self.next_seq == INPUTS_PER_CALL


class Faults:
    def __init__(
        self,
        *,
        rejects: int | None = None,
        breaks_on: int | None = None,
        times: int = 0,
        unsendable: int | None = None,
    ) -> None:
        self.rejects, self.breaks_on, self.left, self.unsendable = rejects, breaks_on, times, unsendable


class SumStage:
    name = "sums"
    topic = OUTPUT

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
        return Sums(call, state, self.faults)


def decode(record: Record) -> Decoded:
    return Decoded(
        CallRef.from_key(record.key), int(record.headers["ce_callseq"]), record.headers["ce_id"], int(record.value)
    )


def runner_on(bus: MemoryBus, stage: SumStage, budget_bytes: int = 10_000) -> StageRunner:
    metrics = Metrics()
    return StageRunner(
        bus,
        stage,
        subscription=Subscription(group="sums", topics=(INPUT,), progress_topic=OUTPUT),
        decoder=decode,
        publisher=Publisher(bus, stage="sums", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=budget_bytes,
    )


async def bus_with_inputs() -> MemoryBus:
    bus = MemoryBus(partitions=2)
    names = (INPUT, OUTPUT, topics.DEAD_LETTERS, topics.STATUS)
    await bus.ensure_topics([TopicSpec(name=name, partitions=2, retention_s=60) for name in names])
    return bus


async def publish(bus: MemoryBus, call: CallRef, seq: int, number: int) -> None:
    await bus.publish(
        Outgoing(
            INPUT,
            key=call.key,
            value=str(number).encode(),
            event_id=f"{call.call_id}/in/{seq}",
            headers={"ce_callseq": str(seq), "ce_id": f"{call.call_id}/in/{seq}"},
        )
    )


async def publish_all(bus: MemoryBus) -> None:
    for seq in range(INPUTS_PER_CALL):
        for call in CALLS:
            await publish(bus, call, seq, seq * seq)


async def read_all(bus: MemoryBus, topic: str, expected: int) -> list[Record]:
    """Return all records of a topic, read by a group of its own."""
    got: list[Record] = []

    class Reader:
        async def on_assigned(self, partition: object) -> None: ...

        async def on_revoked(self, partition: object) -> None: ...

        async def on_expired(self, expired: object, partition: object) -> None: ...

        async def on_record(self, record: Record, partition: object) -> None:
            got.append(record)

    reading = asyncio.create_task(bus.run(Subscription(group=f"reader-{random.random()}", topics=(topic,)), Reader()))
    for _ in range(200):
        await asyncio.sleep(0.005)
        if len(got) >= expected:
            break
    await asyncio.sleep(0.02)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return got


def expected_outputs(skip: int | None = None) -> list[tuple[int, int]]:
    total, outputs = 0, []
    for seq in range(INPUTS_PER_CALL):
        if skip == seq * seq:
            continue
        total += seq * seq
        outputs += [(total, copy) for copy in range(2 if seq % 9 == 8 else 1 if seq % 3 == 2 else 0)]
    return outputs


def by_call(records: list[Record]) -> dict[bytes, list[tuple[int, int]]]:
    found: dict[bytes, list[tuple[int, int]]] = {}
    for record in records:
        content = msgspec.json.decode(record.value)
        found.setdefault(record.key, []).append((content["total"], content["copy"]))
    return found


async def wait_for_lag(bus: MemoryBus, runner: StageRunner, limit: int, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await bus.lag(runner.subscription) > limit:  # noqa: ASYNC110  # a bus tells its lag only when asked
            await asyncio.sleep(0.005)


async def stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_call_gives_its_outputs_in_order() -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage())
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    outputs = by_call(await read_all(bus, OUTPUT, len(CALLS) * len(expected_outputs())))
    assert outputs == {call.key: expected_outputs() for call in CALLS}


@pytest.mark.parametrize("seed", range(12))
async def test_kills_at_random_moments_lose_and_duplicate_nothing(seed: int) -> None:
    chance = random.Random(seed)
    bus = await bus_with_inputs()
    publishing = asyncio.create_task(publish_all(bus))
    for _ in range(15):
        runner = runner_on(bus, SumStage(), budget_bytes=chance.choice([60, 300, 10_000]))
        task = asyncio.create_task(runner.run())
        for _ in range(chance.randrange(1, 60)):
            await asyncio.sleep(0)
        await stop(task)
        assert runner.budget.used_bytes == 0
    await publishing
    runner = runner_on(bus, SumStage())
    task = asyncio.create_task(runner.run())
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    outputs = by_call(await read_all(bus, OUTPUT, len(CALLS) * len(expected_outputs())))
    assert outputs == {call.key: expected_outputs() for call in CALLS}, f"seed {seed}"


async def test_an_open_call_keeps_its_last_record_so_that_a_restart_finds_it() -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage())
    task = asyncio.create_task(runner.run())
    for seq in range(6):
        await publish(bus, CALLS[0], seq, seq)
    await wait_for_lag(bus, runner, 1)
    await asyncio.sleep(0.05)
    assert await bus.lag(runner.subscription) == 1
    await stop(task)
    again = runner_on(bus, SumStage())
    task = asyncio.create_task(again.run())
    await asyncio.sleep(0.05)
    assert [work.call for work in again.open_calls()] == [CALLS[0]]
    await stop(task)


class Stuck(Sums):
    async def submit(self, record: int, event: Event) -> AsyncIterator[Output]:
        await asyncio.Event().wait()
        yield Output(topic=OUTPUT, record=None, event_id="never")


class StuckStage(SumStage):
    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
        return Stuck(call, state, self.faults)


@pytest.mark.parametrize("steps", range(1, 6))
async def test_work_frees_the_budget_even_if_the_revocation_is_cancelled(steps: int) -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, StuckStage())
    task = asyncio.create_task(runner.run())
    for call in CALLS:
        await publish(bus, call, 0, 1)
    await asyncio.sleep(0.05)
    works = runner.open_calls()
    assert len(works) == len(CALLS)
    for partition in {id(work.partition): work.partition for work in works}.values():
        revoking = asyncio.create_task(runner.on_revoked(partition))
        for _ in range(steps):
            await asyncio.sleep(0)
        revoking.cancel()
        await asyncio.gather(revoking, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert all(work.ended for work in works)
    assert runner.budget.used_bytes == 0
    await stop(task)
    assert runner.budget.used_bytes == 0


async def test_a_rejected_input_becomes_a_dead_letter_and_the_call_continues() -> None:
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(rejects=16)))
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    letters = [msgspec.json.decode(r.value, type=DeadLetter) for r in await read_all(bus, topics.DEAD_LETTERS, 5)]
    assert sorted(CallRef.from_key(letter.key) for letter in letters) == CALLS
    assert {letter.value for letter in letters} == {b"16"}
    outputs = by_call(await read_all(bus, OUTPUT, 60))
    assert outputs == {call.key: expected_outputs(skip=16) for call in CALLS}


@pytest.mark.parametrize("error", [RejectedInput("not a number"), RecursionError("not a number")])
async def test_a_record_that_cannot_be_decoded_becomes_a_dead_letter(error: Exception) -> None:
    bus = await bus_with_inputs()

    def refuse(record: Record) -> Decoded:
        raise error

    runner = runner_on(bus, SumStage())
    runner._decoder = refuse
    task = asyncio.create_task(runner.run())
    await publish(bus, CALLS[0], 0, 1)
    await wait_for_lag(bus, runner, 0)
    await stop(task)
    [letter] = await read_all(bus, topics.DEAD_LETTERS, 1)
    assert msgspec.json.decode(letter.value, type=DeadLetter).message == "not a number"


async def test_a_stage_that_breaks_restarts_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_work._RETRY_PAUSES_S", (0.0,))
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(breaks_on=25, times=2)))
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    outputs = by_call(await read_all(bus, OUTPUT, len(CALLS) * len(expected_outputs())))
    assert outputs == {call.key: expected_outputs() for call in CALLS}
    assert await read_all(bus, topics.DEAD_LETTERS, 0) == []


async def test_a_record_that_always_breaks_the_stage_gets_three_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.runtime.call_work._RETRY_PAUSES_S", (0.0,))
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(breaks_on=36, times=10**9)))
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    letters = [msgspec.json.decode(r.value, type=DeadLetter) for r in await read_all(bus, topics.DEAD_LETTERS, 5)]
    assert [(letter.value, letter.attempts) for letter in letters] == [(b"36", 3)] * len(CALLS)


async def test_a_record_whose_output_cannot_be_sent_gets_three_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.runtime.call_work._RETRY_PAUSES_S", (0.0,))
    bus = await bus_with_inputs()
    runner = runner_on(bus, SumStage(Faults(unsendable=25)))
    task = asyncio.create_task(runner.run())
    await publish_all(bus)
    await wait_for_lag(bus, runner, 5)
    await stop(task)
    letters = [msgspec.json.decode(r.value, type=DeadLetter) for r in await read_all(bus, topics.DEAD_LETTERS, 5)]
    assert [(letter.value, letter.attempts) for letter in letters] == [(b"25", 3)] * len(CALLS)
