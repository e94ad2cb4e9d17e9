"""The merge stage on synthetic calls: turns, completed transcripts, revisions, replay."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Segment, SegmentRecord, Word
from schemas.status import JobStatus
from schemas.topics import STATUS, TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, Turn
from schemas.utterances import CallChanged
from stages.errors import RejectedInput
from stages.merge.records import PART_BYTES
from stages.merge.stage import MergeStage
from tests.unit.stages.merge.scripted import (
    CALL,
    closed,
    feed,
    joined,
    merge,
    merge_with_crashes,
    numbered,
    on_bus,
    opened,
    progress,
    segment,
    shifted,
    transcripts_of,
    turns_of,
)

TWO = opened("agent", "customer")


@st.composite
def channel_segments(draw: st.DrawFn, channel: int, prefix: str = "") -> list[Segment]:
    """Draw segments of one channel in time order, some without text, with pauses and words of various lengths."""
    at_s = 0.0
    segments = []
    for index in range(draw(st.integers(0, 6))):
        at_s += draw(st.integers(0, 40)) / 10
        n_words = draw(st.integers(0, 9))
        text = " ".join(f"{prefix}{channel}.{index}.{word}" for word in range(n_words))
        guard = None if text else draw(st.sampled_from([None, "no_speech"]))
        made = segment(
            f"s{prefix}{channel}-{index}", channel, at_s, text, word_s=draw(st.integers(1, 8)) / 10, guard=guard
        )
        segments.append(made)
        at_s = made.end_s
    return segments


def interleaved(channels: list[list[Segment]], seed: int, duration_s: float) -> list[SegmentRecord]:
    """Draw an order in which the bus may deliver the channels' segments, with correct progress records in between."""
    chance = random.Random(seed)
    waiting = [list(segments) for segments in channels]
    records: list[SegmentRecord] = []
    while any(waiting):
        waiting_now = [segments for segments in waiting if segments]
        records.append(chance.choice(waiting_now).pop(0))
        if chance.random() < 0.5:
            heard = [segments[0].start_s if segments else duration_s for segments in waiting]
            records.append(progress(*(chance.uniform(0, to_s) for to_s in heard)))
    return records


@st.composite
def calls(draw: st.DrawFn) -> list[SegmentRecord]:
    n_channels = draw(st.integers(1, 3))
    channels = [draw(channel_segments(channel)) for channel in range(n_channels)]
    duration_s = max([made.end_s for segments in channels for made in segments], default=0.0) + 1.0
    records = interleaved(channels, draw(st.integers(0, 2**32)), duration_s)
    roles = ["agent", "customer", "supervisor"][:n_channels]
    return [opened(*roles), *records, closed(duration_s, utterances=sum(map(len, channels)))]


@st.composite
def reopened_calls(draw: st.DrawFn) -> list[SegmentRecord]:
    """A call that was ended by the idle limit and continued later."""
    first = [draw(channel_segments(channel)) for channel in range(2)]
    paused_s = max([made.end_s for segments in first for made in segments], default=0.0) + 1.0
    later = [draw(channel_segments(channel, "later-")) for channel in range(2)]
    second = [[shifted(made, paused_s) for made in segments] for segments in later]
    return [
        TWO,
        *interleaved(first, draw(st.integers(0, 2**32)), paused_s),
        closed(paused_s, provisional=True),
        *interleaved(second, draw(st.integers(0, 2**32)), paused_s + 100.0),
        closed(paused_s + 100.0, revision=2),
    ]


def words_of(records: list[SegmentRecord]) -> list[str]:
    return [word.text for record in records if isinstance(record, Segment) for word in record.words]


def test_a_conversation_becomes_turns_in_the_order_of_their_starts() -> None:
    outputs = merge(
        [
            TWO,
            segment("a1", 0, 0.0, "good morning"),
            segment("a2", 0, 1.5, "how can I help"),
            segment("c1", 1, 4.0, "my phone is broken"),
            segment("a3", 0, 7.0, "I am sorry"),
            closed(10.0, utterances=4),
        ]
    )
    assert [(turn.speaker, turn.text) for turn in turns_of(outputs)] == [
        ("agent", "good morning how can I help"),
        ("customer", "my phone is broken"),
        ("agent", "I am sorry"),
    ]
    assert turns_of(outputs)[0].segment_ids == ["a1", "a2"]
    assert (turns_of(outputs)[0].start_s, turns_of(outputs)[0].end_s) == (0.0, 3.5)


