"""Which of several wordings of a call is that of an utterance."""

from hypothesis import given
from hypothesis import strategies as st

from stages.transcribe.decoding_context import MAX_HEARINGS, Hearing, followed, in_force, needed

moments = st.lists(st.floats(0, 100), max_size=6).map(lambda times: [Hearing(), *map(Hearing, sorted(times))])


def test_speech_is_heard_as_was_said_last_before_it_began() -> None:
    hearings = [Hearing(), Hearing(5.0), Hearing(9.0)]
    assert [in_force(hearings, begin_s) for begin_s in (0.0, 4.9, 5.0, 8.0, 9.0, 100.0)] == [0, 0, 1, 1, 2, 2]


def test_of_two_changes_without_audio_between_them_the_later_one_counts() -> None:
    assert in_force([Hearing(), Hearing(5.0), Hearing(5.0)], 6.0) == 2


@given(moments, st.lists(st.floats(0, 100), min_size=1, max_size=3), st.floats(0, 100))
def test_what_is_forgotten_concerns_nothing_that_can_still_come(
    hearings: list[Hearing], heard_to_s: list[float], more_s: float
) -> None:
    kept = needed(hearings, heard_to_s)
    begin_s = min(heard_to_s) + more_s
    assert kept[in_force(kept, begin_s)] == hearings[in_force(hearings, begin_s)]
    assert kept[-1] == hearings[-1]


def test_only_so_many_are_kept() -> None:
    hearings = [Hearing()]
    for second in range(1, 100):
        hearings = followed(hearings, Hearing(float(second)))
    assert [hearing.from_s for hearing in hearings] == [float(second) for second in range(100 - MAX_HEARINGS, 100)]
