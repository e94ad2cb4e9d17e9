"""From measured words to words that all have a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Word
from stages.transcribe.engine.words import MeasuredWord, timed_words


def measured(text: str, start_s: float, end_s: float, probability: float = 0.9) -> MeasuredWord:
    return MeasuredWord(text=text, start_s=start_s, end_s=end_s, probability=probability)


def spans(words: list[Word]) -> list[tuple[str, float, float]]:
    return [(word.text, word.start_s, word.end_s) for word in words]


def test_measured_times_are_kept() -> None:
    words = timed_words([measured(" Good", 0.2, 0.5), measured(" day.", 0.5, 0.9)], [(0.1, 1.0)], 1.2)
    assert spans(words) == [("Good", 0.2, 0.5), ("day.", 0.5, 0.9)]
    assert not any(word.interpolated for word in words)


def test_the_pause_before_a_word_is_no_part_of_it() -> None:
    words = timed_words([measured(" Could", 0.0, 3.0), measured(" you", 3.0, 9.0)], [(0.5, 1.0), (4.0, 8.0)], 10.0)
    assert spans(words) == [("Could", 0.5, 1.0), ("you", 4.0, 8.0)]


def test_a_word_outside_detected_speech_keeps_its_time() -> None:
    assert spans(timed_words([measured(" um", 5.0, 5.4)], [(0.5, 1.0)], 10.0)) == [("um", 5.0, 5.4)]


def test_punctuation_joins_its_word_and_takes_no_time() -> None:
    raw = [
        measured(' "', 0.0, 0.2),
        measured("Yes", 0.2, 0.6),
        measured(",", 0.6, 0.9, 0.1),
        measured('"', 0.9, 1.0, 0.1),
    ]
    words = timed_words(raw, [(0.0, 1.0)], 1.0)
    assert spans(words) == [('"Yes,"', 0.2, 0.6)]
    assert words[0].probability == 0.9


def test_text_that_follows_without_a_space_belongs_to_the_word() -> None:
    raw = [
        measured(" high", 0.0, 0.3, 0.9),
        measured("-end", 0.3, 0.6, 0.5),
        measured(" 3", 0.6, 0.8),
        measured(".5", 0.8, 1.0),
    ]
    words = timed_words(raw, [(0.0, 1.0)], 1.0)
    assert spans(words) == [("high-end", 0.0, 0.6), ("3.5", 0.6, 1.0)]
    assert words[0].probability == 0.5


def test_without_spaces_each_character_is_a_word_and_full_stops_join_it() -> None:
    raw = [measured("你", 0.0, 0.3), measured("好", 0.3, 0.6), measured("。", 0.6, 0.7)]
    assert spans(timed_words(raw, [(0.0, 1.0)], 1.0, spaced=False)) == [("你", 0.0, 0.3), ("好。", 0.3, 0.6)]


def test_words_without_room_share_that_of_the_next_by_their_letters() -> None:
    raw = [measured(" I", 1.0, 1.0), measured(" was", 1.0, 1.0), measured(" late", 1.0, 1.8)]
    words = timed_words(raw, [(0.0, 2.0)], 2.0)
    assert spans(words) == [("I", 1.0, 1.1), ("was", 1.1, 1.4), ("late", 1.4, 1.8)]
    assert all(word.interpolated for word in words)


def test_last_words_without_room_share_that_of_the_word_before() -> None:
    raw = [measured(" Good", 0.0, 0.4), measured(" bye", 0.4, 1.0), measured(" now", 1.0, 1.0)]
    words = timed_words(raw, [(0.0, 1.0)], 1.0)
    assert spans(words) == [("Good", 0.0, 0.4), ("bye", 0.4, 0.7), ("now", 0.7, 1.0)]
    assert [word.interpolated for word in words] == [False, True, True]


def test_if_no_word_has_room_they_share_the_speech() -> None:
    words = timed_words([measured(" yes", 0.0, 0.0), measured(" yes", 0.0, 0.0)], [(0.4, 1.0)], 2.0)
    assert spans(words) == [("yes", 0.4, 0.7), ("yes", 0.7, 1.0)]


def test_times_end_with_the_audio() -> None:
    assert spans(timed_words([measured(" hello", 0.5, 9.0)], [], 1.0)) == [("hello", 0.5, 1.0)]


@pytest.mark.parametrize("probability", [-0.1, 1.0000001])
def test_probabilities_stay_between_0_and_1(probability: float) -> None:
    assert 0.0 <= timed_words([measured(" a", 0.0, 1.0, probability)], [], 1.0)[0].probability <= 1.0


texts = st.sampled_from([" a", " word", ",", ".", ' "', "-end", " ", " ("])
times = st.floats(0.0, 12.0)


@given(
    st.lists(st.tuples(texts, times, times), max_size=30),
    st.lists(st.tuples(times, times).map(sorted), max_size=3),
    st.booleans(),
)
def test_every_word_has_a_rising_time_inside_the_audio(
    raw: list[tuple[str, float, float]], stretches: list[list[float]], spaced: bool
) -> None:
    voiced = [(start, end) for start, end in sorted(map(tuple, stretches)) if start < 10.0]
    words = timed_words([measured(text, start, end) for text, start, end in raw], voiced, 10.0, spaced=spaced)
    said = "".join(text for text, _, _ in raw)
    assert [letter for word in words for letter in word.text if letter.isalpha()] == [
        letter for letter in said if letter.isalpha()
    ]
    floor = 0.0
    for word in words:
        assert floor <= word.start_s <= word.end_s <= 10.0
        floor = word.start_s
