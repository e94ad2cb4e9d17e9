"""Texts that are dropped, and texts that are only flagged."""

import pytest

from schemas.segments import Word
from stages.transcribe.engine.protocol import Transcription
from stages.transcribe.guards import Verdict, judge, repeats, too_short


def verdict(
    text: str,
    *,
    voiced_s: float = 2.0,
    logprob: float = -0.3,
    no_speech: float = 0.1,
    words: tuple[float, ...] = (0.9, 0.9),
    repeats: bool = False,
    shown: bool = False,
) -> Verdict:
    decoded = Transcription(
        text=text,
        words=[Word(text="word", start_s=0.0, end_s=0.1, probability=probability) for probability in words],
        language="en",
        average_logprob=logprob,
        no_speech_probability=no_speech,
        repeats=repeats,
    )
    return judge(decoded, voiced_s=voiced_s, shown=shown)


def test_speech_that_the_model_is_sure_of_passes_without_flags() -> None:
    assert verdict("I want to pay my bill.") == Verdict(None, [])


def test_less_than_a_fifth_of_a_second_of_speech_is_not_worth_decoding() -> None:
    assert too_short(0.19)
    assert not too_short(0.2)


@pytest.mark.parametrize("text", ["You", "Thanks for watching.", "I want to pay my bill."])
def test_any_text_is_dropped_if_the_model_is_sure_of_no_speech(text: str) -> None:
    assert verdict(text, no_speech=0.8).guard == "no_speech"
    assert verdict(text, no_speech=0.79).guard is None


def test_short_doubtful_text_over_likely_silence_is_dropped() -> None:
    assert verdict("Go on then", voiced_s=0.4, no_speech=0.6, logprob=-0.71).guard == "no_speech"
    assert verdict("Go on then", voiced_s=0.4, no_speech=0.6, logprob=-0.7).guard is None
    assert verdict("Go on then", voiced_s=0.5, no_speech=0.6, logprob=-0.71).guard is None


def test_whispers_own_rule_holds_for_speech_of_any_length() -> None:
    assert verdict("Go on then", voiced_s=5.0, no_speech=0.6, logprob=-1.01).guard == "no_speech"
    assert verdict("Go on then", voiced_s=5.0, no_speech=0.59, logprob=-1.01).guard is None


@pytest.mark.parametrize("text", ["Thank you.", "THANK YOU!", "Okay.", "Bye-bye.", "Beep!", "you"])
def test_a_stock_phrase_is_dropped_only_if_short_and_perhaps_no_speech(text: str) -> None:
    assert verdict(text, voiced_s=0.4, no_speech=0.41).guard == "phrase"
    assert verdict(text, voiced_s=0.4, no_speech=0.4).guard is None
    assert verdict(text, voiced_s=0.6, no_speech=0.41).guard is None


def test_improbable_words_are_dropped_if_there_may_be_no_speech() -> None:
    assert verdict("Okay.", words=(0.14,), no_speech=0.15, voiced_s=0.3).guard == "improbable"
    assert verdict("Okay.", words=(0.15,), no_speech=0.15, voiced_s=0.3).guard is None
    assert verdict("Okay.", words=(0.14,), no_speech=0.14, voiced_s=0.3).guard is None
    assert verdict("Hmm Hmm", words=(0.2, 0.2), no_speech=0.5, voiced_s=0.7).guard == "improbable"
    assert verdict("Hmm Hmm", words=(0.25, 0.25), no_speech=0.5, voiced_s=0.7).guard is None
    assert verdict("Hmm Hmm", words=(0.2, 0.2), no_speech=0.49, voiced_s=0.7).guard is None


def test_few_doubtful_words_in_much_sound_are_dropped() -> None:
    assert verdict("I don't know.", words=(0.3, 0.4, 0.3), voiced_s=1.5, no_speech=0.2).guard == "improbable"
    assert verdict("I don't know.", words=(0.3, 0.4, 0.3), voiced_s=1.5, no_speech=0.19).guard is None
    assert verdict("I don't know.", words=(0.3, 0.4, 0.3), voiced_s=1.4, no_speech=0.2).guard is None
    assert verdict("I don't know.", words=(0.4, 0.4, 0.4), voiced_s=1.5, no_speech=0.2).guard is None


def test_text_without_timed_words_is_not_judged_by_their_probability() -> None:
    assert verdict("Okay.", words=(), no_speech=0.5).guard is None


def test_nothing_but_punctuation_is_no_text() -> None:
    assert verdict("...").guard == "no_words"
    assert verdict("") == Verdict(None, [])


def test_doubts_are_flagged_and_the_text_is_kept() -> None:
    assert verdict("Qi.", logprob=-1.01) == Verdict(None, ["low_probability"])
    assert verdict("Qi.", words=(0.2, 0.4)) == Verdict(None, ["low_probability"])
    assert verdict("no no no no", repeats=True) == Verdict(None, ["repeat"])


def test_text_that_viewers_were_shown_is_flagged_in_place_of_being_dropped() -> None:
    assert verdict("Thank you.", no_speech=0.9, shown=True) == Verdict(None, ["no_speech"])
    assert verdict("Qi.", logprob=-1.01, shown=True) == Verdict(None, ["low_probability"])


def test_a_row_that_the_engine_could_not_decode_has_no_text() -> None:
    failed = Transcription.failed("en", "no memory")
    assert judge(failed, voiced_s=2.0) == Verdict("error", [])
    assert judge(failed, voiced_s=2.0, shown=True) == Verdict(None, ["error"])


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", False),
        ("No, no, no.", False),
        ("I said that that was it.", False),
        ("No no no no no.", True),
        ("I will call you, I will call you.", True),
        ("bye bye bye bye bye bye bye bye bye bye bye bye bye bye bye bye", True),
        ("ha" * 60, True),
        ("Thank you for calling, how can I help you today? I want to pay my bill.", False),
    ],
)
def test_a_decoder_that_loops_is_noticed(text: str, loops: bool) -> None:
    assert repeats(text) is loops
