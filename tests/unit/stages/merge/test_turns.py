"""When pieces of a speaker continue a turn and when they begin the next."""

from schemas.transcripts import Turn
from stages.merge.ordering import Ordering, Piece
from stages.merge.turns import TurnBuilder
from tests.unit.stages.merge.scripted import CALL, segment


def piece(segment_id: str, channel: int, start_s: float, text: str) -> Piece:
    ordering = Ordering(2)
    ordering.add(segment(segment_id, channel, start_s, text))
    (made,) = ordering.drain()
    return made


def built(*pieces: Piece) -> list[Turn]:
    builder = TurnBuilder(CALL, ["agent", "customer"])
    turns = [builder.add(made, revision=1) for made in pieces]
    return [turn for turn in [*turns, builder.close(revision=1)] if turn is not None]


def test_a_pause_of_two_seconds_is_within_a_turn_and_a_longer_one_ends_it() -> None:
    assert len(built(piece("a1", 0, 0.0, "one two"), piece("a2", 0, 3.0, "three"))) == 1
    assert len(built(piece("a1", 0, 0.0, "one two"), piece("a2", 0, 3.01, "three"))) == 2


def test_another_speaker_ends_a_turn_however_briefly() -> None:
    turns = built(piece("a1", 0, 0.0, "one"), piece("c1", 1, 0.5, "mhm"), piece("a2", 0, 1.0, "two"))
    assert [(turn.speaker, turn.text) for turn in turns] == [("agent", "one"), ("customer", "mhm"), ("agent", "two")]


def test_a_turn_settles_when_its_speaker_cannot_go_on_with_it_any_more() -> None:
    builder = TurnBuilder(CALL, ["agent", "customer"])
    builder.add(piece("a1", 0, 0.0, "one two"), revision=1)
    assert builder.settle(3.0, revision=1) is None
    settled = builder.settle(3.5, revision=1)
    assert settled is not None
    assert settled.text == "one two"
    assert builder.channel is None


def test_turn_ids_depend_on_the_call_and_the_first_word_alone() -> None:
    alone = built(piece("a1", 0, 0.0, "one"))[0]
    longer = built(piece("a1", 0, 0.0, "one"), piece("a2", 0, 1.0, "two"))[0]
    other = built(piece("a2", 0, 0.0, "one"))[0]
    assert alone.turn_id == longer.turn_id == str(CALL.derived_id("turn", "a1", 0))
    assert other.turn_id != alone.turn_id


def test_nothing_said_gives_no_turn() -> None:
    assert built() == []
