from hypothesis import given
from hypothesis import strategies as st

from stages.separate.endpointing import Boundary, Endpointer, EndpointerState, EndpointingSettings

FRAME_S = 0.032


def frames(*stretches: tuple[float, float]) -> list[float]:
    """Return the probabilities of consecutive stretches, each (seconds, probability)."""
    return [probability for seconds, probability in stretches for _ in range(round(seconds / FRAME_S))]


def cut(probabilities: list[float], *, flush: bool = True, hard_search_s: float = 5.0) -> list[Boundary]:
    endpointer = Endpointer(EndpointingSettings(hard_search_s=hard_search_s))
    found = [endpointer.push(probability) for probability in probabilities]
    if flush:
        found.append(endpointer.flush())
    return [boundary for boundary in found if boundary is not None]


def test_a_pause_of_the_hang_ends_an_utterance_with_context_on_both_sides() -> None:
    (only,) = cut(frames((1.0, 0.0), (1.6, 0.9), (1.0, 0.0)))
    assert only.cut == "pause"
    assert only.start == 31 - 9
    assert only.end == 31 + 50 + 9
    assert only.voiced == [(31, 31 + 50 - 1)]


def test_a_shorter_pause_does_not() -> None:
    (only,) = cut(frames((1.0, 0.0), (1.0, 0.9), (0.4, 0.0), (1.0, 0.9), (1.0, 0.0)))
    assert len(only.voiced) == 2


def test_a_dip_is_bridged_and_hysteresis_keeps_weak_speech() -> None:
    (only,) = cut(frames((1.0, 0.0), (0.6, 0.9), (0.1, 0.1), (0.5, 0.9), (1.0, 0.4), (1.0, 0.0)))
    assert len(only.voiced) == 1
    assert (only.voiced[0][1] - only.voiced[0][0]) * FRAME_S > 2.0


def test_weak_sound_alone_never_begins_an_utterance() -> None:
    assert cut(frames((5.0, 0.45))) == []


def test_a_click_is_no_utterance_and_stays_context_of_the_next() -> None:
    assert cut(frames((1.0, 0.0), (0.1, 0.9), (2.0, 0.0))) == []
    (only,) = cut(frames((1.0, 0.0), (0.1, 0.9), (0.5, 0.0), (1.0, 0.9), (1.0, 0.0)))
    assert only.start * FRAME_S < 1.0


def test_long_speech_is_cut_at_a_short_pause_after_eight_seconds() -> None:
    first, second = cut(frames((0.5, 0.0), (8.5, 0.9), (0.35, 0.0), (2.0, 0.9), (1.0, 0.0)))
    assert (first.cut, second.cut) == ("soft", "pause")
    assert first.end <= second.start <= first.end + 2
    assert 9.0 <= first.end * FRAME_S <= 9.3


def test_speech_without_a_pause_is_cut_where_it_is_weakest() -> None:
    speech = frames((0.5, 0.0), (15.0, 0.95), (1.0, 0.0))
    weakest = round(11.0 / FRAME_S)
    speech[weakest] = 0.5
    first, second = cut(speech)
    assert (first.cut, second.cut) == ("hard", "pause")
    assert first.end == second.start == weakest
    assert first.voiced[-1][1] == second.voiced[0][0] == weakest


def test_where_all_is_speech_it_is_cut_where_it_is_quietest() -> None:
    endpointer = Endpointer(EndpointingSettings())
    quiet = round(11.0 / FRAME_S)
    found = [endpointer.push(0.95, 100.0 if index in (quiet, quiet + 1) else 1e6) for index in range(460)]
    (first,) = [boundary for boundary in found if boundary is not None]
    assert (first.cut, first.end) == ("hard", quiet + 1)


def test_a_hard_cut_keeps_context_and_marks_the_utterance_after_it() -> None:
    speech = frames((0.5, 0.0), (17.0, 0.95), (1.0, 0.0))
    speech[round(14.0 / FRAME_S)] = 0.5  # too near to where it is cut
    endpointer = Endpointer(EndpointingSettings())
    found = [boundary for probability in speech if (boundary := endpointer.push(probability))]
    assert [boundary.continued for boundary in found] == [False, True]
    assert found[0].end <= found[0].start + round(14.0 / FRAME_S) - endpointer.context


def test_a_short_rest_after_a_hard_cut_is_not_lost() -> None:
    speech = [*[0.0] * 16, *[0.95] * 431, *[0.0] * 30]
    speech[442] = 0.4
    found = cut(speech, hard_search_s=0.2)
    assert found[0].end == 442
    assert [boundary.cut for boundary in found] == ["hard", "pause"]
    assert 0 < found[1].voiced[0][1] - found[1].voiced[0][0] < 6


def test_the_end_of_the_call_ends_an_open_utterance() -> None:
    (only,) = cut(frames((1.0, 0.0), (2.0, 0.9)))
    assert only.cut == "end"
    assert only.end == 31 + 62


probabilities = st.lists(
    st.tuples(st.integers(1, 200), st.sampled_from([0.0, 0.1, 0.4, 0.6, 0.95])), min_size=1, max_size=25
).map(lambda runs: [probability for n, probability in runs for _ in range(n)])


@given(probabilities)
def test_utterances_never_overlap_and_voiced_stretches_lie_inside(speech: list[float]) -> None:
    endpointer = Endpointer(EndpointingSettings())
    floor, heard_to = 0, 0
    for probability in [*speech, None]:
        boundary = endpointer.flush() if probability is None else endpointer.push(probability)
        if boundary is not None:
            assert floor <= boundary.start < boundary.end <= endpointer.state.frame
            assert boundary.start >= heard_to
            assert (boundary.end - boundary.start) * FRAME_S <= 14.1
            edges = [edge for stretch in boundary.voiced for edge in stretch]
            assert edges == sorted(edges)
            assert edges
            assert boundary.start <= edges[0]
            assert edges[-1] <= boundary.end
            floor = boundary.end
        assert heard_to <= endpointer.heard_to
        heard_to = endpointer.heard_to


@given(probabilities, st.integers(0, 500))
def test_a_copied_state_continues_identically(speech: list[float], at: int) -> None:
    first = Endpointer(EndpointingSettings())
    for probability in speech[:at]:
        first.push(probability)
    second = Endpointer(EndpointingSettings(), first.state.copy())
    rest = speech[at:]
    assert [first.push(probability) for probability in rest] == [second.push(probability) for probability in rest]
    assert first.flush() == second.flush()


@given(probabilities)
def test_all_speech_that_counts_is_in_some_utterance(speech: list[float]) -> None:
    found = cut(speech)
    covered = {frame for boundary in found for frame in range(boundary.start, boundary.end)}
    for frame, probability in enumerate(speech):
        if probability >= 0.5 and frame not in covered:
            around = speech[max(0, frame - 18) : frame + 18]
            assert sum(near >= 0.5 for near in around) < 13


def test_a_new_endpointer_has_a_state_of_its_own() -> None:
    assert Endpointer(EndpointingSettings()).state is not Endpointer(EndpointingSettings()).state
    assert EndpointerState().runs == []
