"""Words laid over detected speech."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Word
from stages.transcribe.coverage import (
    MIN_UNHEARD_MS,
    REACH_MS,
    Coverage,
    coverage,
    is_stretched,
    length_ms,
    longest_ms,
    stretches,
)


def word(text: str, start_s: float, end_s: float) -> Word:
    return Word(text=text, start_s=start_s, end_s=end_s, probability=0.9)


def test_words_account_for_the_speech_around_them() -> None:
    found = coverage([(0.0, 2.0)], [word("good", 0.2, 0.6), word("morning", 1.1, 1.8)])
    assert found == Coverage(worded=[(0, 2000)], unheard=[], brief=[])


def test_a_stretch_between_pauses_without_a_word_is_unheard_and_a_very_short_one_brief() -> None:
    found = coverage([(0.0, 1.0), (1.2, 1.5), (1.8, 2.05)], [word("good", 0.0, 1.0)])
    assert found == Coverage(worded=[(0, 1000)], unheard=[(1200, 1500)], brief=[(1800, 2050)])


def test_the_end_of_a_stretch_that_words_do_not_reach_is_unheard() -> None:
    found = coverage([(0.0, 3.0)], [word("good", 0.0, 0.5)])
    assert found == Coverage(worded=[(0, 500 + REACH_MS)], unheard=[(500 + REACH_MS, 3000)], brief=[])


def test_a_word_measured_over_skipped_speech_accounts_for_no_more_than_it_can_fill() -> None:
    hello = word("hello", 0.0, 5.0)
    assert is_stretched(hello)
    assert coverage([(0.0, 5.0)], [hello]).unheard == [(longest_ms("hello") + REACH_MS, 5000)]


@pytest.mark.parametrize(("text", "seconds"), [("2018", 2.4), ("L-L-E.", 1.8), ("inconvenience", 1.9), ("S", 0.6)])
def test_digits_and_letters_that_are_said_one_by_one_take_their_time(text: str, seconds: float) -> None:
    assert not is_stretched(word(text, 0.0, seconds))


def test_a_word_in_a_pause_accounts_for_nothing() -> None:
    assert coverage([(1.0, 1.5)], [word("yes", 0.2, 0.9)]).unheard == [(1000, 1500)]


times = st.integers(0, 12_000)
spans = st.lists(st.tuples(times, st.integers(0, 4_000)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=8)


@given(spans, spans, st.sampled_from(["yes", "4471", "inconvenience"]))
def test_every_millisecond_of_speech_is_accounted_for_once(
    voiced_ms: list[tuple[int, int]], words_ms: list[tuple[int, int]], text: str
) -> None:
    """Against a count of single milliseconds."""
    voiced = [(start / 1000, end / 1000) for start, end in voiced_ms]
    words = [word(text, start / 1000, end / 1000) for start, end in sorted(words_ms)]
    found = coverage(voiced, words)
    by_ms = {ms for start, end in voiced_ms for ms in range(start, end)}
    counted = [ms for spans in (found.worded, found.unheard, found.brief) for s, e in spans for ms in range(s, e)]
    assert len(counted) == len(set(counted))
    assert set(counted) == by_ms
    assert length_ms(stretches(voiced)) == len(by_ms)
    unworded = set(by_ms)
    for start, end in stretches(voiced):
        for said in words_ms:
            last = min(said[1], said[0] + longest_ms(text))
            if said[0] < end and last > start:
                unworded -= set(range(max(start, said[0] - REACH_MS), min(end, last + REACH_MS)))
    assert {ms for s, e in found.unheard for ms in range(s, e)} == {
        ms for s, e in runs(unworded) if e - s >= MIN_UNHEARD_MS for ms in range(s, e)
    }
    assert all(end - start >= MIN_UNHEARD_MS for start, end in found.unheard)


def runs(found: set[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers."""
    made: list[tuple[int, int]] = []
    for number in sorted(found):
        if made and made[-1][1] == number:
            made[-1] = (made[-1][0], number + 1)
        else:
            made.append((number, number + 1))
    return made
