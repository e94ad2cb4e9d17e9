"""Live text through the runner and the reference bus, with an engine that changes its mind and workers that die."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import stage_records
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology, transcribe
from schemas import envelope, topics
from schemas.partials import PARTIAL_TYPE, Commitment, Partial
from schemas.segments import Segment
from schemas.utterances import CallProgress, InterimUtterance, UtteranceRecord
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.live_call import (
    WaveringEngine,
    assert_nothing_flipped,
    interim,
    opened,
    utterance,
    whole_call,
)
from tests.unit.stages.transcribe.records import CALL, closed


class Call:
    """The transcribe stage on the reference bus, in a worker that may be killed and restarted."""

    def __init__(self, bus: MemoryBus, engine: FakeEngine) -> None:
        self.bus = bus
        self.engine = engine
        self.dropped: list[str] = []
        self._count = 0
        self._scheduler: Scheduler | None = None
        self._running: asyncio.Task[None] | None = None
        self.runner: StageRunner | None = None

    async def start(self) -> None:
        self._scheduler = Scheduler(self.engine, workers=2)
        metrics = Metrics()
        self.runner = StageRunner(
            self.bus,
            TranscribeStage(self._scheduler, dropped=self.dropped.append),
            subscription=transcribe.WIRING.subscription(),
            decoder=stage_records(UtteranceRecord | InterimUtterance | Commitment),
            publisher=Publisher(self.bus, stage="transcribe", lane="live", metrics=metrics),
            metrics=metrics,
            budget_bytes=6_000_000,
        )
        self._running = asyncio.create_task(self.runner.run())

    async def kill(self) -> None:
        assert self._running is not None
        assert self._scheduler is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self.engine.gate.set()
        await self._scheduler.close()

    async def publish(self, record: envelope.StageRecord) -> None:
        self._count += 1
        await self.bus.publish(
            Outgoing(
                topics.UTTERANCES,
                key=CALL.key,
                value=envelope.encode(record),
                event_id=f"in/{self._count}",
                headers={"ce_id": f"in/{self._count}"},
            )
        )

    async def partials(self) -> list[Partial]:
        values = [record.value async for record in self.bus.stored(topics.PARTIALS)]
        return [msgspec.json.decode(value, type=Partial) for value in values]

    async def commitments(self) -> list[Commitment]:
        records = [envelope.decode(record.value) async for record in self.bus.stored(topics.UTTERANCES)]
        return [record for record in records if isinstance(record, Commitment)]

    async def segments(self) -> list[Segment]:
        records = [envelope.decode(record.value) async for record in self.bus.stored(topics.SEGMENTS)]
        return [record for record in records if isinstance(record, Segment)]

    async def until_partials(self, count: int) -> list[Partial]:
        async with asyncio.timeout(10):
            while len(found := await self.partials()) < count:  # noqa: ASYNC110  # a bus tells it only when asked
                await asyncio.sleep(0.002)
        return found

    async def until_segments(self, count: int) -> list[Segment]:
        async with asyncio.timeout(10):
            while len(found := await self.segments()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return found

    async def until_done(self) -> None:
        assert self.runner is not None
        async with asyncio.timeout(10):
            while await self.bus.lag(self.runner.subscription):  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@asynccontextmanager
async def call(engine: FakeEngine) -> AsyncIterator[Call]:
    bus = MemoryBus(partitions=2)
    await bus.ensure_topics(topology.topic_specs(partitions=2, retention_days=1, store_bytes=10**9))
    made = Call(bus, engine)
    await made.start()
    try:
        yield made
    finally:
        await made.kill()


async def test_a_partial_is_published_as_a_cloudevent_of_its_call() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(interim(0, 1.0, 1))
        await live.until_partials(1)
        [record] = [record async for record in live.bus.stored(topics.PARTIALS)]
    assert record.key == CALL.key
    assert record.headers["ce_type"] == PARTIAL_TYPE
    assert (record.headers["ce_subject"], record.headers["content-type"]) == ("call-1", "application/json")
    assert "ce_callseq" not in record.headers


@pytest.mark.parametrize("seed", range(25))
async def test_committed_text_never_changes_wherever_workers_die(seed: int) -> None:
    chance = random.Random(seed)
    engine = WaveringEngine()
    async with call(engine) as live:
        for record in whole_call(partials=seed % 2 == 0):
            await live.publish(record)
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
            if chance.random() < 0.15:
                await live.kill()
                await live.start()
        await live.until_done()
        partials, segments, commitments = await live.partials(), await live.segments(), await live.commitments()
    assert [segment.seq for segment in segments] == sorted({segment.seq for segment in segments})
    assert len(segments) == 6
    assert commitments
    assert_nothing_flipped(partials, segments)


async def test_a_watched_utterance_gets_its_last_partial_after_a_restart_too() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        for seq in (1, 2, 3):  # their checkpoints release the interims
            await live.publish(CallProgress(call=CALL, seq=seq, heard_to_s=[1.0, 1.0]))
        async with asyncio.timeout(10):
            while len([record async for record in live.bus.stored(topics.SEGMENTS)]) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await live.kill()
        await live.start()
        await live.publish(utterance(4, 0, 1.0, 3.5))
        [segment] = await live.until_segments(1)
        partials = await live.partials()
    assert partials[-1].final
    assert_nothing_flipped(partials, [segment])


async def test_a_finished_call_is_acknowledged_to_its_end_despite_late_interims() -> None:
    async with call(WaveringEngine()) as live:
        for record in (opened(), utterance(1, 0, 1.0, 2.0), closed(2), interim(0, 1.0, 1)):
            await live.publish(record)
        await live.until_done()
