import numpy as np
import pytest

from benchmarks.heard.coverage import Coverage, Heard, coverage, total
from benchmarks.heard.references import Leg, of_stm, speech_of, spread, within
from benchmarks.speech.telephone import RATE_HZ

LEG = Leg(text="one two three", words=[(1.0, 1.4), (3.0, 3.4), (8.0, 8.4)], speech=[(1.0, 1.4), (3.0, 3.4), (8.0, 8.4)])


def test_speech_counts_as_lost_where_no_utterance_and_no_word_is() -> None:
    found = coverage(LEG, Heard(text="one two", utterances=[(0.8, 3.5)], words=[("w", 1.0, 1.4)]), 10.0)
    assert found.speech_s == pytest.approx(1.2)
    assert found.outside_utterances_s == pytest.approx(0.4)
    assert found.outside_words_s == pytest.approx(0.8)
    assert (found.words_outside_utterances, found.words_without) == (1, 2)


def test_a_word_near_its_place_is_no_loss() -> None:
    found = coverage(LEG, Heard(text="", words=[("w", 1.5, 1.6), ("w", 3.0, 3.2), ("w", 7.6, 8.0)]), 10.0)
    assert found.words_without == 0
    assert found.outside_words_s == pytest.approx(0.3)


def test_words_in_an_unheard_span_are_told_from_lost_ones() -> None:
    heard = Heard(text="one", words=[("w", 1.0, 1.4)], unheard=[(2.9, 3.5), (5.0, 6.0)])
    found = coverage(LEG, heard, 10.0)
    assert (found.words_without, found.words_unheard) == (2, 1)
    assert found.silent_unheard_s == pytest.approx(1.0)
    assert found.described()["percent"]["words_in_neither"] == pytest.approx(33.333)


def test_what_a_transcriber_does_not_say_is_not_counted() -> None:
    found = total([coverage(LEG, Heard(text="one"), 10.0), Coverage(outside_words_s=1.0, words=2)])
    assert found.outside_words_s is None
    assert found.words == 5
    assert found.described()["percent"]["speech_outside_words"] is None


def test_speech_is_what_is_loud_on_a_dry_leg() -> None:
    rng = np.random.default_rng(1)
    samples = np.round(rng.standard_normal(4 * RATE_HZ) * 3).astype(np.int16)
    samples[RATE_HZ : 2 * RATE_HZ] = np.round(3000 * rng.standard_normal(RATE_HZ)).astype(np.int16)
    assert speech_of(samples) == [(1.0, 2.0)]
    assert speech_of(np.zeros(RATE_HZ, np.int16)) == []


def test_words_without_times_are_spread_over_the_sound_of_their_line() -> None:
    spans = within([(0.0, 1.0), (2.0, 3.0), (9.0, 10.0)], (0.5, 4.0))
    assert spans == [(0.5, 1.0), (2.0, 3.0)]
    assert spread(["a", "bbb"], spans) == [(0.5, 1.0), (2.0, 3.0)]


def test_an_stm_line_names_speaker_times_and_text() -> None:
    stm = ";; remark\ncall 1 A 6.68 7.16 Hello?\ncall 1 B 7.6 8.1 <o,f0,female> Oh, hello.\n"
    assert of_stm(stm) == [("A", (6.68, 7.16), "Hello?"), ("B", (7.6, 8.1), "Oh, hello.")]
