"""Words that a channel only repeats are dropped, and nothing else is."""

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.segments import Segment, SegmentRecord
from schemas.status import JobStatus
from schemas.utterances import Crosstalk, SpeakerTurn
from stages.crosstalk import SameMix, counted, one_channel
from tests.unit.stages.merge.scripted import (
    closed,
    joined,
    merge,
    merge_with_crashes,
    on_bus,
    opened,
    progress,
    segment,
    transcripts_of,
    turns_of,
)

TWO = opened("agent", "customer")


def heard(made: Segment, *, coherence: int, level_db: int, delay_ms: int = 0, first: int = 0) -> Segment:
    """Return the segment with this in common with the other channel, from its `first` word on."""
    begin_s = made.words[first].start_s - (delay_ms / 1000 if made.channel == 1 else 0)
    low = int(begin_s / 0.4)
    entry = Crosstalk(
        channel=1 - made.channel,
        start_s=low * 0.4,
        step_s=0.4,
        coherence=[coherence] * (int((made.end_s - low * 0.4) / 0.4) + 2),
        level_db=[level_db] * (int((made.end_s - low * 0.4) / 0.4) + 2),
        delay_ms=[delay_ms] * (int((made.end_s - low * 0.4) / 0.4) + 2),
    )
    before = int((low * 0.4 - made.start_s) / 0.4) + 1 if first else 0
    silent = msgspec.structs.replace(
        entry,
        start_s=(low - before) * 0.4,
        coherence=[0] * before + entry.coherence,
        level_db=[0] * before + entry.level_db,
        delay_ms=[0] * before + entry.delay_ms,
    )
    return msgspec.structs.replace(made, crosstalk=[silent])


def said_and_echoed(
    channel: int, start_s: float, text: str, *, coherence: int, level_db: int, delay_ms: int = 60, as_heard: str = ""
) -> tuple[Segment, Segment]:
    """Return a segment of a channel, and its echo on the other one."""
    own = segment(f"{channel}-{start_s}", channel, start_s, text)
    echo = segment(f"{1 - channel}-{start_s}", 1 - channel, start_s + delay_ms / 1000, as_heard or text)
    return (
        heard(own, coherence=coherence, level_db=level_db, delay_ms=-delay_ms),
        heard(echo, coherence=coherence, level_db=-level_db, delay_ms=delay_ms),
    )


def lines(records: Sequence[SegmentRecord]) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in transcripts_of(merge(records))[-1].turns]


def completed_of(records: Sequence[SegmentRecord]) -> dict[str, object]:
    entries = [output.record for output in merge(records) if isinstance(output.record, JobStatus)]
    return next(entry.detail for entry in reversed(entries) if entry.status == "completed")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("coherence", "level_db"), [(100, 10), (95, 20), (75, 28), (35, 33)])
def test_an_echo_is_heard_once_under_who_said_it(coherence: int, level_db: int, sign: int) -> None:
    asked = said_and_echoed(0, 1.0, "good morning how can I help", coherence=sign * coherence, level_db=level_db)
    said = said_and_echoed(1, 5.0, "my phone is broken", coherence=sign * coherence, level_db=level_db)
    records: list[SegmentRecord] = [TWO, *asked, *said, closed(10.0, utterances=4)]
    assert lines(records) == [("agent", "good morning how can I help"), ("customer", "my phone is broken")]
    detail = completed_of(records)
    assert detail["echoes"] == {"words": 10, "segments": 2}
    assert detail["words"] == 10
    metrics = transcripts_of(merge(records))[0].metrics
    assert [channel.talk_s for channel in metrics.channels] == [3.0, 2.0]
    assert (metrics.overlap_s, metrics.interruptions) == (0.0, 0)


def test_an_echo_that_was_misheard_is_dropped_where_most_of_its_energy_is_the_other_channels() -> None:
    own, echo = said_and_echoed(0, 1.0, "that makes sense", coherence=80, level_db=20, as_heard="hat may cents")
    assert lines([TWO, own, echo, closed(5.0)]) == [("agent", "that makes sense")]


def test_other_words_stay_where_little_is_in_common() -> None:
    own, other = said_and_echoed(0, 1.0, "that makes sense", coherence=35, level_db=20, as_heard="no it does not")
    assert ("customer", "no it does not") in lines([TWO, own, other, closed(5.0)])


