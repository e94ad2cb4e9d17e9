"""Hard cuts: the words of continuous speech are divided between two utterances."""

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Segment, Word
from schemas.utterances import InterimUtterance, Utterance, UtteranceRecord
from stages.transcribe.audio import audio_from, voiced_from
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.hard_cuts import NO_OVERLAP, Overlap, trim
from tests.unit.stages.transcribe.engines import FakeEngine
from tests.unit.stages.transcribe.live_call import assert_nothing_flipped, call, opened
from tests.unit.stages.transcribe.records import CALL
from tests.unit.stages.transcribe.test_stage import event, stage

RATE_HZ = 8000
CONTEXT_S = 1.2


def speech(start_s: float, end_s: float) -> bytes:
    """Return samples whose values are their times, in tens of milliseconds."""
    return (np.arange(int(start_s * RATE_HZ), int(end_s * RATE_HZ)) * 100 // RATE_HZ).astype("<i2").tobytes()


def utterance(seq: int, start_s: float, end_s: float, *, before: bool = False, after: bool = False) -> Utterance:
    return Utterance(
        call=CALL,
        seq=seq,
        channel=0,
        first_sample=int(start_s * RATE_HZ),
        sample_rate_hz=RATE_HZ,
        pcm=speech(start_s, end_s),
        voiced=[(start_s, end_s)],
        cut="hard" if after else "pause",
        before=speech(start_s - CONTEXT_S, start_s) if before else b"",
        after=speech(end_s, end_s + CONTEXT_S) if after else b"",
    )


class SpeakingEngine(FakeEngine):
    """Writes `words` at their times, a part of one as `…`. A row must begin with its prefix."""

    def __init__(self, words: Sequence[tuple[str, float, float]], *, off_s: Sequence[float] = (0.0,)) -> None:
        super().__init__()
        self.words = words
        self.off_s = off_s
        self.rows: list[Row] = []

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        self.rows += rows
        return [self._hear(row) for row in rows]

    def _hear(self, row: Row) -> Transcription:
        start_s = round(float(row.audio[SAMPLE_RATE_HZ // 100]) * 32768) / 100  # not at the edge: it is resampled
        end_s = start_s + len(row.audio) / SAMPLE_RATE_HZ
        met = [(text, s, e) for text, s, e in self.words if e > start_s + 0.12 and s < end_s - 0.05]
        texts = [text if s > start_s - 0.15 and e < end_s + 0.05 else "…" for text, s, e in met]
        known = row.prefix.split()
        if known:
            assert texts[: len(known)] == known
        heard = [
            Word(
                text=text,
                start_s=max(0.0, s + self.off_s[index % len(self.off_s)] - start_s),
                end_s=min(end_s, e + self.off_s[index % len(self.off_s)]) - start_s,
                probability=0.9,
            )
            for index, (text, (_, s, e)) in enumerate(zip(texts, met, strict=True))
        ]
        return Transcription(
            text=" ".join(texts),
            words=[] if row.interim else heard,
            language="en",
            average_logprob=-0.2,
            no_speech_probability=0.05,
        )


def said(*lengths_s: float, start_s: float = 1.0) -> list[tuple[str, float, float]]:
    edges = np.round(start_s + np.concatenate([[0.0], np.cumsum(lengths_s)]), 2)
    return [(f"w{index}", float(s), float(e)) for index, (s, e) in enumerate(itertools.pairwise(edges))]


async def heard(engine: SpeakingEngine, utterances: Sequence[Utterance], *, restarts: bool = False) -> list[Segment]:
    segments: list[Segment] = []
    records: list[UtteranceRecord] = [opened(partials=False), *utterances]
    async with stage(engine, language="en") as open_call:
        processor = open_call(None)
        for record in records:
            if restarts:
                processor = open_call(processor.checkpoint().state)
            outputs = processor.submit(record, event(record))
            segments += [one.record async for one in outputs if isinstance(one.record, Segment)]
    return segments


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_word_that_the_cut_divides_is_written_once(restarts: bool) -> None:
    words = said(*[0.5] * 20)
    engine = SpeakingEngine(words)
    first, second = utterance(1, 1.0, 6.3, after=True), utterance(2, 6.3, 11.0, before=True)
    segments = await heard(engine, [first, second], restarts=restarts)
    assert " ".join(segment.text for segment in segments) == " ".join(text for text, _, _ in words)
    assert [word.text for word in segments[0].words] == segments[0].text.split()
    assert engine.rows[1].prefix == segments[0].text[-len(engine.rows[1].prefix) :] == "w9 w10"
    for segment in segments:
        times = [edge for word in segment.words for edge in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert segment.start_s <= times[0]
        assert times[-1] <= segment.end_s


@given(
    st.lists(st.floats(0.25, 0.7), min_size=25, max_size=40),
    st.floats(4.0, 6.0),
    st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=7),
)
async def test_each_word_is_written_once_however_wrong_its_time(
    lengths_s: list[float], cut_s: float, off_s: list[float]
) -> None:
    """This holds if the second row begins where a word begins, which the first one's times may miss by a little."""
    words = said(*lengths_s)
    cut_s = round(cut_s, 2)
    first = utterance(1, 1.0, cut_s, after=True)
    second = utterance(2, cut_s, words[-1][2] + 0.3, before=True)
    segments = await heard(SpeakingEngine(words, off_s=off_s), [first, second])
    assert " ".join(segment.text for segment in segments).split() == [text for text, _, _ in words]


async def test_an_utterance_after_a_pause_knows_nothing_of_a_cut_before_it() -> None:
    engine = SpeakingEngine(said(*[0.5] * 20))
    first, second = utterance(1, 1.0, 6.2, after=True), utterance(2, 8.0, 11.0)
    await heard(engine, [first, second])
    assert [row.prefix for row in engine.rows] == ["", ""]


async def test_partials_after_a_cut_show_only_their_own_words() -> None:
    words = said(*[0.5] * 24)
    engine = SpeakingEngine(words)
    cut = 6.3
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(utterance(1, 1.0, cut, after=True))
        for revision in (1, 2, 3, 4):
            await live.publish(
                InterimUtterance(
                    call=CALL,
                    channel=0,
                    first_sample=int(cut * RATE_HZ),
                    sample_rate_hz=RATE_HZ,
                    pcm=speech(cut, cut + revision),
                    voiced=[(cut, cut + revision)],
                    revision=revision,
                    certain=True,
                    before=speech(cut - CONTEXT_S, cut),
                )
            )
            await live.until_partials(1 + revision)
        await live.publish(utterance(2, cut, 13.0, before=True))
        segments = await live.until_segments(2)
        partials = await live.until_partials(6)
    assert " ".join(segment.text for segment in segments) == " ".join(text for text, _, _ in words)
    assert all(partial.committed.startswith("w11") for partial in partials[1:] if partial.committed)
    assert any(partial.committed for partial in partials[1:-1])
    assert_nothing_flipped(partials, segments)


def transcription(text: str, times: Sequence[tuple[float, float]]) -> Transcription:
    return Transcription(
        text=text,
        words=[
            Word(text=word, start_s=s, end_s=e, probability=0.9)
            for word, (s, e) in zip(text.split(), times, strict=True)
        ],
        language="en",
        average_logprob=-0.2,
        no_speech_probability=0.05,
    )


def test_punctuation_of_the_last_word_before_the_cut_begins_no_text() -> None:
    overlap = Overlap(first_sample=int(6.2 * RATE_HZ), start_s=5.2, text="to Chicago")
    text = transcription("to Chicago. She came", [(0, 0.3), (0.3, 1.0), (1.0, 1.4), (1.4, 2.0)])
    own, after = trim(utterance(2, 6.2, 8.0, before=True), overlap, text, committed="")
    assert own.text == overlap.removed_from(text.text) == "She came"
    assert [word.text for word in own.words] == ["She", "came"]
    assert after == NO_OVERLAP


def test_committed_text_stays_though_its_time_is_after_the_cut() -> None:
    text = transcription("one two three four", [(0, 1), (1, 2), (2.1, 2.5), (2.5, 3)])
    cut = utterance(1, 1.0, 3.0, after=True)
    assert trim(cut, NO_OVERLAP, text, committed="")[0].text == "one two"
    own, after = trim(cut, NO_OVERLAP, text, committed="one two three")
    assert own.text == "one two three"
    assert own.words[-1].end_s == 2.0
    assert after.text == "two three"


def test_text_whose_words_are_not_known_is_left_as_it_is() -> None:
    text = msgspec.structs.replace(transcription("one two", [(0, 1), (1, 2)]), text="other text")
    assert trim(utterance(1, 1.0, 3.0, after=True), NO_OVERLAP, text, committed="") == (text, NO_OVERLAP)
    failed = Transcription.failed("en", "no memory")
    assert trim(utterance(1, 1.0, 3.0, after=True), NO_OVERLAP, failed, committed="") == (failed, NO_OVERLAP)


def test_a_row_includes_the_audio_beyond_its_cuts() -> None:
    cut = utterance(1, 4.0, 6.0, before=True, after=True)
    assert len(audio_from(cut, 3.5)) == pytest.approx((2.5 + CONTEXT_S) * SAMPLE_RATE_HZ, abs=2)
    assert voiced_from(cut, 3.5)[0] == pytest.approx((0.0, 2.5 + CONTEXT_S))
    assert len(audio_from(cut, 0.0)) == pytest.approx((2 + 2 * CONTEXT_S) * SAMPLE_RATE_HZ, abs=2)
    assert voiced_from(utterance(1, 4.0, 6.0), 4.0) == [(0.0, 2.0)]