def test_outputs_are_numbered_typed_and_named_by_call_stage_and_number() -> None:
    outputs = on_bus(merge([TWO, segment("a1", 0, 0.0, "hello"), closed(2.0)]))
    assert [(output.topic, output.seq, output.event_id, output.event_type) for output in outputs] == [
        (TRANSCRIPTS, 0, "default/call-1/merge.1/0", TURN_TYPE),
        (TRANSCRIPTS, 1, "default/call-1/merge.1/1", COMPLETED_TYPE),
    ]


def test_the_ledger_entry_precedes_the_transcript() -> None:
    outputs = merge(
        [
            TWO,
            segment("a1", 0, 0.0, "hello there"),
            segment("c1", 1, 3.0, "", guard="no_speech"),
            segment("c2", 1, 5.0, ""),
            closed(9.0, utterances=3),
        ]
    )
    jobs = [output for output in outputs if isinstance(output.record, JobStatus)]
    assert [(job.topic, job.seq, job.record.status) for job in jobs if isinstance(job.record, JobStatus)] == [
        (STATUS, None, "started"),
        (STATUS, None, "completed"),
    ]
    completed = jobs[1].record
    assert isinstance(completed, JobStatus)
    assert completed.detail == {
        "revision": 1,
        "provisional": False,
        "turns": 1,
        "words": 2,
        "segments": 3,
        "utterances": 3,
        "empty": 2,
        "guards": {"no_speech": 1},
    }
    assert completed.at == 1_700_000_004.0
    assert outputs.index(jobs[1]) < outputs.index(on_bus(outputs)[0])


def test_a_turn_settles_during_the_call_after_a_long_pause_of_its_speaker() -> None:
    processor = MergeStage().open(CALL, None)
    records = numbered(
        [TWO, segment("a1", 0, 0.0, "hello there"), progress(3.0, 3.0), progress(3.1, 0.5), progress(3.1, 3.1)]
    )
    published = [len(turns_of(feed(processor, record))) for record in records]
    assert published == [0, 0, 0, 1, 0]


def test_nothing_is_published_that_another_channel_could_still_change() -> None:
    processor = MergeStage().open(CALL, None)
    records = numbered([TWO, segment("a1", 0, 1.0, "one two three"), progress(60.0, 1.9), progress(60.0, 2.1)])
    published = [len(turns_of(feed(processor, record))) for record in records]
    assert published == [0, 0, 0, 1]


def test_a_mono_call_needs_no_other_channel() -> None:
    outputs = merge([opened("caller"), segment("m1", 0, 0.0, "hello"), segment("m2", 0, 9.0, "again"), closed(12.0)])
    assert [turn.speaker for turn in turns_of(outputs)] == ["caller", "caller"]
    assert transcripts_of(outputs)[0].metrics.overlap_s == 0.0


def test_a_call_without_speech_completes_with_no_turns() -> None:
    transcript = transcripts_of(merge([TWO, closed(0.0)]))[0]
    assert transcript.turns == []
    assert transcript.language == "und"
    assert transcript.metrics.silence_s == 0.0


def test_guarded_segments_count_as_silence_in_the_metrics() -> None:
    transcript = transcripts_of(merge([TWO, segment("a1", 0, 1.0, "", guard="phrase"), closed(5.0)]))[0]
    assert transcript.metrics.silence_s == 5.0


def test_the_language_is_the_producers_else_that_of_most_words() -> None:
    spoken = [segment("a1", 0, 0.0, "ja"), segment("a2", 0, 3.0, "one two", language="en")]
    spoken[0] = msgspec.structs.replace(spoken[0], language="de")
    assert transcripts_of(merge([TWO, *spoken, closed(9.0)]))[0].language == "en"
    named = opened("agent", "customer", language="fr")
    assert transcripts_of(merge([named, *spoken, closed(9.0)]))[0].language == "fr"


