"""Segments that are ordered part by part."""

import msgspec

from schemas.segments import ApartText
from schemas.transcripts import TranscriptCompleted, Turn
from stages.merge.parts import parts_of
from tests.unit.stages.merge.scripted import closed, joined, merge, opened, segment


def found(segment_id: str, start_s: float, text: str) -> ApartText:
    words = segment(segment_id, 0, start_s, text).words
    return ApartText(segment_id=segment_id, text=text, words=words)


def test_a_pack_is_ordered_by_its_utterances() -> None:
    pack = joined(segment("a", 0, 1.0, "good morning"), segment("a", 0, 9.0, "how are you"))
    made = [(part.text, part.start_s, first) for part, first in parts_of(pack)]
    assert made == [("good morning", 1.0, 0), ("how are you", 9.0, 2)]


def test_text_found_apart_lies_between_the_words_before_and_after_it() -> None:
    shown = joined(segment("a", 0, 1.0, "Good morning,"), segment("a", 0, 9.0, "how are you?"))
    shown = msgspec.structs.replace(shown, parts=msgspec.UNSET)
    apart = [found("c", 11.0, "I ask."), found("b", 4.0, "this is Ann,")]
    made = [
        (part.segment_id, part.text, part.start_s, first)
        for part, first in parts_of(msgspec.structs.replace(shown, apart=apart))
    ]
    assert made == [
        ("a", "Good morning,", 1.0, 0),
        ("b", "this is Ann,", 4.0, 0),
        ("a", "how are you?", 9.0, 2),
        ("c", "I ask.", 11.0, 0),
    ]


def test_a_turn_reads_in_the_order_of_time_and_cites_both_segments() -> None:
    shown = joined(segment("a", 0, 1.0, "Good morning,"), segment("a", 0, 4.0, "how are you?"))
    shown = msgspec.structs.replace(shown, parts=msgspec.UNSET, apart=[found("b", 2.2, "this is Ann,")])
    records = [output.record for output in merge([opened("agent"), shown, closed(9.0, utterances=1)])]
    (turn,) = [record for record in records if isinstance(record, Turn)]
    assert turn.text == "Good morning, this is Ann, how are you?"
    assert [word.text for word in turn.words] == turn.text.split()
    assert turn.segment_ids == ["a", "b"]
    (completed,) = [record for record in records if isinstance(record, TranscriptCompleted)]
    assert completed.turns == [turn]
