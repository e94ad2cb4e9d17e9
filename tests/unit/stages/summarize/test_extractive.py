"""Extractive summaries: sentences of the call."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.summarize.extractive import NO_SPEECH, POINT_SENTENCES, TEXT_SENTENCES, extractive_summary
from tests.unit.stages.summarize.calls import turn, turns


def test_the_most_central_sentences_are_picked_in_the_order_of_the_call() -> None:
    summary = extractive_summary(turns(), language="en")
    lines = summary.text.splitlines()
    spoken = [f"{made.speaker}: {made.text}" for made in turns()]
    assert len(lines) == TEXT_SENTENCES
    assert any("technician" in line for line in lines)
    places = [next(index for index, line in enumerate(spoken) if picked.split(": ")[1] in line) for picked in lines]
    assert places == sorted(places)


def test_key_points_name_the_segments_that_they_were_said_in() -> None:
    summary = extractive_summary(turns(), language="en")
    of_text = {made.text: made.segment_ids for made in turns()}
    assert len(summary.key_points) == POINT_SENTENCES
    for point in summary.key_points:
        sentence = point.text.split(": ", 1)[1]
        assert point.segment_ids == next(ids for text, ids in of_text.items() if sentence in text)


def test_short_sentences_are_left_out_while_there_are_longer_ones() -> None:
    spoken = turns([("agent", "Yes. Yes. Okay."), ("customer", "The parcel never came to my house.")])
    assert extractive_summary(spoken, language="en").text == "customer: The parcel never came to my house."


def test_a_call_of_short_sentences_alone_still_gets_a_summary() -> None:
    assert extractive_summary(turns([("agent", "Hello?"), ("customer", "Wrong number.")]), language="en").text == (
        "agent: Hello?\ncustomer: Wrong number."
    )


def test_a_repeated_sentence_is_picked_once() -> None:
    spoken = turns([("agent", "Please hold the line for me.")] * 4)
    assert extractive_summary(spoken, language="en").text == "agent: Please hold the line for me."


def test_a_call_without_speech_has_a_summary_that_says_so() -> None:
    summary = extractive_summary([], language="en")
    assert (summary.text, summary.key_points) == (NO_SPEECH, [])


def test_sentences_of_function_words_alone_are_no_error() -> None:
    spoken = turns([("agent", "it is what it was"), ("customer", "and so it is for me")])
    assert len(extractive_summary(spoken, language="en").key_points) == 2


def test_a_language_without_spaces_is_cut_into_its_sentences() -> None:
    spoken = turns([("agent", "今日はいい天気です。技術者は水曜日に来ます。"), ("customer", "わかりました。")])
    assert [point.text for point in extractive_summary(spoken, language="ja").key_points] == [
        "agent: 今日はいい天気です。",
        "agent: 技術者は水曜日に来ます。",
    ]


def test_a_very_long_call_is_summarized_within_bounded_work() -> None:
    words = [f"word{index}" for index in range(200)]
    spoken = [
        turn(number, "agent", " ".join(words[(number * step) % 200] for step in range(1, 15)) + f" {number}.")
        for number in range(5_000)
    ]
    assert len(extractive_summary(spoken, language="en").key_points) == POINT_SENTENCES


@settings(max_examples=50)
@given(st.lists(st.text(max_size=60), max_size=8))
def test_whatever_is_said_the_summary_cites_only_the_call_and_repeats_itself(texts: list[str]) -> None:
    spoken = [turn(number, "agent", text) for number, text in enumerate(texts)]
    summary = extractive_summary(spoken, language="en")
    assert summary == extractive_summary(spoken, language="en")
    assert summary.text
    every = {segment_id for made in spoken for segment_id in made.segment_ids}
    assert all(set(point.segment_ids) <= every and point.segment_ids for point in summary.key_points)
