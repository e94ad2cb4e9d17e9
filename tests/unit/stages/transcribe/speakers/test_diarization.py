"""Speaker turns on a shared channel: with the packaged voice weights, with pyannote's classes, and in the stage."""

import wave
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soxr

from pipeline.wiring.weights import voice_weights
from schemas.calls import CallRef
from schemas.segments import SegmentRecord
from schemas.status import JobStatus
from schemas.utterances import (
    CallClosed,
    CallOpened,
    Channel,
    Part,
    SpeakerSource,
    SpeakerTurn,
    Utterance,
    UtteranceRecord,
)
from stages.protocol import Event, Origin
from stages.transcribe.engine.protocol import Audio, EngineError
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.speakers.clustering import find_voices
from stages.transcribe.speakers.diarization import CallVoices, PyannoteDiarizer, Speakers, VoiceDiarizer, is_shared
from stages.transcribe.speakers.voices import DeferredEncoder, VoiceEncoder
from stages.transcribe.stage import TranscribeStage
from tests.support.models.diarization import tone, write_pipeline
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.records import closed

CALL = CallRef("default", "mono")
SAMPLE = Path(__file__).parents[4] / "calls" / "sample" / "sample.wav"


def opened(role: str = "channel-0") -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, role)],
        sample_rate_hz=8000,
        encoding="pcm_s16le",
        language="en",
        partials=False,
        metadata={},
        opened_at=1.0,
    )


def utterance(seq: int, start_s: int) -> Utterance:
    return Utterance(
        call=CALL,
        seq=seq,
        channel=0,
        first_sample=start_s * 8000,
        sample_rate_hz=8000,
        pcm=bytes(2 * 8000),
        voiced=[(start_s, start_s + 1.0)],
        cut="pause",
    )