def test_after_a_change_of_language_the_words_decide_the_calls_language() -> None:
    named = opened("agent", "customer", language="en")
    spoken = [segment("a1", 0, 0.0, "hello"), segment("a2", 0, 6.0, "buenos dias", language="es")]
    change = CallChanged(call=CALL, seq=0, from_s=5.0, language="es")
    outputs = merge([named, spoken[0], change, spoken[1], closed(9.0)])
    assert transcripts_of(outputs)[0].language == "es"
    assert [turn.language for turn in turns_of(outputs)] == ["en", "es"]
    other = msgspec.structs.replace(change, language=msgspec.UNSET, hotwords=["Iberdrola"])
    assert transcripts_of(merge([named, spoken[0], other, spoken[1], closed(9.0)]))[0].language == "en"


def test_a_long_transcript_comes_in_parts_that_each_fit_a_record() -> None:
    n_turns = 1_500
    spoken = [segment(f"s{index}", index % 2, index * 4.0, "word " * 7 + "end", word_s=0.1) for index in range(n_turns)]
    processor = MergeStage().open(CALL, None)
    inputs = numbered([TWO, *spoken, closed(n_turns * 4.0, provisional=True)])
    outputs = [output for record in inputs for output in feed(processor, record)]
    parts = transcripts_of(outputs)
    assert len(parts) > 1
    assert len(processor.checkpoint().state) < 200_000
    assert [(part.part, part.parts) for part in parts] == [(index + 1, len(parts)) for index in range(len(parts))]
    assert [turn for part in parts for turn in part.turns] == turns_of(outputs)
    assert max(len(msgspec.json.encode(part)) for part in parts) <= PART_BYTES
    assert all(part.metrics == parts[0].metrics for part in parts)


def test_an_endless_monologue_is_split_before_its_turn_outgrows_a_record() -> None:
    spoken = [segment(f"s{index}", 0, index * 2.0, "word " * 19 + "end", word_s=0.1) for index in range(600)]
    turns = turns_of(merge([opened("caller"), *spoken, closed(1200.0)]))
    assert [len(turn.words) for turn in turns] == [1000] * 12


def test_a_reopened_call_gives_a_second_transcript_with_everything() -> None:
    outputs = merge(
        [
            TWO,
            segment("a1", 0, 0.0, "are you there"),
            closed(30.0, provisional=True),
            segment("c1", 1, 31.0, "yes sorry"),
            closed(40.0, revision=2),
        ]
    )
    first, second = transcripts_of(outputs)
    assert [(turn.text, turn.revision) for turn in first.turns] == [("are you there", 1)]
    assert [(turn.text, turn.revision) for turn in second.turns] == [("are you there", 1), ("yes sorry", 2)]
    assert (first.revision, first.provisional, second.revision, second.provisional) == (1, True, 2, False)
    assert second.metrics.channels[0].talk_s == 1.5


def test_a_call_is_finished_from_its_completion_until_the_next_input() -> None:
    processor = MergeStage().open(CALL, None)
    records = numbered([TWO, closed(5.0, provisional=True), progress(6.0, 6.0), closed(7.0, revision=2)])
    finished = []
    for record in records:
        feed(processor, record)
        finished.append(processor.finished)
    assert finished == [False, True, False, True]


def test_an_open_call_releases_nothing_and_a_complete_one_everything() -> None:
    processor = MergeStage().open(CALL, None)
    released = []
    for record in numbered([TWO, segment("a1", 0, 0.0, "hello"), closed(5.0)]):
        feed(processor, record)
        released.append(processor.checkpoint().released)
    assert released == [0, 0, 3]
    assert len(processor.checkpoint().state) < 500


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([segment("a1", 0, 0.0, "hello")], "not opened"),
        ([TWO, TWO], "second time"),
        ([opened()], "no channels"),
        ([TWO, segment("a1", 2, 0.0, "hello")], "channel 2"),
        ([TWO, progress(1.0)], "progress of 1"),
        ([TWO, progress(1.0, float("nan"))], "cannot be one in a call"),
        ([TWO, closed(1.0), segment("a1", 0, 0.0, "hello")], "over"),
    ],
)
def test_input_that_does_not_fit_the_call_is_rejected_and_changes_nothing(
    records: list[SegmentRecord], reason: str
) -> None:
    processor = MergeStage().open(CALL, None)
    *good, bad = numbered(records)
    for record in good:
        feed(processor, record)
    before = processor.checkpoint()
    with pytest.raises(RejectedInput, match=reason):
        feed(processor, bad)
    assert processor.checkpoint() == before


