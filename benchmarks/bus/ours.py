"""Our loop: `StageRunner` with a stage that gives one numbered output, with progress, for each chunk."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from benchmarks.bus.load import Load
from benchmarks.bus.meter import Meter
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Subscription
from pipeline.bus.security import BusSecurity
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_audio
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import separate
from schemas.audio import AudioChunk
from schemas.calls import CallRef
from schemas.utterances import Utterance
from stages.protocol import Checkpoint, Event, Output, SkipsFailedInputs

_POLL_S = 0.2


async def relay(load: Load, meter: Meter) -> None:
    """Relay all records; returns when all are acknowledged."""
    bus = await open_bus(load.url, BusSecurity())
    subscription = Subscription(group=load.group, topics=(load.input,), progress_topic=load.output)
    metrics = Metrics()
    runner = StageRunner(
        bus,
        RelayStage(load, meter),
        subscription=subscription,
        decoder=decode_audio,
        publisher=Publisher(bus, stage=RelayStage.name, lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=separate.WIRING.budget_bytes,
    )
    running = asyncio.create_task(runner.run())
    await asyncio.wait({running, asyncio.ensure_future(meter.done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    while await bus.lag(subscription):  # noqa: ASYNC110  # a bus tells its lag only when asked
        await asyncio.sleep(_POLL_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await bus.close()


class RelayStage:
    """A stage that does as little as possible."""

    name = "relay"

    def __init__(self, load: Load, meter: Meter) -> None:
        self.topic = load.output
        self._meter = meter
        self._calls = load.calls

    def open(self, call: CallRef, state: bytes | None) -> "Relay":
        return Relay(call, self.topic, self._meter, self._calls[call], state)


class Relay(SkipsFailedInputs):
    idle_position = None
    waiting = None

    def __init__(self, call: CallRef, topic: str, meter: Meter, n_records: int, state: bytes | None) -> None:
        self._call = call
        self._topic = topic
        self._meter = meter
        self._n_records = n_records
        self._next_seq: int = msgspec.msgpack.decode(state, type=int) if state else 0

    async def submit(self, chunk: AudioChunk, event: Event) -> AsyncIterator[Output]:
        if event.seq < self._next_seq:
            return
        self._meter.tick()
        self._next_seq = event.seq + 1
        yield relayed(self._call, self._topic, chunk, event)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._next_seq), released=self._next_seq)

    @property
    def finished(self) -> bool:
        return self._next_seq == self._n_records


def relayed(call: CallRef, topic: str, chunk: AudioChunk, event: Event) -> Output:
    """Return the one output of a chunk: an utterance of the same samples and number."""
    said = Utterance(
        call=call,
        seq=event.seq,
        channel=0,
        first_sample=event.seq * len(chunk.data) // 2,
        sample_rate_hz=8000,
        pcm=chunk.data,
        voiced=[],
        cut="pause",
    )
    return Output(topic=topic, record=said, event_id=f"{call.call_id}/utterance/{event.seq}", seq=event.seq)
