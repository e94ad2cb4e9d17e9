"""Turns of one channel, cut by speaker."""

import msgspec

from schemas.segments import SegmentRecord
from schemas.transcripts import TranscriptCompleted, Turn
from schemas.utterances import CallClosed, SpeakerTurn
from tests.unit.stages.merge.scripted import closed, joined, merge, opened, segment, transcripts_of, turns_of

SEGMENTS = [
    segment("a", 0, 1.0, "Hello there, who is this? It is me."),
    segment("b", 0, 5.2, "Ah, good."),
    segment("c", 0, 20.0, "Bye now."),
]
"""The words of the first are 0.5 s long, from 1.0 to 5.0 s."""


def ended(*speakers: SpeakerTurn, revision: int = 1, provisional: bool = False) -> CallClosed:
    made = closed(30.0, revision=revision, provisional=provisional, utterances=3)
    source = "estimated" if speakers else "unknown"
    return msgspec.structs.replace(made, speakers=list(speakers), speaker_source=source)


def completed(records: list[SegmentRecord]) -> tuple[list[Turn], list[TranscriptCompleted]]:
    outputs = merge([opened("channel-0"), *records])
    return turns_of(outputs), transcripts_of(outputs)


SPEAKERS = (
    SpeakerTurn(0.9, 3.4, "speaker_1"),
    SpeakerTurn(3.4, 5.1, "speaker_2"),
    SpeakerTurn(5.1, 6.4, "speaker_1"),
    SpeakerTurn(20.0, 21.0, "speaker_2"),
)


def test_a_turn_is_cut_at_the_word_where_the_speaker_changes() -> None:
    _, [transcript] = completed([*SEGMENTS, ended(*SPEAKERS)])
    assert [(turn.speaker, turn.text) for turn in transcript.turns] == [
        ("speaker_1", "Hello there, who is this?"),
        ("speaker_2", "It is me."),
        ("speaker_1", "Ah, good."),
        ("speaker_2", "Bye now."),
    ]
    assert [turn.segment_ids for turn in transcript.turns] == [["a"], ["a"], ["b"], ["c"]]
    assert {turn.channel for turn in transcript.turns} == {0}
    assert {turn.speaker_source for turn in transcript.turns} == {"estimated"}
    assert transcript.speaker_source == "estimated"
    assert transcript.turns[1].start_s == 3.5


def test_turns_published_before_the_end_are_republished_with_their_ids() -> None:
    turns, [transcript] = completed([*SEGMENTS, ended(*SPEAKERS)])
    before = [turn for turn in turns if turn.speaker == "channel-0"]
    after = [turn for turn in turns if turn.speaker != "channel-0"]
    assert before
    assert {turn.turn_id for turn in before} <= {turn.turn_id for turn in after}
    assert after == transcript.turns


def test_no_word_is_lost_or_said_twice() -> None:
    _, [transcript] = completed([*SEGMENTS, ended(*SPEAKERS)])
    words = [word for turn in transcript.turns for word in turn.words]
    assert words == [word for made in SEGMENTS for word in made.words]


def test_a_segment_of_several_utterances_may_be_in_several_turns() -> None:
    whole = joined(*SEGMENTS)
    turns, [transcript] = completed([whole, segment("d", 0, 24.0, "Bye bye."), ended(*SPEAKERS)])
    assert [(turn.speaker, turn.text) for turn in transcript.turns] == [
        ("speaker_1", "Hello there, who is this?"),
        ("speaker_2", "It is me."),
        ("speaker_1", "Ah, good."),
        ("speaker_2", "Bye now."),
        ("unknown", "Bye bye."),
    ]
    assert [turn.segment_ids for turn in transcript.turns] == [["a"], ["a"], ["a"], ["a"], ["d"]]
    assert len({turn.turn_id for turn in transcript.turns}) == 5
    before = [turn for turn in turns if turn.speaker == "channel-0"]
    assert before
    assert {turn.turn_id for turn in before} <= {turn.turn_id for turn in transcript.turns}


def test_words_far_from_every_speaker_are_unknown() -> None:
    _, [transcript] = completed([*SEGMENTS, ended(SpeakerTurn(1.0, 4.8, "speaker_1"))])
    assert [turn.speaker for turn in transcript.turns] == ["speaker_1", "unknown"]
    assert transcript.turns[0].text == "Hello there, who is this? It is me. Ah, good."


def test_unknown_speakers_leave_the_turns_unchanged() -> None:
    turns, [transcript] = completed([*SEGMENTS, ended()])
    assert {turn.speaker for turn in turns} == {"channel-0"}
    assert transcript.speaker_source == "unknown"


def test_a_reopened_call_is_divided_by_its_new_speakers() -> None:
    first: list[SegmentRecord] = [*SEGMENTS, ended(*SPEAKERS, provisional=True)]
    again = [SpeakerTurn(0.9, 6.4, "speaker_1"), SpeakerTurn(20.0, 27.0, "speaker_2")]
    more: list[SegmentRecord] = [segment("d", 0, 26.0, "One more thing."), ended(*again, revision=2)]
    _, transcripts = completed([*first, *more])
    assert [(turn.speaker, turn.text) for turn in transcripts[1].turns] == [
        ("speaker_1", "Hello there, who is this? It is me. Ah, good."),
        ("speaker_2", "Bye now."),
        ("speaker_2", "One more thing."),
    ]
