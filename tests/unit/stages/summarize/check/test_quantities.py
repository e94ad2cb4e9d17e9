"""Numbers in claims and turns, in digits and in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.summarize.check.quantities import Quantities


def missing(claim: str, said: str) -> list[str]:
    return Quantities(claim).missing_from(Quantities(said))


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("$142.50", "one hundred forty two dollars and fifty cents"),
        ("142 dollars and 50 cents", "$142.50"),
        ("one hundred and twenty-two dollars", "$122.00"),
        ("3200 dollars", "about three thousand and two hundred"),
        ("$1.5 million", "one point five million"),
        ("September 3rd", "the third of September"),
        ("on 3 September", "September the third"),
        ("August 15, 1953", "the fifteenth of August, nineteen fifty three"),
        ("account 4719 2603", "four seven one nine, two six zero three"),
        ("8583909228", "858-390-9228"),
        ("(858) 390-9228", "eight five eight, three nine oh, nine two two eight"),
        ("the card ending in 228", "8583909228"),
        ("7755", "double seven double five"),
        ("EN 00705", "E N, and then zero zero seven zero five"),
        ("a quarter past five", "5:15"),
        ("7:30", "half past seven"),
        ("5:45", "a quarter to six"),
        ("15:45", "three forty five"),
        ("at 2", "at two o'clock"),
        ("6 pm", "18:00"),
        ("8.7%", "eight point seven percent"),
        ("a four-minute wait", "for 4 minutes"),
        ("12 years", "a dozen years"),
        ("raised for 1 week", "for a week"),
        ("at 12", "by noon"),
        ("the second one", "both of them"),
    ],
)
def test_a_number_is_the_same_however_it_is_written(claim: str, said: str) -> None:
    assert missing(claim, said) == []


@pytest.mark.parametrize(
    ("claim", "said", "what"),
    [
        ("$124.50", "one hundred forty two dollars and fifty cents", ["124.5"]),
        ("$102", "one hundred and twenty two dollars", ["102"]),
        ("the 13th of September", "the third of September", ["13"]),
        ("on May 2", "on March the second", ["may"]),
        ("by Friday", "before Monday", ["friday"]),
        ("1489 7017", "one four eight nine, seven zero seven one", ["7017"]),
        ("33-90-17", "339071", ["33", "90", "17"]),
        ("three children", "nine adults and two children", ["3"]),
        ("$20,000", "$2,000", ["20000"]),
        ("5:50", "5:15", ["550"]),
        ("four letters", "my number is four seven one nine", ["4"]),
        ("in March 5 people came", "in April 5 people came", ["march"]),
    ],
)
def test_another_number_or_day_is_missing(claim: str, said: str, what: list[str]) -> None:
    assert missing(claim, said) == what


def test_may_and_march_are_months_only_next_to_a_day_or_preposition() -> None:
    assert Quantities("You may march in").dates == set()
    assert Quantities("on the 3rd of May, since March").dates == {"may", "march"}


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_is_said_holds_its_own_numbers_and_those_beside_it(said: str, more: str) -> None:
    assert missing(said, f"{said} ! {more}") == []


_SPOKEN = """one two twenty hundred thousand million and point dollars cents half past quarter to the third of May oh
double triple 5:15 25:99 $1,234.50 1,23 0007 99999999999999999999 ² ٣ ½ 3rd dozen , . - it"""


@settings(max_examples=500)
@given(st.lists(st.sampled_from(_SPOKEN.split()), max_size=12))
def test_no_words_for_numbers_are_too_much(said: list[str]) -> None:
    assert missing(" ".join(said), " ".join(said)) == []


@given(st.integers(min_value=0, max_value=10**9))
def test_figures_with_and_without_commas_are_the_same(number: int) -> None:
    assert missing(f"{number:,}", f"exactly {number} dollars") == []
    assert missing(f"{number + 1:,}", f"exactly {number} dollars") in ([str(number + 1)], [])[: 1 if number else 2]


def test_a_long_row_of_digits_takes_bounded_work() -> None:
    assert missing("9 9 9 8", "7 " * 20_000) == ["9", "9", "9", "8"]
