"""The batch runner on the memory bus: the record that prevents a batch is found, and the machine's failures are not."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from pipeline.runtime.batch_runner import BatchRunner, BatchStage
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from schemas.status import JOB_TYPE, DeadLetter, JobStatus
from stages.errors import MachineFailure
from stages.protocol import Output
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.pipeline.runtime.test_call_runner import read_all, stop

INPUT = topics.STATUS


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.batch_runner._RESTART_PAUSES_S", (0.01,))
    monkeypatch.setattr("pipeline.runtime.batch_runner._FLUSH_S", 0.01)


@pytest.fixture
async def bus() -> MemoryBus:
    bus = MemoryBus(partitions=1)
    names = (INPUT, topics.TRANSCRIPTS, topics.DEAD_LETTERS)
    await bus.ensure_topics([TopicSpec(name=name, partitions=1, retention_s=60) for name in names])
    return bus


class Store:
    """Stores numbers, and refuses those that a test names."""

    name = "store"

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.errors: dict[int, Exception] = {}
        self.down: Exception | None = None

    def decode(self, topic: str, headers: Mapping[str, str], value: bytes, timestamp_s: float) -> int:
        return int(value)

    def write(self, records: list[int]) -> list[Output]:
        if self.down is not None:
            raise self.down
        for number in records:
            if number in self.errors:
                raise self.errors[number]
        self.stored += records
        return []


@pytest.fixture
def writer() -> "Any":
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def running(bus: MemoryBus, stage: BatchStage, writer: ThreadPoolExecutor) -> "asyncio.Task[None]":
    metrics = Metrics()
    runner = BatchRunner(
        bus,
        stage,
        subscription=Subscription(group="store", topics=(INPUT,)),
        publisher=Publisher(bus, stage=stage.name, lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=1_000_000,
        writer=writer,
        max_records=1_000,
    )
    return asyncio.create_task(runner.run())


async def publish(bus: MemoryBus, numbers: range) -> None:
    for number in numbers:
        await bus.publish(Outgoing(INPUT, key=b"k", value=str(number).encode(), event_id=str(number)))


async def until_lag(bus: MemoryBus, lag: int) -> None:
    async with asyncio.timeout(30):
        while await bus.lag(Subscription(group="store", topics=(INPUT,))) > lag:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def letters(bus: MemoryBus, expected: int) -> list[DeadLetter]:
    return [msgspec.json.decode(r.value, type=DeadLetter) for r in await read_all(bus, topics.DEAD_LETTERS, expected)]


async def test_the_record_that_cannot_be_written_is_found_among_its_neighbours(
    bus: MemoryBus, writer: ThreadPoolExecutor
) -> None:
    store = Store()
    store.errors = {13: ValueError("unlucky"), 77: ValueError("a double")}
    await publish(bus, range(100))
    task = await running(bus, store, writer)
    await until_lag(bus, 0)
    await stop(task)
    assert store.stored == [number for number in range(100) if number not in store.errors]
    assert [(letter.value, letter.message) for letter in await letters(bus, 2)] == [
        (b"13", "unlucky"),
        (b"77", "a double"),
    ]


@pytest.mark.parametrize("error", [MachineFailure("disk full"), OSError(28, "No space left"), ValueError("odd")])
async def test_a_store_that_takes_nothing_loses_nothing(
    bus: MemoryBus, writer: ThreadPoolExecutor, error: Exception
) -> None:
    store = Store()
    store.down = error
    await publish(bus, range(20))
    task = await running(bus, store, writer)
    await asyncio.sleep(0.3)
    assert await letters(bus, 0) == []
    store.down = None
    await until_lag(bus, 0)
    await stop(task)
    assert sorted(store.stored) == list(range(20))


async def test_a_record_alone_waits_for_a_neighbour_that_proves_it_guilty(
    bus: MemoryBus, writer: ThreadPoolExecutor
) -> None:
    store = Store()
    store.errors = {0: ValueError("odd")}
    await publish(bus, range(1))
    task = await running(bus, store, writer)
    await asyncio.sleep(0.2)
    assert await letters(bus, 0) == []
    await publish(bus, range(1, 2))
    await until_lag(bus, 0)
    await stop(task)
    assert store.stored == [1]
    assert [letter.value for letter in await letters(bus, 1)] == [b"0"]


@pytest.fixture
def warehouse(tmp_path: Path) -> "Any":
    with Tables(tmp_path / "calls.duckdb") as tables:
        yield tables


async def test_a_ledger_entry_that_no_column_holds_stops_no_other_call(
    bus: MemoryBus, writer: ThreadPoolExecutor, warehouse: Tables
) -> None:
    for number in range(5):
        call = CallRef("default", f"call-{number}")
        detail = {"channels": 2**40 if number == 2 else 1, "sample_rate_hz": 8_000}
        entry = JobStatus(
            tenant=call.tenant, call_id=call.call_id, job="separate", status="started", detail=detail, at=1.0
        )
        value = msgspec.json.encode(entry)
        headers = {"ce_type": JOB_TYPE, "ce_id": call.call_id}
        await bus.publish(Outgoing(INPUT, key=call.key, value=value, event_id=call.call_id, headers=headers))
    task = await running(bus, SinkStage(warehouse), writer)
    subscription = Subscription(group="store", topics=(INPUT,))
    async with asyncio.timeout(30):
        while await bus.lag(subscription):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await stop(task)
    stored = warehouse.connection.execute("SELECT call_id FROM audio_sessions ORDER BY call_id").fetchall()
    assert stored == [("call-0",), ("call-1",), ("call-3",), ("call-4",)]
    [letter] = await letters(bus, 1)
    assert b"call-2" in letter.value
