"""Dead letters put back on every bus: records rejoin their call in the partition that their producer chose."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

import pytest

from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.protocol import Bus, Outgoing, TopicSpec
from pipeline.client.dead_letters import DeadLetters, Letter, Selection
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_audio
from pipeline.runtime.idle_calls import IdleWatch
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import separate, topology
from schemas import cloudevents, envelope, topics
from schemas.audio import AudioEvent
from schemas.calls import CallRef
from schemas.utterances import CallClosed, Utterance
from stages.separate.stage import SeparateStage
from tests.contract.brokers import Broker
from tests.unit.stages.separate.scripted import LoudnessModel, bursts, call_events

PARTITIONS = 4
CALL = CallRef("acme", "call-11")
KEY = CALL.call_id.encode()
PLACE = partition_of(base64.urlsafe_b64encode(KEY), PARTITIONS)
"""The partition that a producer chooses who spells the key with padding: not the one that we would."""


@pytest.fixture
async def bus(broker: Broker) -> Bus:
    bus = await broker.bus()
    specs = topology.topic_specs(partitions=PARTITIONS, retention_days=1, store_bytes=100_000_000)
    await bus.ensure_topics([TopicSpec(name=spec.name, partitions=PARTITIONS, retention_s=3600) for spec in specs])
    return bus


@contextlib.asynccontextmanager
async def separating(bus: Bus) -> AsyncIterator[None]:
    metrics = Metrics()
    runner = StageRunner(
        bus,
        SeparateStage(LoudnessModel()),
        subscription=separate.WIRING.subscription(),
        decoder=decode_audio,
        publisher=Publisher(bus, stage="separate", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=8_000_000,
    )
    watch = IdleWatch(bus, runner, idle_s=60.0, late_s=1.0)
    tasks = [asyncio.create_task(work) for work in (runner.run(), watch.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(bus: Bus, events: list[tuple[int, AudioEvent]]) -> None:
    for seq, event in events:
        headers, value = cloudevents.encode_audio_event(event, call=CALL, seq=seq, source="/pbx")
        event_id = headers["ce_id"]
        await bus.publish(
            Outgoing(topics.AUDIO, key=KEY, value=value, event_id=event_id, headers=headers), partition=PLACE
        )


async def until_open(bus: Bus, count: int) -> tuple[DeadLetters, list[Letter]]:
    for _ in range(200):
        letters = await DeadLetters.read(bus)
        found = letters.select(Selection(call=CALL.call_id, tenant=CALL.tenant))
        if len(found) == count:
            return letters, found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(found)} letters are open, not {count}")


async def utterances(bus: Bus, count: int) -> list[envelope.StageRecord]:
    """Return the call's records once there are that many."""
    for _ in range(200):
        found = [envelope.decode(record.value) async for record in bus.stored(topics.UTTERANCES, key=CALL.key)]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{len(found)} records, not {count}")


async def test_a_replayed_call_comes_out_as_one_that_was_never_rejected(bus: Bus) -> None:
    events = list(enumerate(call_events(bursts((1, 2), (2.4, 3.6), (5, 6), length_s=8), chunk_s=0.5)))
    assert PLACE not in {partition_of(key_token(key).encode(), PARTITIONS) for key in (KEY, CALL.key)}
    async with separating(bus):
        await publish(bus, events[1:])
        letters, found = await until_open(bus, len(events) - 1)
        assert {letter.letter.partition for letter in found} == {PLACE}
        await publish(bus, events[:1])
        for letter in found:
            await letters.replay(letter)
        records = await utterances(bus, 6)
        while not isinstance(records[-1], CallClosed):
            records = await utterances(bus, len(records) + 1)
        # A second replay changes nothing, because the stage has taken all of it.
        letters, _ = await until_open(bus, 0)
        for letter in letters.select(Selection(), resolved=True):
            await letters.replay(letter)
        await publish(bus, [(len(events), events[1][1])])
        [late] = (await until_open(bus, 1))[1]
        assert "after the call's end" in late.letter.message
    closed = records[-1]
    assert isinstance(closed, CallClosed)
    assert (closed.gaps, closed.duration_s, closed.reason) == ([], 8.0, "hangup")
    assert closed.utterances == sum(isinstance(record, Utterance) for record in records) > 0
    numbers = [record.seq for record in await utterances(bus, 1) if isinstance(record, envelope.NumberedRecord)]
    assert numbers == list(range(len(records)))