def test_a_segment_that_is_given_up_is_a_gap_and_the_call_goes_on() -> None:
    processor = MergeStage().open(CALL, None)
    lost, last = segment("a2", 0, 3.0, "lost words"), segment("a3", 0, 6.0, "bye")
    *records, end, ended_again = numbered(
        [TWO, segment("a1", 0, 0.0, "hello"), lost, last, closed(9.0, provisional=True), closed(9.0, revision=2)]
    )
    for record in records[:2]:
        feed(processor, record)
    (entry,) = feed(processor, records[2], given_up="failed 3 times")
    assert isinstance(entry.record, JobStatus)
    assert (entry.record.status, entry.record.detail) == (
        "gap",
        {"start_s": 3.0, "end_s": 4.0, "events": 0, "reason": "failed 3 times"},
    )
    feed(processor, records[3])
    (first,) = transcripts_of(feed(processor, end))
    assert [turn.text for turn in first.turns] == ["hello", "bye"]
    assert [(gap.start_s, gap.end_s) for gap in first.gaps] == [(3.0, 4.0)]
    again = MergeStage().open(CALL, processor.checkpoint().state)
    (second,) = transcripts_of(feed(again, ended_again))
    assert second.gaps == first.gaps


@pytest.mark.parametrize("provisional", [False, True])
def test_a_call_whose_end_cannot_be_merged_is_completed_as_failed(provisional: bool) -> None:
    processor = MergeStage().open(CALL, None)
    *records, end = numbered(
        [
            opened("agent"),
            segment("a1", 0, 0.0, "hello there"),
            segment("a2", 0, 5.0, "not settled"),
            closed(9.0, provisional=provisional),
        ]
    )
    published = [output for record in records for output in feed(processor, record)]
    outputs = feed(processor, end, given_up="failed 3 times")
    (failed,) = [output.record for output in outputs if isinstance(output.record, JobStatus)]
    assert (failed.status, failed.detail["reason"], failed.detail["revision"]) == ("failed", "failed 3 times", 1)
    (transcript,) = transcripts_of(outputs)
    assert transcript.turns == turns_of(published)
    assert [turn.text for turn in transcript.turns] == ["hello there"]
    assert [(gap.start_s, gap.end_s) for gap in transcript.gaps] == [(5.0, 9.0)]
    assert [output.seq for output in on_bus([*published, *outputs])] == [0, 1]
    assert processor.finished
    assert processor.checkpoint().released == 4
    later = msgspec.structs.replace(segment("a3", 0, 10.0, "again"), seq=4)
    if not provisional:
        with pytest.raises(RejectedInput, match="over"):
            feed(processor, later)
        return
    feed(processor, later)
    (second,) = transcripts_of(feed(processor, msgspec.structs.replace(closed(12.0, revision=2), seq=5)))
    assert [turn.text for turn in second.turns] == ["hello there", "again"]


def test_a_call_that_cannot_be_opened_is_completed_as_failed() -> None:
    processor = MergeStage().open(CALL, None)
    (transcript,) = transcripts_of(feed(processor, TWO, given_up="failed 3 times"))
    assert (transcript.turns, transcript.revision, len(transcript.channels)) == ([], 1, 2)
    assert processor.finished
    with pytest.raises(RejectedInput, match="over"):
        feed(processor, msgspec.structs.replace(segment("a1", 0, 0.0, "hello"), seq=1))


def test_a_report_of_progress_that_is_given_up_is_skipped() -> None:
    processor = MergeStage().open(CALL, None)
    feed(processor, TWO)
    with pytest.raises(RejectedInput):
        feed(processor, msgspec.structs.replace(progress(1.0, 1.0), seq=1), given_up="failed 3 times")


