"""Text that two hypotheses agree on."""

from hypothesis import given
from hypothesis import strategies as st

from stages.transcribe.agreement import agreed


def test_words_that_both_hypotheses_begin_with_are_agreed_on() -> None:
    assert agreed("", "I paid on time", "I paid on the third", spaced=True) == "I paid on"


def test_the_last_word_of_the_newer_hypothesis_is_held_back() -> None:
    assert agreed("", "I paid on", "I paid on", spaced=True) == "I paid"
    assert agreed("", "I paid on.", "I paid on.", spaced=True) == "I paid"


def test_a_word_that_continues_in_one_hypothesis_is_not_agreed_on() -> None:
    assert agreed("", "we work", "we working on it", spaced=True) == "we"
    assert agreed("", "I don't know", "I don know that", spaced=True) == "I"
    assert agreed("", "it was 3.5 per", "it was 3. Then", spaced=True) == "it was"
    assert agreed("", "a well-known man", "a well known man", spaced=True) == "a"


def test_a_word_is_agreed_on_if_only_its_punctuation_differs() -> None:
    assert agreed("", "Hello Sarah.", "Hello Sarah, my last", spaced=True) == "Hello Sarah"
    assert agreed("Hello Sarah", "Hello Sarah, my last", "Hello Sarah, my bill is", spaced=True) == "Hello Sarah, my"


def test_committed_text_stays_though_nothing_agrees() -> None:
    assert agreed("I paid", "I paid on", "I paid in time", spaced=True) == "I paid"
    assert agreed("I paid", "You said", "I paid in time", spaced=True) == "I paid"


def test_text_without_spaces_is_agreed_on_by_characters() -> None:
    assert agreed("", "今日は天気が", "今日は天気がいい", spaced=False) == "今日は天気が"
    assert agreed("", "今日は天気がいい", "今日は天気がいい", spaced=False) == "今日は天気が"
    assert agreed("今日は天", "今日は天", "今日は天", spaced=False) == "今日は天"


TEXTS = st.text(alphabet="ab ,.'3", max_size=12).map(lambda text: " ".join(text.split()))


@given(rests=st.lists(TEXTS, min_size=2, max_size=8), final=TEXTS, spaced=st.booleans())
def test_committed_text_only_grows_and_begins_every_later_text(rests: list[str], final: str, spaced: bool) -> None:
    """Each hypothesis is, as an engine gives it, the committed text followed by a guess at the rest."""
    committed, older, shown = "", None, []
    for rest in rests:
        newer = (committed + rest).strip()
        if older is not None:
            grown = agreed(committed, older, newer, spaced=spaced)
            assert grown.startswith(committed)
            assert newer.startswith(grown)
            assert grown == committed or older.startswith(grown)
            if spaced and grown != committed:
                assert newer[len(grown) :].split() != []
            committed = grown
        shown.append(committed)
        older = newer
    assert all((committed + final).startswith(text) for text in shown)
