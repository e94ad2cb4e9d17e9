"""The vote on a call's language."""

from hypothesis import given
from hypothesis import strategies as st

from stages.transcribe.language import LONG_VOICED_S, LanguageVote, language_code


def vote(*utterances: tuple[dict[str, float], float]) -> LanguageVote:
    result = LanguageVote()
    for detected, voiced_s in utterances:
        result = result.counting(detected, voiced_s)
    return result


def test_the_default_holds_until_a_language_leads() -> None:
    assert vote().language("en") == "en"
    assert vote(({"de": 0.6, "nl": 0.3}, 1.0)).language("en") == "en"
    assert vote(({"de": 0.8, "nl": 0.1}, 1.0)).language("en") == "de"


def test_short_clips_never_lock_the_language() -> None:
    assert vote(({"cy": 0.99}, 0.6)).locked is None
    assert vote(({"cy": 0.99}, 0.6), ({"cy": 0.99}, 0.6)).locked is None


def test_two_sure_utterances_lock_the_language() -> None:
    assert vote(({"de": 0.9}, 2.0)).locked is None
    assert vote(({"de": 0.9}, 2.0), ({"de": 0.9}, 2.0)).locked == "de"


def test_eight_seconds_with_a_clear_leader_lock_the_language() -> None:
    assert vote(({"de": 0.9}, 7.9)).locked is None
    assert vote(({"de": 0.9}, 8.0)).locked == "de"
    assert vote(({"de": 0.5, "nl": 0.4}, 8.0)).locked is None


def test_a_long_unsure_call_keeps_its_leader() -> None:
    assert vote(({"de": 0.4, "nl": 0.35}, LONG_VOICED_S)).locked == "de"


def test_a_short_clip_in_another_language_does_not_outweigh_a_long_one() -> None:
    assert vote(({"en": 0.9}, 4.0), ({"cy": 0.95}, 0.5)).language("xx") == "en"


def test_a_locked_language_does_not_change() -> None:
    assert LanguageVote("de").counting({"en": 1.0}, 60.0) == LanguageVote("de")


def test_language_names_are_accepted_in_their_usual_spellings() -> None:
    known = frozenset({"en", "pt", "yue"})
    assert language_code("en-US", known) == "en"
    assert language_code("pt_BR", known) == "pt"
    assert language_code(" YUE ", known) == "yue"
    assert language_code("tlh", known) is None
    assert language_code(None, known) is None


utterance = st.tuples(
    st.dictionaries(st.sampled_from(["en", "de", "nl", "cy"]), st.floats(0.0, 1.0), min_size=1), st.floats(0.2, 14.0)
)


@given(st.lists(utterance, max_size=20))
def test_the_vote_stays_small_and_locks_within_half_a_minute(
    utterances: list[tuple[dict[str, float], float]],
) -> None:
    result = vote(*utterances)
    total_s = sum(voiced_s for _, voiced_s in utterances)
    assert result.locked is not None or total_s < LONG_VOICED_S + 1e-6
    assert len(result.votes) <= 4
    assert result.locked is None or result.votes == {}