class ScriptedVoices:
    """Records its audio; returns the turns that it was given, or fails."""

    source: SpeakerSource = "estimated"

    def __init__(self, turns: Sequence[SpeakerTurn] = (), error: Exception | None = None) -> None:
        self.starts_s: list[float] = []
        self.closed = 0
        self._turns = list(turns)
        self._error = error

    def open(self) -> CallVoices:
        return self

    def add(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:
        assert len(audio) == 16_000
        self.starts_s.append(start_s)

    def turns(self) -> list[SpeakerTurn]:
        if self._error is not None:
            raise self._error
        return self._turns

    def close(self) -> None:
        self.closed += 1


async def last_outputs(
    records: list[UtteranceRecord], voices: ScriptedVoices | None, *, after: Sequence[UtteranceRecord] = ()
) -> tuple[SegmentRecord, dict[str, Any]]:
    """Return the end of a call: its last record on the segments topic, and the ledger's detail."""
    asked: list[Origin] = []

    async def stored(call: CallRef, start: Origin) -> AsyncIterator[UtteranceRecord]:
        asked.append(start)
        for record in (*records, *after):
            yield record

    scheduler = Scheduler(FakeEngine(), workers=1)
    try:
        processor = TranscribeStage(scheduler, speakers=Speakers(voices, stored)).open(CALL, None)
        outputs = []
        for record in records:
            origin = Origin("calls.utterances", 3, 100 + record.seq, CALL.key)
            event = Event(seq=record.seq, event_id=str(record.seq), origin=origin, timestamp_s=1.0)
            outputs += [output async for output in processor.submit(record, event)]
    finally:
        await scheduler.close()
    assert asked in ([], [Origin("calls.utterances", 3, 100, CALL.key)])
    ledger, last = outputs[-2].record, outputs[-1].record
    assert isinstance(ledger, JobStatus)
    assert isinstance(last, CallClosed)
    return last, ledger.detail


async def test_the_end_of_a_shared_channel_carries_its_speakers() -> None:
    turns = [SpeakerTurn(1.0, 2.0, "speaker_1"), SpeakerTurn(4.0, 4.5, "unknown"), SpeakerTurn(4.5, 5.0, "speaker_2")]
    voices = ScriptedVoices(turns)
    records: list[UtteranceRecord] = [opened(), utterance(1, 1), utterance(2, 4), closed(3, call=CALL)]
    last, detail = await last_outputs(records, voices)
    assert isinstance(last, CallClosed)
    assert (last.speakers, last.speaker_source) == (turns, "estimated")
    assert detail["speakers"] == {
        "source": "estimated",
        "found": ["speaker_1", "speaker_2"],
        "unknown_s": 0.5,
        "utterances": 2,
    }
    assert voices.closed == 1


async def test_repeats_and_records_after_the_end_are_ignored() -> None:
    voices = ScriptedVoices([SpeakerTurn(1.0, 2.0, "speaker_1")])
    records: list[UtteranceRecord] = [opened(), utterance(1, 1), utterance(2, 4), closed(3, call=CALL)]
    await last_outputs(records, voices, after=[utterance(1, 1), utterance(4, 9)])
    assert voices.starts_s == [1.0, 4.0]


async def test_the_parts_of_an_utterance_keep_their_places_in_the_call() -> None:
    voices = ScriptedVoices([SpeakerTurn(1.0, 2.0, "speaker_1")])
    first, second = utterance(1, 1), utterance(1, 4)
    joined = msgspec.structs.replace(
        first,
        pcm=first.pcm + second.pcm,
        voiced=first.voiced + second.voiced,
        parts=[Part(first.first_sample, 8000), Part(second.first_sample, 8000)],
    )
    await last_outputs([opened(), joined, closed(2, call=CALL)], voices)
    assert voices.starts_s == [1.0, 4.0]


@pytest.mark.parametrize(
    ("voices", "why"),
    [
        (None, "there are no weights to tell voices apart"),
        (ScriptedVoices(), "no voice was heard"),
        (ScriptedVoices(error=RuntimeError("broken")), "RuntimeError('broken')"),
    ],
)
async def test_speakers_that_cannot_be_told_apart_are_unknown_with_a_reason(
    voices: ScriptedVoices | None, why: str
) -> None:
    last, detail = await last_outputs([opened(), utterance(1, 1), closed(2, call=CALL)], voices)
    assert isinstance(last, CallClosed)
    assert (last.speakers, last.speaker_source) == ([], "unknown")
    assert detail["speakers"] == {"source": "unknown", "why": why}


async def test_a_channel_with_a_role_is_one_speaker() -> None:
    records: list[UtteranceRecord] = [opened("agent"), utterance(1, 1), closed(2, call=CALL)]
    last, detail = await last_outputs(records, ScriptedVoices([SpeakerTurn(1.0, 2.0, "speaker_1")]))
    assert last == closed(2, call=CALL)
    assert "speakers" not in detail
    assert not is_shared([Channel(0, "channel-0"), Channel(1, "channel-1")])


# -- with the packaged weights --------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    weights = voice_weights()
    assert weights is not None, "pip install --no-deps Resemblyzer"
    return VoiceEncoder(weights)


@pytest.fixture(scope="module")
def legs() -> list[Audio]:
    with wave.open(str(SAMPLE)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        return [soxr.resample(frames[:, leg] / np.float32(32768), file.getframerate(), 16_000) for leg in range(2)]


def piece(audio: Audio, start_s: float, end_s: float) -> Audio:
    return np.ascontiguousarray(audio[int(start_s * 16_000) : int(end_s * 16_000)])


def test_two_voices_in_one_utterance_are_told_apart(encoder: VoiceEncoder, legs: list[Audio]) -> None:
    """The agent speaks from 0.8 to 5.2 s and from 9.7 to 13.1 s, the customer in between."""
    voices = VoiceDiarizer(encoder).open()
    voices.add(piece(legs[0] + legs[1], 0.8, 13.0), 0.8, [(0.8, 5.2), (5.6, 9.3), (9.7, 13.0)])
    turns = voices.turns()
    assert [turn.speaker for turn in turns if turn.speaker != "unknown"] == ["speaker_1", "speaker_2", "speaker_1"]
    first, second, third = (turn for turn in turns if turn.speaker != "unknown")
    assert first.end_s == pytest.approx(5.4, abs=0.6)
    assert second.end_s == pytest.approx(9.5, abs=0.6)
    assert first.start_s == 0.8
    assert third.end_s >= 12.5


def test_one_voice_is_one_speaker(encoder: VoiceEncoder, legs: list[Audio]) -> None:
    voices = VoiceDiarizer(encoder).open()
    for start_s, end_s in ((0.8, 5.2), (9.7, 13.0), (23.2, 33.0)):
        voices.add(piece(legs[0], start_s, end_s), start_s, [(start_s, end_s)])
    assert {turn.speaker for turn in voices.turns()} == {"speaker_1"}


def test_a_call_without_speech_has_no_speakers(encoder: VoiceEncoder) -> None:
    voices = VoiceDiarizer(encoder).open()
    voices.add(np.zeros(16_000, np.float32), 0.0, [(0.1, 0.3)])
    assert voices.turns() == []


def test_hours_of_windows_need_no_tree_over_all_of_them() -> None:
    chance = np.random.default_rng(1)
    means = np.eye(3, 256, dtype=np.float32)
    made = means[chance.integers(0, 3, 30_000)] + 0.01 * chance.standard_normal((30_000, 256)).astype(np.float32)
    assert len(find_voices(made / np.linalg.norm(made, axis=1, keepdims=True))) == 3


def test_a_file_that_holds_no_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pretrained.pt").write_bytes(b"no weights")
    with pytest.raises(EngineError, match="holds no voice embedding"):
        VoiceEncoder(tmp_path / "pretrained.pt")


# -- with a pipeline of pyannote's classes --------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_of_pyannote_tells_two_sounds_apart(tmp_path: Path) -> None:
    voices = PyannoteDiarizer(str(write_pipeline(tmp_path / "pipeline"))).open()
    for number, hz in enumerate((300, 300, 2500, 300)):
        voices.add(tone(hz, 3.0), 3.0 * number, [])
    turns = voices.turns()
    voices.close()
    assert [turn.speaker for turn in turns] == ["speaker_1", "speaker_2", "speaker_1"]
    assert [turn.end_s for turn in turns] == pytest.approx([6.0, 9.0, 12.0], abs=0.3)


@pytest.mark.filterwarnings("ignore")
def test_a_directory_without_a_pipeline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=str(tmp_path)):
        PyannoteDiarizer(str(tmp_path))


def test_a_deferred_encoder_is_loaded_when_it_is_used_first(encoder: VoiceEncoder) -> None:
    loads: list[int] = []

    def load() -> VoiceEncoder:
        loads.append(len(loads))
        if len(loads) == 1:
            raise EngineError("no room yet")
        return encoder

    deferred = DeferredEncoder(load)
    assert loads == []
    windows = [np.zeros(16_000, np.float32)]
    with pytest.raises(EngineError, match="no room yet"):
        deferred.encode(windows)
    assert deferred.encode(windows).shape == deferred.encode(windows).shape == (1, 256)
    assert loads == [0, 1]