def test_words_that_a_leg_says_after_an_echo_in_the_same_breath_stay() -> None:
    own = heard(segment("a", 0, 1.0, "is it off"), coherence=95, level_db=20)
    echo = heard(segment("c", 1, 1.0, "is it off yes it is off"), coherence=95, level_db=-20)
    assert isinstance(echo.crosstalk, list)
    (entry,) = echo.crosstalk
    n = round(1.5 / 0.4)
    nothing = [0] * (len(entry.coherence) - n)
    partly = msgspec.structs.replace(entry, coherence=entry.coherence[:n] + nothing)
    mixed = msgspec.structs.replace(echo, crosstalk=[partly])
    records: list[SegmentRecord] = [TWO, own, mixed, closed(8.0)]
    assert lines(records) == [("agent", "is it off"), ("customer", "yes it is off")]
    talk_s = [channel.talk_s for channel in transcripts_of(merge(records))[0].metrics.channels]
    assert talk_s == [1.5, 2.0]


def test_an_echo_without_an_original_stays_so_that_no_word_is_lost() -> None:
    _, echo = said_and_echoed(0, 1.0, "good morning", coherence=95, level_db=20)
    assert lines([TWO, echo, closed(5.0)]) == [("customer", "good morning")]


def test_an_echo_of_a_pack_is_dropped_part_by_part() -> None:
    first, echo = said_and_echoed(0, 1.0, "good morning", coherence=95, level_db=20)
    second, again = said_and_echoed(0, 20.0, "and good bye", coherence=95, level_db=20)
    own = segment("c-own", 1, 10.0, "wait please")
    assert isinstance(echo.crosstalk, list)
    assert isinstance(again.crosstalk, list)
    pack = msgspec.structs.replace(joined(echo, own, again), crosstalk=[*echo.crosstalk, *again.crosstalk])
    told = lines([TWO, first, pack, second, closed(30.0)])
    assert told == [("agent", "good morning"), ("customer", "wait please"), ("agent", "and good bye")]


def mono(*, n_lines: int = 8, level_db: int = 0, delay_ms: int = 0, sign: int = 1) -> list[SegmentRecord]:
    """Return a call of lines of 2 s whose second channel is a copy of the first, `level_db` below it."""
    records: list[SegmentRecord] = [TWO]
    for index in range(n_lines):
        text = " ".join(f"{word}{index}" for word in ("well", "here", "we", "are"))
        pair = said_and_echoed(0, 1.0 + 5 * index, text, coherence=100 * sign, level_db=level_db, delay_ms=delay_ms)
        records += [*pair, progress(3.0 + 5 * index, 3.0 + 5 * index)]
    return records


def decided(records: Sequence[SegmentRecord]) -> int | None:
    mixes: tuple[SameMix, ...] = (SameMix(),)
    for record in records:
        if isinstance(record, Segment):
            mixes = counted(mixes, record)
    return one_channel(mixes)


@pytest.mark.parametrize(
    ("level_db", "delay_ms", "sign", "used"),
    [(0, 0, 1, 0), (0, 0, -1, 0), (0, 120, 1, 0), (12, 0, 1, 0), (-12, 30, -1, 1)],
)
def test_the_same_mix_on_both_channels_is_one_channel_and_heard_once(
    level_db: int, delay_ms: int, sign: int, used: int
) -> None:
    records = mono(level_db=level_db, delay_ms=delay_ms, sign=sign)
    assert decided(records) == used
    speakers = [SpeakerTurn(0.0, 20.0, "speaker_1"), SpeakerTurn(20.0, 50.0, "speaker_2")]
    end = msgspec.structs.replace(closed(40.0), one_channel=used, speakers=speakers, speaker_source="estimated")
    outputs = merge([*records, end])
    final = transcripts_of(outputs)[0]
    assert [turn.speaker for turn in final.turns] == ["speaker_1"] * 4 + ["speaker_2"] * 4
    assert {turn.channel for turn in final.turns} == {used}
    assert final.one_channel == used
    assert [channel.role for channel in final.channels] == ["mixed", "mixed"]
    assert final.metrics.overlap_s == 0.0
    assert completed_of([*records, end])["one_channel"] == used
    early = {turn.turn_id: turn for turn in turns_of(outputs) if turn.speaker in ("agent", "customer")}
    assert early
    assert early.keys() <= {turn.turn_id for turn in final.turns}


def test_without_a_diarizer_the_speakers_of_one_channel_are_unknown() -> None:
    end = msgspec.structs.replace(closed(40.0), one_channel=0)
    final = transcripts_of(merge([*mono(), end]))[0]
    assert {(turn.speaker, turn.speaker_source) for turn in final.turns} == {("unknown", "unknown")}


