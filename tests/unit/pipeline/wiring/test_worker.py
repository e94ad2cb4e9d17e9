"""A transcribe worker with an engine that needs no model: what its operators see."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import engines, transcribe
from pipeline.wiring.context import WiringContext
from pipeline.wiring.worker import Worker
from schemas import envelope
from schemas.calls import CallRef
from schemas.topics import UTTERANCES, UTTERANCES_BATCH
from schemas.utterances import CallOpened, Channel, Utterance
from tests.unit.stages.transcribe.engines import FakeEngine, until

BATCH = 4


def records(call: CallRef, n_utterances: int) -> list[CallOpened | Utterance]:
    """The start of a call whose language is known, and utterances that the engine says something of."""
    opened = CallOpened(
        call=call,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=16_000,
        encoding="pcm_s16le",
        language="en",
        partials=False,
        metadata={},
        opened_at=1.0,
    )
    utterances = [
        Utterance(
            call=call,
            seq=seq,
            channel=0,
            first_sample=seq * 32_000,
            sample_rate_hz=16_000,
            pcm=np.full(16_000, 100, "<i2").tobytes(),
            voiced=[(seq * 2.0, seq * 2.0 + 1.0)],
            cut="pause",
        )
        for seq in range(1, n_utterances + 1)
    ]
    return [opened, *utterances]


async def bus_with_calls() -> MemoryBus:
    """A live call and one of backfill, of eight utterances each."""
    bus = MemoryBus()
    for topic, name in ((UTTERANCES, "live"), (UTTERANCES_BATCH, "backfill")):
        call = CallRef("default", name)
        for record in records(call, 8):
            event_id = f"{name}/{record.seq}"
            await bus.publish(Outgoing(topic, key=call.key, value=envelope.encode(record), event_id=event_id))
    return bus


async def test_what_batches_take_and_how_long_each_lane_waits_is_in_the_metrics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = FakeEngine()
    engine.max_batch = BATCH
    monkeypatch.setattr(engines, "load_engine", lambda *_: engine)
    bus, metrics = await bus_with_calls(), Metrics()
    settings = Settings(data=tmp_path, diarization="off", asr_workers=2)
    worker = Worker(WiringContext(bus, settings, metrics), [transcribe.WIRING])

    def value(name: str, queue: str) -> float:
        return metrics.registry.get_sample_value(f"callstream_{name}", {"queue": queue}) or 0.0

    def shown() -> bool:
        counted = sum(value("asr_wait_seconds_count", queue) for queue in ("live", "batch"))
        return counted == 16 and all(value("asr_longest_batch_seconds", queue) for queue in ("live", "batch"))

    worker.start()
    try:
        async with asyncio.timeout(20):
            while not shown():  # noqa: ASYNC110 - metrics set no asyncio event
                await asyncio.sleep(0.01)
    finally:
        await worker.stop()
    for queue, size in (("live", BATCH), ("batch", BATCH // 2)):
        batches = value("asr_batch_seconds_count", queue)
        assert value("asr_wait_seconds_count", queue) / size <= batches
        assert value("asr_batch_seconds_sum", queue) >= value("asr_longest_batch_seconds", queue)
    assert max(len(batch) for batch in engine.batches) == BATCH


async def test_each_device_has_its_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    monkeypatch.setattr(engines, "load_engine", lambda *_: engine)
    settings = Settings(data=tmp_path, diarization="off", asr_workers=2, device="cuda:0,cuda:1")
    worker = Worker(WiringContext(await bus_with_calls(), settings, Metrics()), [transcribe.WIRING])
    worker.start()
    try:
        await until(lambda: engine.running == 4)
    finally:
        engine.gate.set()
        await worker.stop()
    assert engine.most_running == 4
