import pytest

from benchmarks.speech.scoring import Errors, difference, errors, places


def test_how_a_number_is_written_is_no_error() -> None:
    said = "It is four seven one nine, on the third of March."
    assert errors(said, "it's 4719 on the 3rd of march").all == 0


def test_each_kind_of_error_is_counted() -> None:
    found = errors("please send the new card to my home", "please send a new card to my my house now")
    assert (found.words, found.substituted, found.deleted, found.inserted) == (8, 2, 0, 2)


def test_nothing_written_is_all_deleted() -> None:
    assert errors("good morning", "") == Errors(2, 0, 2, 0)


def test_places_show_what_was_said_and_what_was_written() -> None:
    assert places("the bill is too high", "the pill is too high") == ["… the [bill: pill]"]


def test_a_constant_difference_has_no_spread() -> None:
    theirs = [Errors(100, 2, 0, 0)] * 12
    ours = [Errors(100, 3, 0, 0)] * 12
    assert difference(ours, theirs) == {"points": 1.0, "low": 1.0, "high": 1.0}


def test_a_difference_in_one_call_alone_is_not_sure() -> None:
    theirs = [Errors(100, 2, 0, 0)] * 12
    ours = [Errors(100, 14, 0, 0), *theirs[1:]]
    found = difference(ours, theirs)
    assert found["points"] == pytest.approx(1.0)
    assert found["low"] == 0.0
    assert found["high"] > 2.0
