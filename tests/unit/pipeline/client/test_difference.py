"""What differs between two texts, word by word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.difference import Counts, WordRun, by_lines, counted, shown, word_difference

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12).map(" ".join)


def test_runs_of_words_are_equal_removed_added_or_changed() -> None:
    steps = word_difference("The fee is twelve dollars, thank you", "the fee is $12. Thank you very much")
    assert steps == [
        WordRun("equal", ["The", "fee", "is"], ["the", "fee", "is"]),
        WordRun("changed", ["twelve", "dollars,"], ["$12."]),
        WordRun("equal", ["thank", "you"], ["Thank", "you"]),
        WordRun("added", [], ["very", "much"]),
    ]
    assert counted(steps) == Counts(equal=5, changed=1, removed=1, added=2)
    assert shown(steps).plain == "the fee is [-twelve dollars,-]{+$12.+} Thank you {+very much+}"


@pytest.mark.parametrize(
    ("old", "new", "share"), [("", "", 0), ("a b", "A b.", 0), ("a", "b c", 1), ("a b", "a c", 0.5)]
)
def test_the_share_that_differs_is_of_all_that_there_is(old: str, new: str, share: float) -> None:
    assert counted(word_difference(old, new)).share == share


@given(WORDS, WORDS)
def test_a_difference_holds_both_texts(old: str, new: str) -> None:
    steps = word_difference(old, new)
    assert [word for step in steps for word in step.old] == old.split()
    assert [word for step in steps for word in step.new] == new.split()
    counts = counted(steps)
    assert counts.equal + counts.changed + counts.removed == len(old.split())
    assert counts.equal + counts.changed + counts.added == len(new.split())
    assert (counts.share == 0) == (old.split() == new.split())


def test_a_difference_falls_into_the_lines_of_the_first_text() -> None:
    steps = word_difference("one two three four five", "zero one two tree for and five six")
    lines = by_lines(steps, [3, 1, 1])
    assert [shown(line).plain for line in lines] == [
        "{+zero+} one two [-three-]{+tree for and+}",
        "[-four-]",
        "five {+six+}",
    ]


@given(st.lists(WORDS.filter(bool), min_size=1, max_size=5), WORDS)
def test_no_word_is_lost_between_lines(old: list[str], new: str) -> None:
    lines = by_lines(word_difference(" ".join(old), new), [len(line.split()) for line in old])
    assert [[word for step in line for word in step.old] for line in lines] == [line.split() for line in old]
    assert [word for line in lines for step in line for word in step.new] == new.split()