@given(calls())
def test_every_word_is_in_one_turn_and_the_transcript_has_the_published_turns(
    records: list[SegmentRecord],
) -> None:
    outputs = merge(records)
    transcript = transcripts_of(outputs)[-1]
    assert transcript.turns == turns_of(outputs)
    assert sorted(word.text for turn in transcript.turns for word in turn.words) == sorted(words_of(records))
    assert sorted(word for turn in transcript.turns for word in turn.text.split()) == sorted(words_of(records))
    for channel in range(len(transcript.channels)):
        spoken = [word.text for turn in transcript.turns if turn.channel == channel for word in turn.words]
        own = [record for record in records if isinstance(record, Segment) and record.channel == channel]
        assert spoken == words_of(list(own))
    starts_s = [turn.start_s for turn in transcript.turns]
    assert starts_s == sorted(starts_s)
    assert len({turn.turn_id for turn in transcript.turns}) == len(transcript.turns)


@given(calls(), st.integers(0, 2**32))
def test_the_turns_do_not_depend_on_how_the_channels_were_interleaved(records: list[SegmentRecord], seed: int) -> None:
    first, *_, last = records
    n_channels = len(first.channels) if hasattr(first, "channels") else 0
    channels = [
        [record for record in records if isinstance(record, Segment) and record.channel == channel]
        for channel in range(n_channels)
    ]
    again = [first, *interleaved(channels, seed, 1000.0), last]
    assert turns_of(merge(again)) == turns_of(merge(records))


@given(calls(), st.integers(0, 2**32))
def test_the_turns_are_the_same_where_utterances_went_out_as_one(records: list[SegmentRecord], seed: int) -> None:
    chance = random.Random(seed)
    first, *_, last = records
    channels: list[list[Segment]] = [[] for _ in getattr(first, "channels", ())]
    for record in records:
        if isinstance(record, Segment):
            earlier = channels[record.channel]
            if earlier and earlier[-1].guard is None and record.guard is None and chance.random() < 0.7:
                earlier[-1] = joined(*_apart(earlier[-1], records), record)
            else:
                earlier.append(record)
    again = merge([first, *interleaved(channels, seed, 1000.0), last])
    assert list(map(_said, turns_of(again))) == list(map(_said, turns_of(merge(records))))


def _apart(made: Segment, records: list[SegmentRecord]) -> list[Segment]:
    """Return the segments from which `made` was joined."""
    own = [record for record in records if isinstance(record, Segment) and record.channel == made.channel]
    return [one for one in own if made.start_s <= one.start_s and one.end_s <= made.end_s and one.guard is None]


def _said(turn: Turn) -> tuple[str, str, float, float, list[Word]]:
    return turn.speaker, turn.text, turn.start_s, turn.end_s, turn.words


def test_each_part_of_a_segment_has_its_own_place_between_the_other_speakers() -> None:
    outputs = merge(
        [
            TWO,
            joined(segment("a", 0, 0.0, "good morning"), segment("a2", 0, 4.0, "I see"), segment("a3", 0, 9.0, "bye")),
            segment("c", 1, 2.0, "my phone is broken."),
            segment("d", 1, 6.0, "what now"),
            closed(10.0, utterances=3),
        ]
    )
    assert [(turn.speaker, turn.text, turn.start_s) for turn in turns_of(outputs)] == [
        ("agent", "good morning", 0.0),
        ("customer", "my phone is broken.", 2.0),
        ("agent", "I see", 4.0),
        ("customer", "what now", 6.0),
        ("agent", "bye", 9.0),
    ]
    assert len({turn.turn_id for turn in turns_of(outputs)}) == 5


@given(st.one_of(calls(), reopened_calls()), st.data())
def test_a_crash_anywhere_changes_no_numbered_output(records: list[SegmentRecord], data: st.DataObject) -> None:
    whole = [msgspec.json.encode(output.record) for output in on_bus(merge(records))]
    places = st.tuples(st.integers(0, len(records) - 1), st.integers(0, 3))
    crashes = sorted(data.draw(st.lists(places, max_size=4)))
    assert [msgspec.json.encode(output.record) for output in merge_with_crashes(records, crashes)] == whole


@given(calls())
def test_repeats_give_nothing(records: list[SegmentRecord]) -> None:
    processor = MergeStage().open(CALL, None)
    taken: list[SegmentRecord] = []
    for record in numbered(records):
        feed(processor, record)
        taken.append(record)
        for repeat in taken:
            assert feed(processor, repeat) == []
