"""A Kafka client that holds its partitions and delivers nothing: after a standstill the lane joins the group anew."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.bus.kafka import reading
from pipeline.bus.kafka.faust_app import ReaderApp, reader_app
from pipeline.bus.protocol import Bus, Outgoing, Subscription, TopicSpec
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from tests.contract.brokers import KafkaBroker
from tests.support.brokers.kafka import KafkaServer
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    INPUT,
    INPUTS_PER_CALL,
    OUTPUT,
    SumStage,
    decode,
    stop,
)

STANDSTILL_S = 2.0
PARTITIONS = 1
OUTPUTS_PER_CALL = 17
READ = Subscription(group="sums", topics=(INPUT,), progress_topic=OUTPUT)

pytestmark = pytest.mark.kafka


@pytest.fixture
async def bus(kafka_server: KafkaServer) -> AsyncIterator[Bus]:
    broker = KafkaBroker(kafka_server)
    await broker.start()
    made = await broker.bus()
    names = (INPUT, OUTPUT, topics.DEAD_LETTERS, topics.STATUS)
    await made.ensure_topics([TopicSpec(name=name, partitions=PARTITIONS, retention_s=3600) for name in names])
    yield made
    await broker.stop()


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[ReaderApp]:
    """The Faust apps that the bus has made, the last one last."""
    made: list[ReaderApp] = []

    def make(*arguments: Any, **options: Any) -> ReaderApp:
        made.append(reader_app(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(reading, "reader_app", make)
    return made


async def pause_fetching(app: ReaderApp) -> None:
    """Pause all partitions in the client below Faust. They stay assigned, and its heartbeats go on."""
    thread = app.consumer._thread

    async def pause() -> None:
        client = thread._ensure_consumer()
        client.pause(*client.assignment())

    await thread.call_thread(pause)


async def publish(bus: Bus, call: CallRef) -> None:
    for number in range(INPUTS_PER_CALL):
        event_id = f"{call.call_id}/{number}"
        headers = {"ce_callseq": str(number), "ce_id": event_id}
        value = str(number).encode()
        await bus.publish(Outgoing(INPUT, key=call.key, value=value, event_id=event_id, headers=headers))


async def outputs(bus: Bus) -> list[str]:
    return [record.headers["ce_id"] async for record in bus.stored(OUTPUT)]


async def until_outputs(bus: Bus, count: int) -> None:
    async with asyncio.timeout(60):
        while len(await outputs(bus)) < count:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.2)


async def test_a_client_that_delivers_nothing_is_replaced(
    bus: Bus, apps: list[ReaderApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.call_runner.CHECK_EVERY_S", 0.2)
    monkeypatch.setattr("pipeline.runtime.call_runner.STANDSTILL_S", STANDSTILL_S)
    metrics = Metrics()
    runner = StageRunner(
        bus,
        SumStage(),
        subscription=READ,
        decoder=decode,
        publisher=Publisher(bus, stage="sums", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=100_000,
    )
    task = asyncio.create_task(runner.run())
    try:
        await publish(bus, CALLS[0])
        await until_outputs(bus, OUTPUTS_PER_CALL)
        assert runner.open_calls(), "a call in memory, whose last record is not acknowledged"
        await pause_fetching(apps[0])
        for call in CALLS[1:]:
            await publish(bus, call)
        await until_outputs(bus, OUTPUTS_PER_CALL * len(CALLS))
    finally:
        await stop(task)
    assert len(apps) > 1, "the paused client delivers nothing more"
    assert metrics.registry.get_sample_value("callstream_stage_restarts_total", {"stage": "sums"}) == len(apps) - 1
    found = await outputs(bus)
    assert len(found) == len(set(found)), "nothing is doubled"
