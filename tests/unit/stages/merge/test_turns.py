"""When pieces of a speaker continue a turn and when they begin the next."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.transcripts import Turn
from stages.merge.ordering import Ordering, Piece
from stages.merge.turns import TurnBuilder
from tests.unit.stages.merge.scripted import CALL, segment


def piece(segment_id: str, channel: int, start_s: float, text: str) -> Piece:
    ordering = Ordering(3)
    ordering.add(segment(segment_id, channel, start_s, text))
    (made,) = ordering.drain()
    return made


def built(*pieces: Piece) -> list[Turn]:
    builder = TurnBuilder(CALL, ["agent", "customer"])
    turns = [turn for made in pieces for turn in builder.add(made, revision=1)]
    return [*turns, *builder.close(revision=1)]


def said(*pieces: Piece) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in built(*pieces)]


def test_a_pause_of_two_seconds_is_within_a_turn_and_a_longer_one_ends_it() -> None:
    assert len(built(piece("a1", 0, 0.0, "one two"), piece("a2", 0, 3.0, "three"))) == 1
    assert len(built(piece("a1", 0, 0.0, "one two"), piece("a2", 0, 3.01, "three"))) == 2


def test_a_backchannel_in_an_unfinished_sentence_stands_beside_the_turn() -> None:
    assert said(
        piece("a1", 0, 0.0, "it stopped when"), piece("c1", 1, 1.6, "mhm"), piece("a2", 0, 2.5, "I moved the car.")
    ) == [("agent", "it stopped when I moved the car."), ("customer", "mhm")]


def test_an_answer_to_a_finished_sentence_takes_the_floor_however_short_it_is() -> None:
    turns = said(piece("a1", 0, 0.0, "Is it red?"), piece("c1", 1, 1.4, "Yes."), piece("a2", 0, 2.5, "Good."))
    assert turns == [("agent", "Is it red?"), ("customer", "Yes."), ("agent", "Good.")]


def test_words_inside_the_speech_of_another_stand_beside_it() -> None:
    turns = said(
        piece("a1", 0, 0.0, "You open the lid. Then you wait for the light."),
        piece("c1", 1, 1.0, "the grey one?"),
        piece("a2", 0, 6.0, "And you close it."),
    )
    assert turns == [
        ("agent", "You open the lid. Then you wait for the light. And you close it."),
        ("customer", "the grey one?"),
    ]


def test_a_clause_inside_the_speech_of_another_takes_the_floor() -> None:
    turns = said(
        piece("a1", 0, 0.0, "You open the lid. Then you wait for the light."),
        piece("c1", 1, 1.0, "I have done that twice already"),
        piece("a2", 0, 6.0, "I see."),
    )
    assert [speaker for speaker, _ in turns] == ["agent", "customer", "agent"]


def test_who_listens_and_then_goes_on_has_taken_the_floor() -> None:
    turns = said(
        piece("a1", 0, 0.0, "it stopped when"), piece("c1", 1, 1.6, "okay"), piece("c2", 1, 2.2, "let me look at it")
    )
    assert turns == [("agent", "it stopped when"), ("customer", "okay let me look at it")]


def test_several_words_of_a_listener_add_up_to_taking_the_floor() -> None:
    turns = said(
        piece("a1", 0, 0.0, "it stopped when"),
        piece("c1", 1, 1.5, "okay"),
        piece("c2", 1, 2.0, "right"),
        piece("c3", 1, 2.5, "so well"),
        piece("a2", 0, 3.4, "I moved"),
    )
    assert turns == [("agent", "it stopped when"), ("customer", "okay right so well"), ("agent", "I moved")]


def test_a_speaker_who_does_not_go_on_in_time_has_lost_the_floor_to_who_listened() -> None:
    turns = said(piece("a1", 0, 0.0, "it stopped when"), piece("c1", 1, 1.6, "mhm"), piece("a2", 0, 4.0, "I moved"))
    assert turns == [("agent", "it stopped when"), ("customer", "mhm"), ("agent", "I moved")]


def test_a_turn_settles_when_its_speaker_cannot_go_on_with_it_any_more() -> None:
    builder = TurnBuilder(CALL, ["agent", "customer"])
    builder.add(piece("a1", 0, 0.0, "one two"), revision=1)
    assert builder.settle(3.0, revision=1) == []
    (settled,) = builder.settle(3.5, revision=1)
    assert settled.text == "one two"
    assert builder.channel is None


def test_who_waited_has_the_floor_after_a_turn_has_settled() -> None:
    builder = TurnBuilder(CALL, ["agent", "customer"])
    builder.add(piece("a1", 0, 0.0, "one two"), revision=1)
    builder.add(piece("c1", 1, 1.2, "mhm"), revision=1)
    (settled,) = builder.settle(3.5, revision=1)
    assert (settled.text, builder.channel) == ("one two", 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 3), st.sampled_from(["mhm", "yes", "one two three", "a b c d."]))
    )
)
def test_every_word_is_in_one_turn_and_turns_are_in_the_order_of_their_starts(
    drawn: list[tuple[int, float, str]],
) -> None:
    at_s, pieces = 0.0, []
    for index, (channel, pause_s, text) in enumerate(drawn):
        at_s += pause_s
        pieces.append(piece(f"s{index}", channel, at_s, text))
    builder = TurnBuilder(CALL, ["agent", "customer", "supervisor"])
    turns = [turn for made in pieces for turn in builder.add(made, revision=1)] + builder.close(revision=1)
    assert sorted(name for turn in turns for name in turn.segment_ids) == sorted(made.segment_id for made in pieces)
    assert [turn.start_s for turn in turns] == sorted(turn.start_s for turn in turns)


def test_turn_ids_depend_on_the_call_and_the_first_word_alone() -> None:
    alone = built(piece("a1", 0, 0.0, "one"))[0]
    longer = built(piece("a1", 0, 0.0, "one"), piece("a2", 0, 1.0, "two"))[0]
    other = built(piece("a2", 0, 0.0, "one"))[0]
    assert alone.turn_id == longer.turn_id == str(CALL.derived_id("turn", "a1", 0))
    assert other.turn_id != alone.turn_id


def test_nothing_said_gives_no_turn() -> None:
    assert built() == []
