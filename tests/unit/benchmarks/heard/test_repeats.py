import numpy as np
import pytest

from benchmarks.heard.lines import Line, Placed
from benchmarks.heard.repeats import Count, by_clip, counted, is_doubled


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("four", "4 4"),
        ("four", "44."),
        ("four", "For. For."),
        ("Bravo", "Bravo, bravo, bravo!"),
        ("auth thank you", "Thank you. Thank you."),
        ("dix-sept", "17, 17"),
        ("press", "Press press."),
        ("два", "22"),
    ],
)
def test_the_same_thing_twice_is_doubled(said: str, written: str) -> None:
    assert is_doubled(said, written)


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("four", "4"),
        ("eleven", "11"),
        ("four", ""),
        ("Bravo", "Bravo!"),
        ("bye bye", "Bye-bye."),
        ("double u", "W."),
        ("call waiting", "Call waiting."),
        ("double u double u", "Double u double u"),
    ],
)
def test_once_is_not_doubled(said: str, written: str) -> None:
    assert not is_doubled(said, written)


CLIPS = [Placed(clip_id=f"en/{n}", text=text, start_s=1.0 + n, end_s=1.4 + n) for n, text in enumerate(["one", "two"])]


def test_words_belong_to_the_clip_at_their_time() -> None:
    words = [("one", 0.9, 1.3), ("won", 1.3, 1.8), ("two", 2.1, 2.4), ("too", 5.0, 5.2)]
    assert by_clip(CLIPS, words) == [["one", "won"], ["two", "too"]]


def test_a_number_over_several_clips_is_divided() -> None:
    assert by_clip(CLIPS, [("12.", 1.0, 2.4)]) == [["1"], ["2"]]
    assert by_clip(CLIPS, [("A-B", 1.0, 2.4)]) == [["A"], ["B"]]
    assert by_clip(CLIPS, [("11", 1.0, 1.4)]) == [["11"], []]


def test_clips_are_counted_as_doubled_and_as_lost() -> None:
    line = Line(name="l", language="en", samples=np.zeros(0, np.int16), clips=CLIPS)
    count = counted(line, [("1", 1.0, 1.2), ("1", 1.2, 1.4)]) + Count()
    assert (count.clips, count.doubled, count.lost) == (2, 1, 1)
    assert count.lost_texts == ["en/1: two"]
    assert count.doubled_texts == ["en/0: 1 1"]