def test_a_call_is_not_one_channel_before_10_s_of_shared_speech() -> None:
    assert decided(mono(n_lines=4)) is None
    assert decided(mono(n_lines=6)) == 0


def test_one_channel_is_given_up_when_a_leg_speaks_alone() -> None:
    assert decided([*mono(), segment("alone", 1, 60.0, "now I am alone on here")]) is None


def test_crosstalk_both_ways_is_two_channels() -> None:
    both = [
        said_and_echoed(index % 2, 1 + 4.0 * index, "well here we are", coherence=100, level_db=20)
        for index in range(10)
    ]
    assert decided([made for pair in both for made in pair]) is None


def test_shared_music_without_words_says_nothing() -> None:
    music = [
        msgspec.structs.replace(one, text="", words=[], guard="no_speech") for one in mono() if isinstance(one, Segment)
    ]
    assert decided(music) is None
    agent = segment("a", 0, 50.0, "thank you for holding")
    customer = segment("c", 1, 53.0, "no problem")
    assert lines([TWO, *music, agent, customer, closed(60.0)]) == [
        ("agent", "thank you for holding"),
        ("customer", "no problem"),
    ]


def echoing_call(seed: int) -> list[SegmentRecord]:
    """Return a call with echoes of any level, whose channels the bus delivers in any interleaving."""
    dice = random.Random(seed)
    channels: list[list[Segment]] = [[], []]
    at_s = 1.0
    for index in range(dice.randint(2, 9)):
        text = " ".join(f"w{index}.{word}" for word in range(dice.randint(1, 7)))
        speaker = dice.randrange(2)
        level_db, coherence = dice.choice([0, 1, 3, 10, 30]), dice.choice([0, 20, 50, 90])
        made = said_and_echoed(
            speaker, at_s, text, coherence=coherence, level_db=level_db, delay_ms=dice.choice([0, 60, 200])
        )
        for one in made if coherence else made[:1]:
            channels[one.channel].append(one)
        at_s = made[0].end_s + dice.uniform(0.5, 5)
    records: list[SegmentRecord] = [TWO]
    waiting = [list(made_by) for made_by in channels]
    while any(waiting):
        records.append(dice.choice([made_by for made_by in waiting if made_by]).pop(0))
        if dice.random() < 0.5:
            records.append(progress(*(made_by[0].start_s if made_by else at_s + 50 for made_by in waiting)))
    return [*records, closed(at_s + 60)]


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_the_order_of_the_bus_does_not_change_what_is_dropped(seed: int, other: int) -> None:
    records = echoing_call(seed)
    segments = [record for record in records if isinstance(record, Segment)]
    dice = random.Random(other)
    waiting = [[one for one in segments if one.channel == channel] for channel in (0, 1)]
    mixed: list[SegmentRecord] = []
    while any(waiting):
        mixed.append(dice.choice([made_by for made_by in waiting if made_by]).pop(0))
    assert lines(records) == lines([TWO, *mixed, records[-1]])


@given(st.integers(0, 2**32))
def test_of_a_word_and_its_echo_at_least_one_stays(seed: int) -> None:
    records = echoing_call(seed)
    said = {word.text for record in records if isinstance(record, Segment) for word in record.words}
    assert {word for _, text in lines(records) for word in text.split()} == said


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), max_size=4))
def test_a_crash_changes_nothing_that_is_dropped(seed: int, crashes: list[tuple[int, int]]) -> None:
    records = echoing_call(seed)
    inside = sorted({at: count for at, count in crashes if at < len(records)}.items())
    whole = on_bus(merge(records))
    again = merge_with_crashes(records, inside)
    assert [msgspec.json.encode(one.record) for one in again] == [msgspec.json.encode(one.record) for one in whole]


@pytest.mark.parametrize(
    ("start_s", "step_s", "coherence"), [(1.0, 0.0, [90]), (float("nan"), 0.4, [90]), (1.0, 0.4, [])]
)
def test_crosstalk_that_nobody_can_read_is_none(start_s: float, step_s: float, coherence: list[int]) -> None:
    made = msgspec.structs.replace(
        segment("a", 0, 1.0, "good morning"), crosstalk=[Crosstalk(1, start_s, step_s, coherence, [-20], [0])]
    )
    assert lines([TWO, made, segment("c", 1, 1.0, "good morning"), closed(5.0)]) == [
        ("agent", "good morning"),
        ("customer", "good morning"),
    ]
