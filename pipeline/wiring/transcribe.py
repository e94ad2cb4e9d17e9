"""The transcribe stage: utterances in, segments and partials out. One engine serves both lanes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog

from pipeline.bus.protocol import Bus
from pipeline.runtime.decoding import stage_records
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring, Topic
from schemas import envelope, topics
from schemas.calls import CallRef
from schemas.partials import Commitment
from schemas.topics import Lane
from schemas.utterances import InterimUtterance, SpeakerSource, UtteranceRecord
from stages.protocol import Origin

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext
    from stages.transcribe.scheduling.scheduler import BatchRun, Scheduler
    from stages.transcribe.speakers.diarization import Diarizer, Speakers
    from stages.transcribe.stage import TranscribeStage

T = TypeVar("T")

_METER_EVERY_S: Final = 1.0

GROUP: Final = ConsumerGroup(
    name="transcribe",
    reads=(topics.UTTERANCES,),
    decoder=stage_records(UtteranceRecord | InterimUtterance | Commitment),
    progress=topics.SEGMENTS,
    budget_bytes=6_000_000,  # utterances wait as floats at 16 kHz, four times the size of what arrived at 8 kHz
)


async def run(context: "WiringContext", ready: Ready) -> None:
    async with open_scheduler(context) as scheduler:
        ready()
        async with open_speakers(context) as speakers, asyncio.TaskGroup() as group:
            for lane in GROUP.lanes:
                stage = transcribe_stage(context, scheduler, speakers, lane)
                group.create_task(context.call_runner(stage, GROUP, lane).run())
            group.create_task(_meter(scheduler, context.metrics))


@contextlib.asynccontextmanager
async def open_scheduler(context: "WiringContext") -> AsyncIterator["Scheduler"]:
    """The loaded engine with its queues. Loading takes seconds. Raises ModelError and EngineError."""
    scheduler = await asyncio.to_thread(_load_scheduler, context)
    try:
        yield scheduler
    finally:
        await scheduler.close()


@contextlib.asynccontextmanager
async def open_speakers(context: "WiringContext") -> AsyncIterator["Speakers | None"]:
    """What tells the speakers of mono calls apart, with a thread of its own; None where that is switched off.

    Raises EngineError and ModelError.
    """
    if context.settings.diarization == "off":
        yield None
        return
    from stages.transcribe.speakers.diarization import Speakers

    diarizer = await asyncio.to_thread(_load_diarizer, context)
    structlog.get_logger("callstream.worker").info(
        "speakers of mono calls", source=diarizer.source if diarizer else "unknown"
    )
    executor = ThreadPoolExecutor(1, thread_name_prefix="diarize")
    try:
        yield Speakers(diarizer, partial(_stored_utterances, context.bus), executor=executor)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def transcribe_stage(
    context: "WiringContext", scheduler: "Scheduler", speakers: "Speakers | None", lane: Lane
) -> "TranscribeStage":
    """Return the stage of a lane, as the settings say."""
    from stages.transcribe.stage import TranscribeStage

    settings, metrics = context.settings, context.metrics
    return TranscribeStage(
        scheduler,
        live=lane == "live",
        partials=settings.engine != "whisperx",
        language=settings.language,
        default_language=settings.default_language,
        hotwords=settings.tenant_hotwords,
        dropped=lambda reason: metrics.interims_dropped.labels(reason).inc(),
        speakers=speakers,
    )


def _load_scheduler(context: "WiringContext") -> "Scheduler":
    from pipeline.wiring.engines import asr_devices, load_engine
    from stages.transcribe.scheduling.scheduler import FILL_BACKFILL_S, FILL_S, Scheduler

    settings, metrics = context.settings, context.metrics

    def observe(batch: "BatchRun") -> None:
        metrics.asr_batch_seconds.labels(batch.queue).observe(batch.engine_s)
        for waited_s in batch.waited_s:
            metrics.asr_wait_seconds.labels(batch.queue).observe(waited_s)

    return Scheduler(
        load_engine(settings, metrics),
        workers=settings.asr_workers * len(asr_devices(settings)),
        fill_s=FILL_S,
        fill_backfill_s=FILL_BACKFILL_S,
        ran=observe,
    )


def _load_diarizer(context: "WiringContext") -> "Diarizer | None":
    """Return what the settings name; None if nothing is installed. Packaged embeddings load when they are used."""
    from pipeline.wiring.engines import asr_devices
    from pipeline.wiring.weights import voice_weights
    from stages.transcribe.speakers.diarization import PyannoteDiarizer, VoiceDiarizer
    from stages.transcribe.speakers.voices import DeferredEncoder, VoiceEncoder

    settings, metrics = context.settings, context.metrics
    if settings.diarization != "auto":
        device = "auto" if settings.device == "auto" else str(asr_devices(settings)[0])
        return _metered(lambda: PyannoteDiarizer(settings.diarization, device=device), "pyannote", metrics)
    weights = voice_weights()
    if weights is None:
        return None
    return VoiceDiarizer(DeferredEncoder(lambda: _metered(lambda: VoiceEncoder(weights), "estimated", metrics)))


def _metered(load: Callable[[], T], source: SpeakerSource, metrics: Metrics) -> T:
    """Return what `load` returns, with its time in the metrics of models."""
    began_s = time.monotonic()
    loaded = load()
    metrics.model_loads.labels(source).inc()
    metrics.model_load_seconds.labels(source).set(time.monotonic() - began_s)
    return loaded


async def _stored_utterances(bus: Bus, call: CallRef, start: Origin) -> AsyncIterator[UtteranceRecord]:
    """See `stages.transcribe.speakers.diarization.StoredUtterances`."""
    async for record in bus.stored(start.topic, key=start.key, start=(start.partition, start.position)):
        try:
            decoded = envelope.decode(record.value)
        except msgspec.DecodeError:  # rejected when the stage read it
            continue
        if isinstance(decoded, UtteranceRecord) and decoded.call == call:
            yield decoded


async def _meter(scheduler: "Scheduler", metrics: Metrics) -> None:
    while True:
        stats = scheduler.stats()
        for queue, rows in stats.queued.items():
            metrics.asr_queue.labels(queue).set(rows)
            metrics.asr_oldest_seconds.labels(queue).set(stats.oldest_wait_s[queue])
        metrics.asr_running.set(stats.running)
        metrics.asr_busy_seconds.set(stats.busy_s)
        for queue, longest_s in stats.longest_batch_s.items():
            metrics.asr_longest_batch_seconds.labels(queue).set(longest_s)
        await asyncio.sleep(_METER_EVERY_S)


def _shows(settings: Settings) -> dict[str, str]:
    return {"model": f"{settings.model} (loading)"}


WIRING: Final = StageWiring(
    name="transcribe",
    groups=(GROUP,),
    writes=(
        Topic(name=topics.SEGMENTS, frees=True),
        Topic(name=topics.PARTIALS, keep_s=3_600.0, outside_readers=("consumers",)),
    ),
    in_order=True,
    run=run,
    shows=_shows,
)
