"""Words and stems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.summarize.check.words import content_stems, stem, words


@pytest.mark.parametrize(
    "forms",
    [
        "remove removes removed removing", "cancel cancels cancelled cancelling canceled", "call calls called calling",
        "pay pays paid paying", "send sends sent sending", "offer offers offered offering", "try tries tried",
        "agree agrees agreed", "stop stops stopped stopping", "forget forgot forgotten", "apply applied applies",
        "say says said", "miss missed missing", "log logged logging",
    ],
)  # fmt: skip
def test_forms_of_a_verb_share_a_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


def test_contractions_are_taken_apart() -> None:
    assert words("I can't, won't and don't; it's the customer’s, we'll see") == (
        ["i", "can", "not", "will", "not", "and", "do", "not", "it", "the", "customer", "we", "will", "see"]
    )


def test_function_words_and_figures_carry_no_content() -> None:
    assert content_stems("The customer will have paid the 12 bills for the bill") == [stem("pay"), stem("bill")]


@given(st.text(max_size=60))
def test_any_text_has_words(text: str) -> None:
    assert all(words(text))
    assert content_stems(text) == content_stems(text)
