import pytest

from benchmarks.speech.corpus import Call, TruthLine, TruthWord
from benchmarks.speech.timing import TimingErrors
from schemas.calls import CallRef
from schemas.segments import Segment, Word


def call(words: list[TruthWord]) -> Call:
    line = TruthLine(0, 1.0, 3.0, " ".join(word.text for word in words), words)
    return Call(name="one", file="one.wav", variant="clean", duration_s=4.0, sha256="", lines=[line])


def segment(words: list[Word]) -> Segment:
    return Segment(
        call=CallRef("default", "one"),
        seq=1,
        segment_id="s",
        channel=0,
        start_s=1.0,
        end_s=3.0,
        text=" ".join(word.text for word in words),
        words=words,
        voiced=[(1.0, 3.0)],
        language="en",
        model="base",
        word_source="attention",
        probability=0.9,
        no_speech_probability=0.0,
    )


def test_equal_words_are_compared_and_others_passed_over() -> None:
    true = [TruthWord("Please", 1.0, 1.3), TruthWord("send", 1.4, 1.6), TruthWord("it.", None, None)]
    given = [
        Word(text="please,", start_s=1.1, end_s=1.3, probability=1.0),
        Word(text="lend", start_s=1.4, end_s=1.6, probability=1.0),
        Word(text="it", start_s=1.7, end_s=1.9, probability=1.0),
    ]
    timing = TimingErrors()
    timing.add(call(true), [segment(given)])
    found = timing.described()["attention"]
    assert found["words"] == 1
    assert found["start"]["bias_s"] == pytest.approx(0.1)
    assert found["end"]["median_s"] == pytest.approx(0.0)
    assert (found["start"]["within_50_ms"], found["end"]["within_50_ms"]) == (0.0, 1.0)


def test_interpolated_words_are_a_source_of_their_own() -> None:
    true = [TruthWord("Please", 1.0, 1.3)]
    given = [Word(text="please", start_s=1.0, end_s=1.3, probability=1.0, interpolated=True)]
    timing = TimingErrors()
    timing.add(call(true), [segment(given)])
    assert list(timing.described()) == ["attention, interpolated"]
