"""Our separate and transcribe stages alone: audio in, segments out, in this process, without a bus."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.engines import load_engine
from pipeline.wiring.weights import models_dir, resolve_model
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.segments import Segment, SegmentRecord
from schemas.utterances import CallOpened, Channel, Utterance, UtteranceRecord
from stages.merge.stage import MergeStage
from stages.protocol import Event, Origin, Output
from stages.separate.endpointing import RECORDED, EndpointingSettings
from stages.separate.files import open_audio_file
from stages.separate.speech import load_voice_activity_model
from stages.separate.stage import SeparateStage
from stages.transcribe.engine.protocol import SpeechEngine
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage

_ORIGIN: Final = Origin("", 0, 0, b"")


class OfflineStages:
    """Both stages with loaded models and the settings of a deployment. Use as an async context manager.

    `padded`: decode each utterance in Whisper's full window of 30 s, as the plain model does. `live`: cut and
    transcribe as for a live call that nobody watches, each utterance alone.
    """

    def __init__(self, settings: Settings, *, padded: bool = False, live: bool = False) -> None:
        self._settings = settings
        self._padded = padded
        self._live = live

    async def __aenter__(self) -> "OfflineStages":
        settings = self._settings
        engine = await asyncio.to_thread(self._load_padded if self._padded else self._load)
        self._scheduler = Scheduler(engine, workers=settings.asr_workers)
        endpointing = EndpointingSettings() if self._live else RECORDED
        self._separate = SeparateStage(await asyncio.to_thread(load_voice_activity_model), endpointing)
        self._transcribe = TranscribeStage(
            self._scheduler,
            live=self._live,
            language=settings.language,
            default_language=settings.default_language,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._scheduler.close()

    def _load(self) -> SpeechEngine:
        return load_engine(self._settings, Metrics())

    def _load_padded(self) -> SpeechEngine:
        settings = self._settings
        return Engine(
            resolve_model(settings.model, models_dir(settings.data)).path,
            name="a name without measured short windows",
            compute_type=settings.compute_type,
            workers=settings.asr_workers,
            beam_size=settings.beam_size,
        )

    async def transcribe_call(
        self, name: str, rate_hz: int, blocks: Iterable[bytes], *, channels: int = 2
    ) -> list[Segment]:
        """Return all segments of a call, empty ones included. `blocks`: interleaved 16-bit PCM, at most 1 s each."""
        records = await self.records_of_call(name, rate_hz, blocks, channels=channels)
        return [record for record in records if isinstance(record, Segment)]

    async def records_of_call(
        self, name: str, rate_hz: int, blocks: Iterable[bytes], *, channels: int = 2
    ) -> list[SegmentRecord]:
        """Return all records of a call as the merge stage reads them."""
        call = CallRef(DEFAULT_TENANT, name)
        transcriber = self._transcribe.open(call, None)
        answers = [
            transcriber.submit(_utterance_record(cut), _event(cut.seq))
            async for cut in self._cut(call, rate_hz, blocks, channels)
            if cut.seq is not None
        ]
        records = [output.record for answer in answers async for output in answer]
        return [record for record in records if isinstance(record, SegmentRecord)]

    async def utterances(self, path: Path) -> list[Utterance]:
        """Return the utterances of a file, as the transcribe stage gets them."""
        audio = open_audio_file(path)
        with contextlib.closing(audio):
            call = CallRef(DEFAULT_TENANT, path.stem)
            cuts = [cut.record async for cut in self._cut(call, audio.sample_rate_hz, audio, audio.channels)]
        return [record for record in cuts if isinstance(record, Utterance)]

    async def _cut(self, call: CallRef, rate_hz: int, blocks: Iterable[bytes], channels: int) -> AsyncIterator[Output]:
        separator = self._separate.open(call, None)
        for seq, event in enumerate(_events(rate_hz, channels, blocks)):
            async for output in separator.submit(event, _event(seq)):
                yield output

    async def transcribe_utterances(
        self, name: str, utterances: Iterable[tuple[int, bytes]], rate_hz: int
    ) -> list[Segment]:
        """Return the segments of utterances (first sample, 16-bit PCM), all of which count as speech."""
        call = CallRef(DEFAULT_TENANT, name)
        transcriber = self._transcribe.open(call, None)
        opened = CallOpened(
            call=call,
            seq=0,
            channels=[Channel(0, "agent")],
            sample_rate_hz=rate_hz,
            encoding="pcm_s16le",
            language=self._settings.language,
            partials=False,
            metadata={},
            opened_at=0.0,
        )
        answers = [transcriber.submit(opened, _event(0))]
        for seq, (first_sample, pcm) in enumerate(utterances, 1):
            start_s, end_s = first_sample / rate_hz, (first_sample + len(pcm) // 2) / rate_hz
            utterance = Utterance(
                call=call,
                seq=seq,
                channel=0,
                first_sample=first_sample,
                sample_rate_hz=rate_hz,
                pcm=pcm,
                voiced=[(start_s, end_s)],
                cut="pause",
            )
            answers.append(transcriber.submit(utterance, _event(seq)))
        records = [output.record for answer in answers async for output in answer]
        return [record for record in records if isinstance(record, Segment)]

    async def transcribe_file(self, path: Path) -> list[Segment]:
        audio = open_audio_file(path)
        with contextlib.closing(audio):
            return await self.transcribe_call(path.stem, audio.sample_rate_hz, audio, channels=audio.channels)

    async def transcribe_files(self, paths: list[Path]) -> list[list[Segment]]:
        """Transcribe two files at a time, so that no worker of the engine waits for the next utterance."""
        turn = asyncio.Semaphore(2)

        async def one(path: Path) -> list[Segment]:
            async with turn:
                return await self.transcribe_file(path)

        return list(await asyncio.gather(*(one(path) for path in paths)))


async def merged(call: CallRef, records: Iterable[SegmentRecord]) -> list[Output]:
    """Return what the merge stage makes of a call's records, in order."""
    merging = MergeStage().open(call, None)
    return [output for seq, record in enumerate(records) async for output in merging.submit(record, _event(seq))]


def texts_of(segments: list[Segment], channels: int = 2) -> list[str]:
    """Return the text of each leg."""
    ordered = sorted(segments, key=lambda segment: segment.start_s)
    return [" ".join(one.text for one in ordered if one.channel == channel and one.text) for channel in range(channels)]


def settings_of(folder: Path, changes: Iterable[str] = (), **given: Any) -> Settings:
    """Return settings for a benchmark. `changes` have the form of the command line: `beam_size=1`."""
    written: dict[str, Any] = dict(change.split("=", 1) for change in changes)
    values = {"data": str(folder), "metrics_port": None, "compute_type": "int8", "language": "en", **given, **written}
    return msgspec.convert(values, Settings, strict=False, dec_hook=lambda kind, value: kind(value))


def _events(rate_hz: int, channels: int, blocks: Iterable[bytes]) -> Iterable[AudioEvent]:
    yield CallStarted(encoding="pcm_s16le", sample_rate_hz=rate_hz, channels=channels, roles=[], language=None)
    n_events = 2
    for block in blocks:
        yield AudioChunk(data=block)
        n_events += 1
    yield CallEnded(events=n_events)


def _utterance_record(output: Output) -> UtteranceRecord:
    assert isinstance(output.record, UtteranceRecord)
    return output.record


def _event(seq: int) -> Event:
    return Event(seq=seq, event_id=str(seq), origin=_ORIGIN, timestamp_s=0.0)
