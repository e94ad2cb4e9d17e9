import pytest

from benchmarks.live.figures import first_shown, flipped, latencies, quantiles
from benchmarks.live.traffic import LiveCall, SeenPartial, SeenSegment, Sightings
from schemas.calls import CallRef
from schemas.segments import Segment, Word


def segment(*texts: str, segment_id: str = "u") -> Segment:
    """A word each half second from 1 s on, each 0.4 s long."""
    words = [
        Word(text=text, start_s=1 + index / 2, end_s=1.4 + index / 2, probability=1.0)
        for index, text in enumerate(texts)
    ]
    return Segment(
        call=CallRef("default", "c"),
        seq=1,
        segment_id=segment_id,
        channel=0,
        start_s=0.7,
        end_s=2.2,
        text=" ".join(texts),
        words=words,
        voiced=[(1.0, 1.9)],
        language="en",
        model="base",
        word_source="attention",
        probability=1.0,
        no_speech_probability=0.0,
    )


def test_a_word_is_shown_when_it_first_stands_in_its_place() -> None:
    answer = SeenSegment(110.0, segment("Good", "morning."))
    partials = [
        SeenPartial(102.0, "", "good"),
        SeenPartial(103.0, "Good", "evening"),
        SeenPartial(104.0, "Good", "morning"),
    ]
    assert first_shown(answer, partials, began_s=100.0) == pytest.approx([0.6, 2.1])


def test_a_word_that_no_partial_showed_is_shown_by_the_final() -> None:
    answer = SeenSegment(110.0, segment("Good", "morning."))
    assert first_shown(answer, [], began_s=100.0) == pytest.approx([8.6, 8.1])


def test_text_that_takes_back_committed_words_is_a_flip() -> None:
    assert flipped("Good morning.", [SeenPartial(1.0, "", "Good"), SeenPartial(2.0, "Good", "mourning")]) == 0
    assert flipped("Good evening.", [SeenPartial(2.0, "Good morning", ""), SeenPartial(1.0, "Good", "")]) == 1
    assert flipped("Bad.", [SeenPartial(1.0, "Good", ""), SeenPartial(2.0, "Bad", "")]) == 1


def test_finals_count_from_the_last_voiced_moment_of_a_segment_with_words() -> None:
    sightings = Sightings()
    sightings.segments["c"] = [
        SeenSegment(103.0, segment("Good", "morning.")),
        SeenSegment(104.0, segment(segment_id="e")),
    ]
    sightings.partials["u"] = [SeenPartial(102.0, "Good", ""), SeenPartial(102.9, "Good morning.", "", final=True)]
    found = latencies([LiveCall("c", 100.0, 0.01)], sightings)
    assert found["all_final_s"] == [1.1]
    assert (found["words"], found["committed_early"], found["flips"]) == (2, 0.5, 0)


def test_nothing_has_no_quantiles() -> None:
    assert quantiles([]) is None
    assert quantiles([1.0, 2.0, 3.0]) == {"n": 3, "p50": 2.0, "p95": 2.9, "p99": 2.98}
