"""Transcribe a finished call again, with another model or other settings, while the bus still holds its audio.

The call goes through the same stages, in this process, and nothing is published. With the settings of the first
transcription the same words come out, except for a call with partials: its text kept what viewers had been shown.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pipeline.bus.protocol import Bus, Record
from pipeline.errors import InputError
from pipeline.runtime.decoding import decode_audio
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.context import WiringContext
from pipeline.wiring.separate import separate_stage
from pipeline.wiring.transcribe import open_scheduler, open_speakers, transcribe_stage
from schemas import envelope, topics
from schemas.audio import CallStarted
from schemas.calls import CallRef
from schemas.segments import Segment
from schemas.topics import Lane
from schemas.transcripts import TranscriptCompleted, joined
from schemas.utterances import CallClosed, CallOpened
from stages.errors import RejectedInput
from stages.merge.stage import MergeStage
from stages.protocol import Event, Origin, Output
from stages.separate.decoding.pool import DecoderPool
from stages.separate.speech import load_voice_activity_model
from stages.separate.stage import SeparateStage
from stages.transcribe.stage import TranscribeStage

MAX_WAITING: Final = 64
"""Utterances that wait for the model: enough to keep it busy, and bounded for a call of any length."""


async def retranscribe(
    bus: Bus,
    call: CallRef,
    settings: Settings,
    *,
    language: str | None = None,
    on_progress: Callable[[float], None] = lambda _heard_s: None,
) -> TranscriptCompleted:
    """Return the call's transcript by the model that `settings` name. `language` overrides the call's own.

    `on_progress` is called with the position reached in the call, in seconds.

    Raises InputError if the bus does not hold the whole call or the call has not ended, ModelError, and BusError.
    """
    lane = await _lane_of(bus, call, settings)
    context = WiringContext(bus, settings, Metrics())
    vad = await asyncio.to_thread(load_voice_activity_model)
    async with open_scheduler(context) as scheduler, open_speakers(context) as speakers:
        transcribing = transcribe_stage(context, scheduler, speakers, lane)
        with contextlib.closing(DecoderPool()) as decoder:
            separating = separate_stage(vad, lane, decoder, late_s=settings.late_s)
            transcript = await _Retranscription(bus, call, lane, separating, transcribing, on_progress).run(language)
    if transcript is None:
        raise InputError(f"the call {call.call_id} has not ended: the bus holds no end of its audio")
    return transcript


async def _lane_of(bus: Bus, call: CallRef, settings: Settings) -> Lane:
    """Return the lane of the call's audio. Raises InputError if the bus does not hold the call's start."""
    lanes: tuple[Lane, ...] = ("live", "batch")
    for lane in lanes:
        since_s: float | None = None
        async with contextlib.aclosing(_events(bus, call, lane)) as events:
            async for event, stored in events:
                if isinstance(event, CallStarted):
                    return lane
                # A producer has several events in flight, so the start need not be stored first.
                since_s = stored.timestamp_s if since_s is None else since_s
                if stored.timestamp_s - since_s >= settings.late_s:
                    break
        if since_s is not None:
            why = await _why_gone(bus, call, settings)
            raise InputError(f"the bus no longer holds the start of the call {call.call_id}: {why}")
    raise InputError(f"the bus holds no audio of the call {call.call_id}: {await _why_gone(bus, call, settings)}")


async def _why_gone(bus: Bus, call: CallRef, settings: Settings) -> str:
    for topic, key in itertools.product((topics.AUDIO, topics.AUDIO_BATCH), {call.key, call.call_id.encode()}):
        freed_at = await bus.freed_at(topic, key)
        if freed_at is not None:
            day = datetime.fromtimestamp(freed_at, UTC)
            return f"it was freed for room on {day:%Y-%m-%d} (CALLSTREAM_STORE_GB limits the store)"
    return f"audio is kept for {settings.retention_days:g} days (CALLSTREAM_RETENTION_DAYS)"


async def _events(bus: Bus, call: CallRef, lane: Lane) -> AsyncGenerator[tuple[Any, Event], None]:
    """Yield the call's events as producers sent them, repeats included, in the order of the bus."""
    async for record in bus.stored(topics.in_lane(topics.AUDIO, lane), key=call.key):
        try:
            decoded = decode_audio(record)
        except RejectedInput:
            continue
        if decoded.call == call:
            yield decoded.content, decoded.event(record, decoded.seq or 0)


class _Retranscription:
    """One call through the stages. Utterances wait in a bounded queue for the model."""

    def __init__(
        self,
        bus: Bus,
        call: CallRef,
        lane: Lane,
        separating: SeparateStage,
        transcribing: TranscribeStage,
        on_progress: Callable[[float], None],
    ) -> None:
        self._bus = bus
        self._call = call
        self._lane = lane
        self._separator = separating.open(call, None)
        self._transcriber = transcribing.open(call, None)
        self._merger = MergeStage().open(call, None)
        self._on_progress = on_progress
        self._answers: asyncio.Queue[AsyncIterator[Output] | None] = asyncio.Queue(MAX_WAITING)
        self._parts: list[TranscriptCompleted] = []

    async def run(self, language: str | None) -> TranscriptCompleted | None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._separate(language))
                group.create_task(self._merge())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if not self._parts:
            return None
        newest = max(part.revision for part in self._parts)
        return joined([part for part in self._parts if part.revision == newest])

    async def _separate(self, language: str | None) -> None:
        opened = await self._opened_at()
        async for content, event in _events(self._bus, self._call, self._lane):
            try:
                async for output in self._separator.submit(content, event):
                    record = output.record
                    if output.topic != topics.UTTERANCES or output.seq is None:
                        continue
                    if isinstance(record, CallOpened):
                        record = msgspec.structs.replace(record, language=language or record.language)
                    at = msgspec.structs.replace(event, seq=output.seq, origin=opened or event.origin)
                    await self._answers.put(self._transcriber.submit(record, at))  # type: ignore[arg-type]
            except RejectedInput:
                continue  # rejected the first time as well
        await self._answers.put(None)

    async def _opened_at(self) -> Origin | None:
        """Return the position of the call's first utterance record, from which diarization reads the call again."""
        topic = topics.in_lane(topics.UTTERANCES, self._lane)
        async with contextlib.aclosing(self._bus.stored(topic, key=self._call.key)) as records:  # type: ignore[type-var]
            async for record in records:
                if _call_of(record) == self._call:
                    return Origin(record.topic, record.partition, record.position, record.key)
        return None

    async def _merge(self) -> None:
        while (answer := await self._answers.get()) is not None:
            async for output in answer:
                if output.topic != topics.SEGMENTS or output.seq is None:
                    continue
                await self._take(output)

    async def _take(self, output: Output) -> None:
        assert output.seq is not None
        record: Any = output.record
        if isinstance(record, Segment | CallClosed):
            self._on_progress(record.end_s if isinstance(record, Segment) else record.duration_s)
        origin = Origin(topics.SEGMENTS, 0, output.seq, self._call.key)
        event = Event(seq=output.seq, event_id=output.event_id, origin=origin, timestamp_s=0.0)
        async for merged in self._merger.submit(record, event):
            if isinstance(merged.record, TranscriptCompleted):
                self._parts.append(merged.record)


def _call_of(record: Record) -> CallRef | None:
    """Return the call of a record between stages, None for an outsider's that cannot be read."""
    try:
        return envelope.decode(record.value).call
    except msgspec.DecodeError:
        return None
