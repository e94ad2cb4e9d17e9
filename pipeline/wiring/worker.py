"""Stages on a bus in this process: one of them (`callstream worker STAGE`) or all (`pipeline.wiring.embedded`)."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pipeline.bus.protocol import Bus, Subscription
from pipeline.errors import ModelError
from pipeline.runtime.batch_runner import BatchRunner
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import DECODERS
from pipeline.runtime.idle_calls import IdleWatch
from pipeline.runtime.publisher import Publisher
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology
from schemas import envelope
from schemas.calls import CallRef
from schemas.summaries import SummaryDeferred
from schemas.topics import TRANSCRIPTS, Lane
from schemas.transcripts import COMPLETED_TYPE, TranscriptCompleted
from schemas.utterances import UtteranceRecord
from stages.errors import StageError
from stages.protocol import Origin

if TYPE_CHECKING:
    from stages.separate.speech import VoiceActivityModel
    from stages.separate.stage import SeparateStage
    from stages.sink.tables import Tables
    from stages.transcribe.engine.whisper import SpeechEngine
    from stages.transcribe.scheduling.scheduler import BatchRun, Scheduler
    from stages.transcribe.speakers.diarization import Speakers
    from stages.transcribe.stage import TranscribeStage

BUDGET_BYTES = {"separate": 8_000_000, "transcribe": 6_000_000, "merge": 4_000_000, "summarize": 8_000_000}
"""What each stage may hold of records that it has taken and not finished. The transcriber's utterances wait as floats
at 16 kHz, four times the size of what arrived at 8 kHz."""
SINK_BUDGET_BYTES = 8_000_000
INDEX_BUDGET_BYTES = 8_000_000
INDEX_RECORDS = 50
"""Each takes its embeddings: a batch should not take long."""
PREFETCH_BYTES = 8_000_000
"""What a lane of a stage may hold of records that the bus has brought and the stage has not taken, on all partitions
together: a stage that was away finds every partition full."""
LEAST_PREFETCH_BYTES = 128_000
"""Of one partition, however many there are: fewer records at a time cost a request each."""
_SHOW_EVERY_S = 1.0
DATABASE_FILE = "callstream.duckdb"


class Worker:
    """Runs `stages` until stopped. `tables` is given by who owns the data directory, for the sink."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        *,
        stages: tuple[str, ...],
        metrics: Metrics,
        tables: "Tables | None" = None,
        writer: ThreadPoolExecutor | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._bus = bus
        self._settings = settings
        self._stages = stages
        self._metrics = metrics
        self._tables = tables
        self._writer = writer
        self._scheduler: Scheduler | None = None
        self._diarizing: ThreadPoolExecutor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None
        self._log = structlog.get_logger("callstream.worker")

    async def start(self) -> None:
        """Start reading. Returns at once: `ready` is set when the models are loaded, `wait` raises what failed."""
        self._failed = asyncio.get_running_loop().create_future()
        starts = {
            "separate": self._separate,
            "transcribe": self._transcribe,
            "merge": self._merge,
            "summarize": self._summarize,
            "sink": self._sink,
            topology.INDEX: self._index,
        }
        started = [asyncio.Event() for _ in self._stages]
        for stage, event in zip(self._stages, started, strict=True):
            self._spawn(starts[stage](event))
        self._spawn(self._announce(started))

    async def wait(self) -> None:
        """Until something fails that no restart of a stage can mend, such as a missing model: raises it."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def stop(self) -> None:
        """Stop reading. What is not acknowledged is delivered again to the next worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._scheduler is not None:
            await self._scheduler.close()
        if self._diarizing is not None:
            self._diarizing.shutdown(cancel_futures=True)
        if self._failed is not None:
            self._failed.cancel()

    # -- the stages --------------------------------------------------------------------------------------------------

    async def _separate(self, started: asyncio.Event) -> None:
        from stages.separate.speech import load_voice_activity_model

        vad = await asyncio.to_thread(load_voice_activity_model)
        started.set()
        async with asyncio.TaskGroup() as group:
            for lane in topology.lanes_of("separate"):
                runner = self._runner(self.separate_stage(vad, lane), lane)
                watch = IdleWatch(self._bus, runner, idle_s=self._settings.idle_s)
                group.create_task(runner.run())
                group.create_task(watch.run())

    async def _transcribe(self, started: asyncio.Event) -> None:
        scheduler = await asyncio.to_thread(self.load_scheduler)
        self._scheduler = scheduler
        started.set()
        speakers = await asyncio.to_thread(self.load_speakers)
        async with asyncio.TaskGroup() as group:
            for lane in topology.lanes_of("transcribe"):
                group.create_task(self._runner(self.transcribe_stage(scheduler, speakers, lane), lane).run())
            group.create_task(self._show_scheduler(scheduler))

    async def _show_scheduler(self, scheduler: "Scheduler") -> None:
        while True:
            stats = scheduler.stats()
            for queue, rows in stats.queued.items():
                self._metrics.asr_queue.labels(queue).set(rows)
                self._metrics.asr_oldest_seconds.labels(queue).set(stats.oldest_wait_s[queue])
            self._metrics.asr_running.set(stats.running)
            self._metrics.asr_busy_seconds.set(stats.busy_s)
            for queue, longest_s in stats.longest_batch_s.items():
                self._metrics.asr_longest_batch_seconds.labels(queue).set(longest_s)
            await asyncio.sleep(_SHOW_EVERY_S)

    def _show_batch(self, run: "BatchRun") -> None:
        self._metrics.asr_batch_seconds.labels(run.queue).observe(run.engine_s)
        for waited_s in run.waited_s:
            self._metrics.asr_wait_seconds.labels(run.queue).observe(waited_s)

    async def _merge(self, started: asyncio.Event) -> None:
        from stages.merge.stage import MergeStage

        started.set()
        await self._runner(MergeStage(), "live").run()

    async def _summarize(self, started: asyncio.Event) -> None:
        from pipeline.wiring.llm import open_writer
        from stages.summarize.deferred import SummarizeAgainStage
        from stages.summarize.stage import SummarizeStage

        async with open_writer(self._settings, self._metrics) as writer:
            started.set()
            stage = SummarizeStage(writer, rolling_turns=self._settings.summary_rolling)
            again = SummarizeAgainStage(writer, self._stored_transcripts)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._runner(stage, "live").run())
                group.create_task(self._runner(again, "live", reader=topology.SUMMARIZE_AGAIN).run())

    async def _sink(self, started: asyncio.Event) -> None:
        from stages.sink.stage import SinkStage

        assert self._tables is not None
        assert self._writer is not None
        runner = BatchRunner(
            self._bus,
            SinkStage(self._tables),
            subscription=self._subscription("sink", "live"),
            publisher=self._publisher("sink", "live"),
            metrics=self._metrics,
            budget_bytes=SINK_BUDGET_BYTES,
            writer=self._writer,
        )
        started.set()
        await runner.run()

    async def _index(self, started: asyncio.Event) -> None:
        """Beside other stages `ready` does not wait for it, and it waits for their models: calls are worked on
        without it. Alone it is ready when it can be asked.
        """
        if self._stages == (topology.INDEX,):
            await self._run_index(started)
            return
        started.set()
        await self.ready.wait()
        try:
            await self._run_index(started)
        except (StageError, ModelError) as error:
            self._log.error("calls are not searchable", error=str(error))

    async def _run_index(self, started: asyncio.Event) -> None:
        from pipeline.client.search import serving_index
        from stages.index.stage import IndexStage

        with ThreadPoolExecutor(1, thread_name_prefix="index") as writer:
            async with serving_index(self._settings, writer) as (index, embedder):
                started.set()
                runner = BatchRunner(
                    self._bus,
                    IndexStage(index, embedder),
                    subscription=self._subscription(topology.INDEX, "live"),
                    publisher=self._publisher(topology.INDEX, "live"),
                    metrics=self._metrics,
                    budget_bytes=INDEX_BUDGET_BYTES,
                    writer=writer,
                    max_records=INDEX_RECORDS,
                )
                await runner.run()

    # -- their parts -------------------------------------------------------------------------------------------------

    def _runner(self, stage: Any, lane: Lane, *, reader: str | None = None) -> StageRunner:
        """`reader`: the group that reads, where the stage has more than one."""
        return StageRunner(
            self._bus,
            stage,
            subscription=self._subscription(reader or stage.name, lane),
            decoder=DECODERS[reader or stage.name],
            publisher=self._publisher(stage.name, lane),
            metrics=self._metrics,
            budget_bytes=BUDGET_BYTES[stage.name],
        )

    def _subscription(self, stage: str, lane: Lane) -> Subscription:
        read = topology.subscription(stage, lane)
        share = PREFETCH_BYTES // (len(read.topics) * self._settings.partitions)
        return msgspec.structs.replace(read, prefetch_bytes=max(LEAST_PREFETCH_BYTES, share))

    def _publisher(self, stage: str, lane: Lane) -> Publisher:
        return Publisher(self._bus, stage=stage, lane=lane, metrics=self._metrics)

    @staticmethod
    def separate_stage(vad: "VoiceActivityModel", lane: Lane) -> "SeparateStage":
        """The stage of a lane: recordings are heard in packs."""
        from stages.separate.endpointing import RECORDED, EndpointingSettings
        from stages.separate.stage import SeparateStage

        return SeparateStage(vad, EndpointingSettings() if lane == "live" else RECORDED, lane=lane)

    def transcribe_stage(self, scheduler: "Scheduler", speakers: "Speakers | None", lane: Lane) -> "TranscribeStage":
        """The stage of a lane, as the settings say."""
        from stages.transcribe.stage import TranscribeStage

        return TranscribeStage(
            scheduler,
            live=lane == "live",
            language=self._settings.language,
            default_language=self._settings.default_language,
            hotwords=self._settings.tenant_hotwords,
            dropped=lambda reason: self._metrics.interims_dropped.labels(reason).inc(),
            speakers=speakers,
        )

    def load_scheduler(self) -> "Scheduler":
        from pipeline.wiring.engines import asr_devices
        from stages.transcribe.scheduling.scheduler import FILL_BACKFILL_S, FILL_S, Scheduler

        return Scheduler(
            self.load_engine(),
            workers=self._settings.asr_workers * len(asr_devices(self._settings)),
            fill_s=FILL_S,
            fill_backfill_s=FILL_BACKFILL_S,
            ran=self._show_batch,
        )

    def load_engine(self) -> "SpeechEngine":
        """What the transcriber hears with. Takes seconds: called from a thread."""
        from pipeline.wiring.engines import load_engine

        return load_engine(self._settings, self._metrics)

    def load_speakers(self) -> "Speakers | None":
        """What tells the speakers of mono calls apart, in a thread of its own. Raises EngineError and ModelError."""
        setting = self._settings.diarization
        if setting == "off":
            return None
        from pipeline.wiring.engines import asr_devices
        from pipeline.wiring.weights import voice_weights
        from stages.transcribe.speakers.diarization import Diarizer, PyannoteDiarizer, Speakers, VoiceDiarizer
        from stages.transcribe.speakers.voices import VoiceEncoder

        began_s = time.monotonic()
        diarizer: Diarizer | None = None
        if setting != "auto":
            device = "auto" if self._settings.device == "auto" else str(asr_devices(self._settings)[0])
            diarizer = PyannoteDiarizer(setting, device=device)
        elif (weights := voice_weights()) is not None:
            diarizer = VoiceDiarizer(VoiceEncoder(weights))
        if diarizer is not None:
            self._metrics.model_loads.labels(diarizer.source).inc()
            self._metrics.model_load_seconds.labels(diarizer.source).set(time.monotonic() - began_s)
        self._log.info("speakers of mono calls", source=diarizer.source if diarizer else "unknown")
        self._diarizing = ThreadPoolExecutor(1, thread_name_prefix="diarize")
        return Speakers(diarizer, self._stored_utterances, executor=self._diarizing)

    async def _stored_utterances(self, call: CallRef, start: Origin) -> AsyncIterator[UtteranceRecord]:
        """See `stages.transcribe.speakers.diarization.StoredUtterances`. What cannot be decoded was rejected before."""
        place = (start.partition, start.position)
        async for record in self._bus.stored(start.topic, key=start.key, start=place):
            try:
                decoded = envelope.decode(record.value)
            except msgspec.MsgspecError:
                continue
            if isinstance(decoded, UtteranceRecord) and decoded.call == call:
                yield decoded

    async def _stored_transcripts(self, deferred: SummaryDeferred) -> AsyncIterator[TranscriptCompleted]:
        """See `stages.summarize.deferred.StoredTranscripts`."""
        place = (deferred.partition, deferred.position)
        async for record in self._bus.stored(TRANSCRIPTS, key=deferred.call.key, start=place):
            if record.headers.get("ce_type") == COMPLETED_TYPE:
                yield msgspec.json.decode(record.value, type=TranscriptCompleted)

    async def _announce(self, started: list[asyncio.Event]) -> None:
        await asyncio.gather(*(event.wait() for event in started))
        self.ready.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)
