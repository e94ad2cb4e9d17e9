"""Watched calls, through the runner: every worker that takes over a call knows that it is watched."""

import asyncio

import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_audio
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import separate, topology
from schemas import envelope, topics
from schemas.audio import AudioChunk, CallWatched
from schemas.cloudevents import encode_audio_event, encode_watch
from schemas.utterances import InterimUtterance, Utterance
from stages.separate.stage import SeparateStage
from tests.unit.stages.separate.scripted import CALL, LoudnessModel, bursts, call_events

EVENTS = call_events(bursts((1, 4), (6, 9), (11, 14), (16, 19), length_s=21), chunk_s=0.2)
LIVE = separate.WIRING.subscription()


async def work(bus: MemoryBus) -> "asyncio.Task[None]":
    metrics = Metrics()
    runner = StageRunner(
        bus,
        SeparateStage(LoudnessModel()),
        subscription=LIVE,
        decoder=decode_audio,
        publisher=Publisher(bus, stage="separate", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=1_000_000,
    )
    return asyncio.create_task(runner.run())


async def kill(worker: "asyncio.Task[None]") -> None:
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def heard(bus: MemoryBus) -> tuple[set[float], list[float]]:
    """Return the starts of the utterances with interims, and of all utterances."""
    records = [envelope.decode(record.value) async for record in bus.stored(topics.UTTERANCES)]
    interims = {record.start_s for record in records if isinstance(record, InterimUtterance)}
    return interims, [record.start_s for record in records if isinstance(record, Utterance)]


@pytest.mark.parametrize("killed_at", range(42, 100, 5))
async def test_a_viewer_from_before_a_crash_still_gets_interims_after_it(killed_at: int) -> None:
    bus = MemoryBus(partitions=1)
    await bus.ensure_topics(topology.topic_specs(partitions=1, retention_days=1, store_bytes=10**9))
    worker = await work(bus)
    for seq, event in enumerate(EVENTS):
        headers, value = encode_audio_event(event, call=CALL, seq=seq, source="test")
        await bus.publish(Outgoing(topics.AUDIO, key=CALL.key, value=value, event_id=headers["ce_id"], headers=headers))
        if seq == 40:
            headers, value = encode_watch(CallWatched(seconds=600), call=CALL, event_id="viewer", source="test")
            await bus.publish(Outgoing(topics.AUDIO, key=CALL.key, value=value, event_id="viewer", headers=headers))
        if isinstance(event, AudioChunk):
            await asyncio.sleep(0.002)
        if seq == killed_at:
            await kill(worker)
            worker = await work(bus)
    async with asyncio.timeout(10):
        while await bus.lag(LIVE):  # noqa: ASYNC110  # a bus tells it only when asked
            await asyncio.sleep(0.005)
    await kill(worker)
    interims, utterances = await heard(bus)
    assert len(utterances) == 4
    assert interims == set(utterances[1:])
