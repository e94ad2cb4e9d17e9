"""Utterances of a live call that are decoded with the speech before them."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from schemas.segments import Segment, Word
from schemas.utterances import CallClosed, CallOpened, CallProgress, Channel, Utterance, UtteranceRecord
from stages.protocol import Checkpoint, Event, Origin
from stages.transcribe.earlier_speech import MAX_PAUSE_S, MAX_S
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeProcessor, TranscribeStage
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.records import CALL, closed

WORD_S = 0.5


class LevelEngine(FakeEngine):
    """Writes the level of each half second of sound, and nothing for silence. `asked`: the rows, in their order."""

    def __init__(self, *, ignores_prefixes: bool = False) -> None:
        super().__init__()
        self.asked: list[Row] = []
        self.ignores_prefixes = ignores_prefixes

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        self.asked += [row for row in rows if row.audio.any()]
        return [self._hear(row) for row in rows]

    def _hear(self, row: Row) -> Transcription:
        words = []
        n = int(WORD_S * SAMPLE_RATE_HZ)
        for start, end in row.voiced:
            for first in range(round(start * SAMPLE_RATE_HZ), round(end * SAMPLE_RATE_HZ) - n // 2, n):
                level = round(float(row.audio[first + n // 4]) * 1000)
                begin_s = first / SAMPLE_RATE_HZ
                words.append(Word(text=f"w{level}", start_s=begin_s, end_s=begin_s + 0.45, probability=0.9))
        text = " ".join(word.text for word in words)
        known = row.prefix and not self.ignores_prefixes
        assert not known or text.startswith(row.prefix), (text, row.prefix)
        language = row.language if isinstance(row.language, str) else row.language(self.detected(0))
        return Transcription(
            text=text, words=words, language=language, average_logprob=-0.2, no_speech_probability=0.05
        )


def opened(language: str | None = "en") -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=8000,
        encoding="pcm_s16le",
        language=language,
        partials=False,
        metadata={},
        opened_at=1.0,
    )


def utterance(seq: int, start_s: float, levels: Sequence[int], *, channel: int = 0) -> Utterance:
    """Half a second at each level."""
    n = int(WORD_S * 8000)
    pcm = np.repeat([round(level / 1000 * 32768) for level in levels], n).astype("<i2").tobytes()
    return Utterance(
        call=CALL,
        seq=seq,
        channel=channel,
        first_sample=round(start_s * 8000),
        sample_rate_hz=8000,
        pcm=pcm,
        voiced=[(start_s, start_s + len(levels) * WORD_S)],
        cut="pause",
    )


def event(record: UtteranceRecord) -> Event:
    return Event(
        seq=record.seq, event_id=str(record.seq), origin=Origin("in", 0, record.seq, CALL.key), timestamp_s=1000.0
    )


async def answered(processor: TranscribeProcessor, record: UtteranceRecord) -> Segment | None:
    outputs = [output.record async for output in processor.submit(record, event(record))]
    return next((record for record in outputs if isinstance(record, Segment)), None)


class Call:
    """A live call in the stage, and the engine that hears it."""

    def __init__(self, *, live: bool = True, ignores_prefixes: bool = False) -> None:
        self.engine = LevelEngine(ignores_prefixes=ignores_prefixes)
        self.stage = TranscribeStage(Scheduler(self.engine, workers=1), live=live)
        self.processor = self.stage.open(CALL, None)

    async def hear(self, *records: UtteranceRecord) -> list[Segment]:
        return [one for record in records if (one := await answered(self.processor, record)) is not None]

    def crash(self) -> Checkpoint:
        checkpoint = self.processor.checkpoint()
        self.processor = self.stage.open(CALL, checkpoint.state)
        self.engine.asked.clear()
        return checkpoint


def prefixes(call: Call) -> list[str]:
    return [row.prefix for row in call.engine.asked]


async def test_an_utterance_is_decoded_with_the_one_before_it_and_keeps_its_own_words_and_times() -> None:
    call = Call()
    _, second = await call.hear(opened(), utterance(1, 1.0, [11, 12]), utterance(2, 4.0, [21, 22, 23]))
    assert prefixes(call) == ["", "w11 w12"]
    assert call.engine.asked[1].voiced == [(0.0, 1.0), (pytest.approx(1.2), pytest.approx(2.7))]
    assert second.text == "w21 w22 w23"
    assert [(word.text, word.start_s) for word in second.words] == [("w21", 4.0), ("w22", 4.5), ("w23", 5.0)]


async def test_of_long_speech_only_its_last_words_are_told() -> None:
    call = Call()
    levels = list(range(11, 11 + 20))
    await call.hear(opened(), utterance(1, 1.0, levels), utterance(2, 12.0, [41]))
    told = prefixes(call)[1].split()
    assert told == [f"w{level}" for level in levels[-len(told) :]]
    assert MAX_S - 1 <= len(told) * WORD_S <= MAX_S


async def test_short_utterances_are_told_together() -> None:
    call = Call()
    await call.hear(opened(), *(utterance(n, 2.0 * n, [10 * n, 10 * n + 1]) for n in range(1, 8)))
    assert prefixes(call)[2] == "w10 w11 w20 w21"
    assert prefixes(call)[6] == "w30 w31 w40 w41 w50 w51 w60 w61"


async def test_a_long_utterance_is_decoded_alone() -> None:
    call = Call()
    await call.hear(opened(), utterance(1, 1.0, [11]), utterance(2, 3.0, list(range(21, 31))))
    assert prefixes(call) == ["", ""]


async def test_speech_of_the_other_channel_or_from_long_before_is_not_told() -> None:
    call = Call()
    late_s = 1.5 + MAX_PAUSE_S + 1
    await call.hear(opened(), utterance(1, 1.0, [11]), utterance(2, 3.0, [21], channel=1), utterance(3, late_s, [31]))
    assert prefixes(call) == ["", "", ""]


async def test_speech_whose_language_is_not_decided_is_decoded_alone() -> None:
    call = Call()
    await call.hear(opened(None), utterance(1, 1.0, [11]), utterance(2, 3.0, [21]))
    assert prefixes(call) == ["", ""]


async def test_recorded_calls_are_decoded_without_it() -> None:
    call = Call(live=False)
    await call.hear(opened(), utterance(1, 1.0, [11]), utterance(2, 3.0, [21]))
    assert prefixes(call) == ["", ""]
    assert call.processor.checkpoint().released == 3


async def test_an_utterance_of_which_nothing_is_heard_after_it_is_decoded_alone() -> None:
    call = Call()

    class Deaf(LevelEngine):
        def _hear(self, row: Row) -> Transcription:
            whole = super()._hear(row)
            return msgspec.structs.replace(whole, text=row.prefix, words=whole.words[:1]) if row.prefix else whole

    call.engine = Deaf()
    call.stage = TranscribeStage(Scheduler(call.engine, workers=1))
    call.processor = call.stage.open(CALL, None)
    _, second = await call.hear(opened(), utterance(1, 1.0, [11]), utterance(2, 3.0, [21]))
    assert prefixes(call) == ["", "w11", ""]
    assert second.text == "w21"


async def test_what_is_told_comes_again_after_a_crash() -> None:
    records: list[UtteranceRecord] = [
        opened(),
        utterance(1, 1.0, [11, 12]),
        utterance(2, 3.0, [21, 22]),
        utterance(3, 5.0, [31]),
    ]
    whole = await Call().hear(*records)
    call = Call()
    heard = await call.hear(*records[:3])
    stored = call.crash()
    assert stored.released == 1
    heard += await call.hear(*records[stored.released :])
    assert prefixes(call) == ["w11 w12 w21 w22"]
    assert heard == whole


async def test_what_no_utterance_can_continue_any_more_is_released() -> None:
    call = Call()
    await call.hear(opened(), utterance(1, 1.0, [11]))
    assert call.processor.checkpoint().released == 1
    await call.hear(CallProgress(call=CALL, seq=2, heard_to_s=[1.5 + MAX_PAUSE_S + 0.1, 0.0]))
    assert call.processor.checkpoint().released == 3


async def test_the_end_of_a_call_releases_everything() -> None:
    call = Call()
    end: CallClosed = closed(2)
    await call.hear(opened(), utterance(1, 1.0, [11]), end)
    assert call.processor.checkpoint().released == 3
    assert call.processor.finished
