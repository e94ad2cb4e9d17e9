"""Metrics on timelines with results known by hand, and invariants on any timeline."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.transcripts import CallMetrics
from schemas.utterances import Channel
from stages.merge.metrics import Span, bridged, call_metrics


def measured(duration_s: float, *voiced: list[Span], words: list[int] | None = None) -> CallMetrics:
    channels = [Channel(index, f"role-{index}") for index in range(len(voiced))]
    counts = words or [0] * len(voiced)
    return call_metrics(duration_s=duration_s, channels=channels, voiced=voiced, turns=counts, words=counts)


@st.composite
def timelines(draw: st.DrawFn) -> list[Span]:
    """Stretches of speech on a grid of 50 ms within a call of 30 s; neighbours may touch or overlap."""
    starts = draw(st.lists(st.tuples(st.integers(0, 590), st.integers(1, 120)), max_size=8))
    return [(start / 20, min(start + length, 600) / 20) for start, length in starts]


def test_talk_silence_and_overlap_of_a_simple_conversation() -> None:
    metrics = measured(20.0, [(1.0, 5.0), (10.0, 12.0)], [(4.0, 8.0)])
    assert [channel.talk_s for channel in metrics.channels] == [6.0, 4.0]
    assert [channel.talk_ratio for channel in metrics.channels] == [0.6, 0.4]
    assert (metrics.speech_s, metrics.silence_s, metrics.overlap_s) == (9.0, 11.0, 1.0)
    assert metrics.longest_silence_s == 8.0


def test_pauses_of_a_fifth_of_a_second_are_speech_and_longer_ones_are_not() -> None:
    assert measured(10.0, [(0.0, 1.0), (1.2, 2.0)]).speech_s == 2.0
    assert measured(10.0, [(0.0, 1.0), (1.25, 2.0)]).speech_s == pytest.approx(1.75)


def test_speech_beyond_the_call_is_cut_off() -> None:
    metrics = measured(5.0, [(-1.0, 1.0), (4.0, 9.0)])
    assert (metrics.channels[0].talk_s, metrics.silence_s) == (2.0, 3.0)


def test_barging_in_is_an_interruption_by_the_channel_that_barges_in() -> None:
    metrics = measured(20.0, [(0.0, 6.0)], [(3.0, 7.0)])
    assert [channel.interruptions for channel in metrics.channels] == [0, 1]
    assert metrics.interruptions == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((3.0, 3.9), id="a backchannel"),
        pytest.param((5.7, 8.0), id="a close change of turns"),
        pytest.param((0.3, 4.0), id="starting almost together"),
        pytest.param((6.0, 9.0), id="starting as the other ends"),
    ],
)
def test_a_start_that_is_no_interruption(other: Span) -> None:
    assert measured(20.0, [(0.0, 6.0)], [other]).interruptions == 0


def test_an_interruption_with_pauses_in_it_counts_once() -> None:
    assert measured(20.0, [(0.0, 9.0)], [(3.0, 4.0), (4.5, 5.5), (6.0, 7.0)]).interruptions == 1


def test_two_channels_interrupted_at_once_are_one_interruption() -> None:
    assert measured(20.0, [(0.0, 9.0)], [(0.0, 9.0)], [(3.0, 6.0)]).interruptions == 1


def test_response_latency_is_the_median_gap_after_another_channel() -> None:
    metrics = measured(40.0, [(0.0, 2.0), (5.0, 6.0), (9.0, 10.0)], [(2.5, 4.0), (7.0, 8.0), (14.0, 15.0)])
    agent, customer = metrics.channels
    assert (agent.response_latency_s, agent.responses) == (1.0, 2)
    assert (customer.response_latency_s, customer.responses) == (1.0, 3)


def test_continuing_after_a_pause_or_starting_in_an_overlap_is_no_response() -> None:
    metrics = measured(40.0, [(0.0, 2.0), (4.0, 6.0)], [(5.0, 8.0)])
    assert [channel.responses for channel in metrics.channels] == [0, 0]
    assert metrics.channels[0].response_latency_s is None


def test_a_monologue_survives_backchannels_and_ends_with_an_answer() -> None:
    metrics = measured(60.0, [(0.0, 5.0), (6.5, 12.0), (13.0, 15.0)], [(4.0, 4.5), (12.2, 13.5)])
    assert metrics.channels[0].longest_monologue_s == 12.0


def test_a_monologue_is_cut_where_another_speaks_over_it() -> None:
    metrics = measured(60.0, [(0.0, 20.0)], [(8.0, 10.0)])
    assert metrics.channels[0].longest_monologue_s == 10.0
    assert metrics.channels[1].longest_monologue_s == 0.0


def test_words_per_minute_are_over_talk_time() -> None:
    metrics = measured(60.0, [(0.0, 30.0)], [], words=[70, 0])
    assert [channel.words_per_minute for channel in metrics.channels] == [140.0, 0.0]


def test_a_call_in_which_nobody_speaks_is_silent_throughout() -> None:
    metrics = measured(30.0, [], [])
    assert (metrics.silence_s, metrics.longest_silence_s, metrics.speech_s) == (30.0, 30.0, 0.0)
    assert [channel.talk_ratio for channel in metrics.channels] == [0.0, 0.0]


def test_a_call_of_no_length_has_no_silence() -> None:
    metrics = measured(0.0, [])
    assert (metrics.silence_s, metrics.longest_silence_s) == (0.0, 0.0)


@given(timelines(), timelines())
def test_with_two_channels_talk_less_overlap_and_silence_make_up_the_call(
    first: list[Span], second: list[Span]
) -> None:
    metrics = measured(30.0, first, second)
    talk_s = sum(channel.talk_s for channel in metrics.channels)
    assert math.isclose(talk_s - metrics.overlap_s + metrics.silence_s, 30.0, abs_tol=1e-9)
    assert math.isclose(metrics.speech_s + metrics.silence_s, 30.0, abs_tol=1e-9)


@given(st.lists(timelines(), min_size=1, max_size=3))
def test_every_figure_agrees_with_counting_grid_cells(voiced: list[list[Span]]) -> None:
    metrics = measured(30.0, *voiced)
    spurts = [bridged(spans, 0.2) for spans in voiced]
    speaking = [
        sum(any(start_s <= cell / 20 + 0.025 <= end_s for start_s, end_s in spans) for spans in spurts)
        for cell in range(600)
    ]
    runs = "".join("." if count == 0 else "x" for count in speaking).split("x")
    assert metrics.silence_s == pytest.approx(speaking.count(0) / 20)
    assert metrics.overlap_s == pytest.approx(sum(count >= 2 for count in speaking) / 20)
    assert metrics.longest_silence_s == pytest.approx(max(map(len, runs)) / 20)


@given(st.lists(timelines(), min_size=2, max_size=3))
def test_figures_stay_within_their_bounds(voiced: list[list[Span]]) -> None:
    metrics = measured(30.0, *voiced)
    for channel in metrics.channels:
        assert channel.longest_monologue_s <= 30.0 + 1e-9
        assert 0.0 <= channel.talk_ratio <= 1.0 + 1e-9
        assert (channel.response_latency_s is None) == (channel.responses == 0)
        assert channel.response_latency_s is None or 0.0 <= channel.response_latency_s <= metrics.longest_silence_s
    assert metrics.overlap_s <= metrics.speech_s + 1e-9
