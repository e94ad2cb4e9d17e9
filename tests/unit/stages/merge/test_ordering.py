"""Pieces of segments and their order, especially at interruptions and backchannels."""

import msgspec
import pytest

from schemas.segments import Segment, Word
from stages.merge.ordering import Ordering, Piece
from tests.unit.stages.merge.scripted import segment


def drained(*segments: Segment, channels: int = 2) -> list[Piece]:
    ordering = Ordering(channels)
    for made in segments:
        ordering.add(made)
    return ordering.drain()


def said(pieces: list[Piece]) -> list[tuple[int, str]]:
    return [(piece.channel, piece.text) for piece in pieces]


def test_an_interruption_splits_the_segment_at_the_end_of_the_sentence() -> None:
    pieces = drained(
        segment("a1", 0, 0.0, "we could send the technician. On Monday, or"),
        segment("c1", 1, 1.2, "no that is far too late for me"),
    )
    assert said(pieces) == [
        (0, "we could send the technician."),
        (1, "no that is far too late for me"),
        (0, "On Monday, or"),
    ]
    assert [(piece.first_word, piece.start_s) for piece in pieces if piece.channel == 0] == [(0, 0.0), (5, 2.5)]


def test_an_interruption_splits_the_segment_at_a_pause() -> None:
    before, after = segment("a1", 0, 0.0, "we could send"), segment("a1", 0, 2.0, "the technician on Monday")
    made = msgspec.structs.replace(
        before, text=f"{before.text} {after.text}", words=[*before.words, *after.words], end_s=after.end_s
    )
    pieces = drained(made, segment("c1", 1, 1.2, "no that is far too late for me"))
    assert said(pieces)[::2] == [(0, "we could send"), (0, "the technician on Monday")]


def test_a_clause_is_not_torn_by_an_interruption() -> None:
    pieces = drained(
        segment("a1", 0, 0.0, "okay, okay, that makes sense"), segment("c1", 1, 1.0, "so you would have to call them")
    )
    assert said(pieces) == [(0, "okay, okay, that makes sense"), (1, "so you would have to call them")]


@pytest.mark.parametrize("words", ["uh huh", "sorry which one was that"])
def test_less_than_a_clause_does_not_split_the_segment_that_it_is_said_into(words: str) -> None:
    pieces = drained(
        segment("a1", 0, 0.0, "first. you open the lid. And then you close it"),
        segment("c1", 1, 0.6, words, word_s=0.3),
    )
    assert said(pieces) == [(0, "first. you open the lid. And then you close it"), (1, words)]


def test_more_than_five_words_interrupt_however_fast() -> None:
    pieces = drained(
        segment("a1", 0, 0.0, "first you open. the lid"), segment("c1", 1, 0.6, "hold on a bit will you", word_s=0.2)
    )
    assert said(pieces) == [(0, "first you open."), (1, "hold on a bit will you"), (0, "the lid")]


def test_overlap_alternates_by_clause_and_not_by_word() -> None:
    pieces = drained(
        segment("a1", 0, 0.0, "a b. c d. e f"), segment("c1", 1, 1.2, "u v w x y. z"), segment("a2", 0, 3.5, "g h i j")
    )
    assert said(pieces) == [(0, "a b. c d."), (1, "u v w x y."), (0, "e f"), (0, "g h i j"), (1, "z")]


def test_speakers_who_start_together_are_ordered_by_channel() -> None:
    pieces = drained(segment("c1", 1, 1.0, "hello there you"), segment("a1", 0, 1.0, "hello good day"))
    assert said(pieces) == [(0, "hello good day"), (1, "hello there you")]


def test_a_split_keeps_the_segments_own_spacing_and_punctuation() -> None:
    made = segment("a1", 0, 0.0, "Well, one-two... three!")
    words = [
        Word(text=text, start_s=index * 1.0, end_s=index + 0.9, probability=0.9)
        for index, text in enumerate([" Well,", " one", "-two...", " three!"])
    ]
    pieces = drained(
        msgspec.structs.replace(made, words=words, end_s=4.0), segment("c1", 1, 2.5, "wait a second if you please")
    )
    assert said(pieces) == [(0, "Well, one-two..."), (1, "wait a second if you please"), (0, "three!")]


def test_a_language_without_spaces_is_cut_without_adding_any() -> None:
    made = segment("a1", 0, 0.0, "今日 は いい 天気")
    words = [
        msgspec.structs.replace(word, text=text)
        for word, text in zip(made.words, ("今日", "は。", "いい", "天気"), strict=True)
    ]
    pieces = drained(
        msgspec.structs.replace(made, text="今日は。いい天気", words=words),
        segment("c1", 1, 0.9, "はい そう です ね で も", word_s=0.4),
    )
    assert [text for channel, text in said(pieces) if channel == 0] == ["今日は。", "いい天気"]


def test_words_that_are_not_in_the_text_are_joined_by_spaces() -> None:
    made = msgspec.structs.replace(segment("a1", 0, 0.0, "one two. three four"), text="1 2 3 4")
    pieces = drained(made, segment("c1", 1, 1.0, "no no no no no no"))
    assert [text for channel, text in said(pieces) if channel == 0] == ["one two.", "three four"]


def test_a_segment_with_text_but_no_words_is_one_piece() -> None:
    made = msgspec.structs.replace(segment("a1", 0, 1.0, "a b c d"), words=[])
    pieces = drained(made, segment("c1", 1, 2.0, "no that is wrong"))
    assert said(pieces) == [(0, "a b c d"), (1, "no that is wrong")]
    assert (pieces[0].start_s, pieces[0].end_s) == (1.0, 3.0)


def test_word_times_that_run_backwards_do_not_reorder_a_channel() -> None:
    made = segment("a1", 0, 5.0, "one two three")
    words = [msgspec.structs.replace(word, start_s=5.0 - index) for index, word in enumerate(made.words)]
    pieces = drained(msgspec.structs.replace(made, words=words), segment("a2", 0, 4.0, "four"))
    assert said(pieces) == [(0, "one two three"), (0, "four")]
    assert [piece.start_s for piece in pieces] == [5.0, 5.0]


def test_a_piece_waits_for_every_other_channel_to_pass_its_last_word() -> None:
    ordering = Ordering(3)
    ordering.add(segment("a1", 0, 0.0, "one two three"))
    ordering.advance(1, 5.0)
    assert ordering.take() == []
    ordering.advance(2, 1.0)
    assert ordering.take() == []
    ordering.advance(2, 1.01)
    assert said(ordering.take()) == [(0, "one two three")]


def test_a_later_segment_of_another_channel_counts_as_its_progress() -> None:
    ordering = Ordering(2)
    ordering.add(segment("a1", 0, 0.0, "hello"))
    ordering.add(segment("c1", 1, 2.0, "hi"))
    assert said(ordering.take()) == [(0, "hello")]
    assert ordering.next_start_s(1) == 2.0


def test_progress_carries_over_to_a_reopened_call() -> None:
    ordering = Ordering(2)
    ordering.advance(0, 7.0)
    ordering.advance(1, 3.0)
    again = Ordering(2, ordering.watermarks_s)
    again.add(segment("c1", 1, 4.0, "hello"))
    assert said(again.take()) == [(1, "hello")]
