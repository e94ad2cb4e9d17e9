"""Whose words they are, from samples to the transcript: through separate, transcribe and merge, killed at every record.

The text of an utterance is a hash of its samples (`benchmarks.harness.hash_transcriber`).
"""

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from benchmarks.harness import hash_transcriber
from schemas.calls import CallRef
from schemas.segments import Segment, SegmentRecord
from schemas.transcripts import TranscriptCompleted
from schemas.utterances import CallClosed, SpeakerSource, SpeakerTurn, UtteranceRecord
from stages.protocol import Event, Origin, Output
from stages.separate.codecs import Samples
from stages.transcribe.engine.protocol import Audio
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.speakers.diarization import CallVoices, Speakers
from stages.transcribe.stage import TranscribeStage
from tests.unit.stages.merge.scripted import merge, merge_with_crashes, transcripts_of
from tests.unit.stages.separate.scripted import CALL, bursts, call_events, in_order, separate
from tests.unit.stages.separate.test_crosstalk import later, mixed

LINES = [(1.0 + 4 * index, 3.5 + 4 * index) for index in range(6)]
LENGTH_S = 26.0


class TwoVoices:
    """Finds one speaker before the middle of the call and another one after it, and counts the utterances."""

    source: SpeakerSource = "estimated"
    added = 0

    def open(self) -> CallVoices:
        return self

    def add(self, audio: Audio, start_s: float, voiced: Sequence[tuple[float, float]]) -> None:
        self.added += 1

    def turns(self) -> list[SpeakerTurn]:
        return [SpeakerTurn(0.0, LENGTH_S / 2, "speaker_1"), SpeakerTurn(LENGTH_S / 2, LENGTH_S, "speaker_2")]

    def close(self) -> None:
        pass


async def transcribed(
    records: Sequence[UtteranceRecord], voices: TwoVoices, *, killed: bool = False
) -> list[SegmentRecord]:
    """Return what the transcribe stage makes of the records. `killed`: its process dies after each of them."""

    async def stored(_call: CallRef, _opened: Origin) -> AsyncIterator[UtteranceRecord]:
        for record in records:
            yield record

    outputs: list[Output] = []
    scheduler = Scheduler(hash_transcriber.HashEngine(hears_all=True), workers=1)
    stage = TranscribeStage(scheduler, live=False, language="en", speakers=Speakers(voices, stored))
    try:
        processor = stage.open(CALL, None)
        for record in records:
            event = Event(
                seq=record.seq, event_id="", origin=Origin("in", 0, record.seq, CALL.key), timestamp_s=float(record.seq)
            )
            outputs += [output async for output in processor.submit(record, event)]
            if killed:
                processor = stage.open(CALL, processor.checkpoint().state)
    finally:
        await scheduler.close()
    return [output.record for output in outputs if output.seq is not None]  # type: ignore[misc]


async def heard(*channels: Samples) -> tuple[list[SegmentRecord], TwoVoices]:
    """Return a call's segments and the voices that were asked for speakers; a kill after any record changes nothing."""
    run = await separate(in_order(call_events(*channels)))
    voices = TwoVoices()
    records = await transcribed(run.records, voices)
    assert await transcribed(run.records, TwoVoices(), killed=True) == records
    return records, voices


def transcript(records: Sequence[SegmentRecord]) -> TranscriptCompleted:
    """Return the completed transcript; a kill after any record changes nothing."""
    whole = transcripts_of(merge(records))[-1]
    for at in range(len(records)):
        again = transcripts_of(merge_with_crashes(records, [(at, 0), (len(records) - 1, 1)]))
        assert again[-1] == whole
    return whole


def words(made: TranscriptCompleted) -> list[str]:
    return [word.text for turn in made.turns for word in turn.words]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_transcriber, "DELAY_S", (0.0, 0.0))
    monkeypatch.setattr(hash_transcriber, "WORD_S", 0.9)  # no word lies in the silence around speech


@pytest.mark.parametrize(
    ("gain", "delay_s", "used"), [(1.0, 0.0, 0), (-1.0, 0.0, 0), (1.0, 0.1, 0), (0.3, 0.0, 0), (3, 0, 1)]
)
async def test_the_same_mix_on_both_channels_is_heard_once_as_a_mono_call(
    gain: float, delay_s: float, used: int
) -> None:
    mono = bursts(*LINES, length_s=LENGTH_S)
    copy = mixed((gain, later(mono, delay_s)))
    records, voices = await heard(mono, copy)
    made = transcript(records)
    alone, _ = await heard(copy if used else mono)
    assert words(made) == words(transcript(alone))
    assert made.one_channel == used
    assert [turn.speaker for turn in made.turns] == ["speaker_1", "speaker_2"]
    assert {turn.channel for turn in made.turns} == {used}
    assert voices.added == len(LINES)
    assert made.metrics.overlap_s == 0.0


@pytest.mark.parametrize("level_db", [-10, -20, -30])
async def test_crosstalk_is_heard_once_under_who_said_it(level_db: int) -> None:
    gain = 10 ** (level_db / 20)
    agent = bursts(*LINES[::2], length_s=LENGTH_S, seed=1)
    customer = bursts(*LINES[1::2], length_s=LENGTH_S, seed=2)
    records, voices = await heard(
        mixed((3, agent), (3 * gain, later(customer, 0.06))), mixed((3, customer), (-3 * gain, later(agent, 0.03)))
    )
    made = transcript(records)
    assert [turn.speaker for turn in made.turns] == ["agent", "customer"] * 3
    assert made.one_channel is None
    assert voices.added == 0
    assert (made.metrics.overlap_s, made.metrics.interruptions) == (0.0, 0)


async def test_a_minute_of_shared_music_leaves_two_channels() -> None:
    """Music is heard as speech here; the guards drop its text."""
    music = bursts((0.0, 60.0), length_s=75.0, seed=3)
    agent = mixed((1, music), (1, bursts((62, 64), (70, 72), length_s=75.0, seed=1)))
    customer = mixed((1, music), (1, bursts((66, 68), length_s=75.0, seed=2)))
    records, _ = await heard(agent, customer)
    guarded: list[SegmentRecord] = [
        msgspec.structs.replace(record, text="", words=[], guard="no_speech")
        if isinstance(record, Segment) and record.start_s < 60
        else record
        for record in records
    ]
    made = transcript(guarded)
    assert [turn.speaker for turn in made.turns] == ["agent", "customer", "agent"]


async def test_a_leg_that_speaks_alone_makes_the_call_two_channels_again() -> None:
    mono = bursts(*LINES, length_s=LENGTH_S + 8)
    alone = bursts((LENGTH_S + 1, LENGTH_S + 6), length_s=LENGTH_S + 8, seed=2)
    records, _ = await heard(mono, mixed((1, mono), (1, alone)))
    closed = records[-1]
    assert isinstance(closed, CallClosed)
    assert closed.one_channel is None
    made = transcript(records)
    assert [turn.speaker for turn in made.turns][-1] == "customer"
    single, _ = await heard(mono)
    assert [turn.speaker for turn in made.turns].count("agent") == len(transcript(single).turns)
