import numpy as np

from benchmarks.guards.counts import PIECES_OF_EACH, PIECES_S, answered, pieces, taken
from benchmarks.speech.corpus import Call, TruthLine, TruthWord
from schemas.calls import CallRef
from schemas.segments import Segment, Word


def segment(start_s: float, end_s: float, *, text: str = "", guard: str | None = None, dropped: str = "") -> Segment:
    return Segment(
        call=CallRef("default", "c"),
        seq=1,
        segment_id=f"{start_s}",
        channel=0,
        start_s=start_s,
        end_s=end_s,
        text=text,
        words=[Word(text=word, start_s=start_s, end_s=end_s, probability=0.9) for word in text.split()],
        voiced=[(start_s, end_s)],
        language="en",
        model="base",
        word_source="attention",
        probability=0.9,
        no_speech_probability=0.1,
        guard=guard,
        dropped_text=dropped,
    )


def test_true_words_count_as_dropped_or_as_outside_any_utterance() -> None:
    words = [TruthWord("yes", 1.0, 1.2), TruthWord("of", None, None), TruthWord("course", 5.0, 5.4)]
    call = Call(
        name="c",
        file="c.wav",
        variant="clean",
        duration_s=9.0,
        sha256="",
        lines=[TruthLine(0, 1.0, 5.4, "yes of course", words)],
    )
    found = taken([call], [[segment(0.8, 1.5, guard="no_speech", dropped="Yes."), segment(4.8, 5.6, text="course")]])
    assert (found["words"], found["dropped"], found["unheard"]) == (3, {"no_speech": 1}, 1)
    assert [one["true_words"] for one in found["utterances"]] == [1]


def test_words_and_guards_of_a_sound_are_counted() -> None:
    found = answered([segment(0, 1, text="Beep beep"), segment(2, 3, guard="phrase", dropped="You")])
    assert (found["words"], found["guards"]) == (2, {"phrase": 1})
    assert [one["text"] for one in found["dropped"]] == ["You"]


def test_pieces_lie_one_behind_the_other() -> None:
    made = list(pieces(np.ones((8000 * 30, 2), np.int16)))
    assert len(made) == 2 * len(PIECES_S) * PIECES_OF_EACH
    at = 0
    for first, pcm in made:
        assert first == at
        at += len(pcm) // 2
