"""Events that come out of order, late or never."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import topics
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.status import JobStatus
from schemas.utterances import CallClosed, Utterance
from stages.protocol import Waiting
from stages.separate.event_order import LATE_S
from stages.separate.stage import MAX_SILENCE_S, SeparateStage
from tests.unit.stages.separate.scripted import (
    CALL,
    Arrival,
    LoudnessModel,
    Run,
    bursts,
    call_events,
    feed,
    in_order,
    overdue,
    separate,
)

START = CallStarted(encoding="pcm_s16le", sample_rate_hz=8000, channels=1)
CHUNK = AudioChunk(data=bytes(320))
"""20 ms."""


def stored(*events: tuple[float, int, AudioEvent], producer_time: bool = False) -> list[Arrival]:
    """Return events by time of storage, number and content."""
    return [
        Arrival(position, seq, record, at_s=at_s, producer_time=producer_time)
        for position, (at_s, seq, record) in enumerate(events)
    ]


def closed(run: Run) -> list[tuple[float, str, list[int]]]:
    ends = [record for record in run.records if isinstance(record, CallClosed)]
    return [(end.duration_s, end.reason, [gap.events for gap in end.gaps]) for end in ends]


def gaps(run: Run) -> list[tuple[float, float, int]]:
    entries = [output.record for output in run.others if output.topic == topics.STATUS]
    details = [entry.detail for entry in entries if isinstance(entry, JobStatus) and entry.status == "gap"]
    return [(detail["start_s"], detail["end_s"], detail["events"]) for detail in details]


def heard(run: Run) -> list[bytes]:
    """Return what later stages get of a call, however it was delivered."""
    kept = [record for record in run.records if isinstance(record, Utterance | CallClosed)]
    return sorted(msgspec.msgpack.encode(msgspec.structs.replace(record, seq=0)) for record in kept)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
async def test_any_order_within_the_limit_with_any_repeats_gives_the_same_utterances(seed: int) -> None:
    dice = random.Random(seed)
    length_s, chunk_s = dice.uniform(2, 30), dice.choice([0.05, 0.2, 0.5])
    speech = [(at + 0.0, min(length_s, at + dice.uniform(0.5, 4))) for at in range(0, int(length_s), 5)]
    events = call_events(bursts(*speech, length_s=length_s), chunk_s=chunk_s)
    pace_s = dice.choice([0.0, chunk_s])
    delivered: list[tuple[float, int, AudioEvent]] = []
    for seq, record in enumerate(events):
        at_s = seq * pace_s + dice.choice([0.0, dice.uniform(0, 0.9 * LATE_S)])
        delivered.append((at_s, seq, record))
        if dice.random() < 0.2:
            delivered.append((at_s + dice.uniform(0, 5 * LATE_S), seq, record))
    arrivals = stored(*sorted(delivered, key=lambda item: item[:2]))
    plain, run = await separate(in_order(events)), await separate(arrivals)
    assert heard(run) == heard(plain)
    assert run.rejected == {}
    assert [output.event_id for output in run.others] == [output.event_id for output in plain.others]


async def test_a_chunk_that_70_others_overtake_in_a_second_is_used() -> None:
    late = [(0.02 * number, number, CHUNK) for number in range(3, 73)]
    run = await separate(stored((0, 0, START), (0, 1, CHUNK), *late, (1.5, 2, CHUNK), (1.5, 73, CallEnded(events=74))))
    assert closed(run) == [(72 * 0.02, "hangup", [])]


async def test_an_end_that_overtakes_chunks_waits_for_them() -> None:
    end = CallEnded(events=6)
    arrivals = stored((0, 0, START), (0, 1, CHUNK), (0, 5, end), (1, 3, CHUNK), (9, 2, CHUNK), (9.9, 4, CHUNK))
    assert closed(await separate(arrivals[:-1])) == []
    run = await separate(arrivals)
    assert closed(run) == [(4 * 0.02, "hangup", [])]
    assert run.rejected == {}


async def test_an_end_that_waits_is_told_by_what_it_waits_for_until_that_is_given_up() -> None:
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    await feed(processor, stored((0, 0, START), (0, 1, CHUNK), (0, 5, CallEnded(events=6)), (1, 3, CHUNK)))
    assert processor.waiting == Waiting(2, 6)
    assert not processor.finished
    some = await feed(processor, [overdue(10, 4)])
    assert (closed(some), [events for *_, events in gaps(some)]) == ([], [1])
    assert closed(await feed(processor, [overdue(11, 6)])) == [(0.08, "hangup", [1, 1])]
    assert processor.waiting is None


async def test_a_producers_own_time_gives_up_nothing() -> None:
    events: list[tuple[float, int, AudioEvent]] = [(0, 0, START), (0, 1, CHUNK), (5, 3, CHUNK), (5_000, 4, CHUNK)]
    assert gaps(await separate(stored(*events, producer_time=True))) == []
    assert len(gaps(await separate(stored(*events)))) == 1
    run = await separate([*stored(*events, producer_time=True), overdue(10, 5)])
    assert len(gaps(run)) == 1


async def test_a_jump_of_any_size_is_a_gap_and_the_call_goes_on() -> None:
    for jump in (102_008, 2**31 - 100):
        after = [(20 + 0.02 * number, jump + number, CHUNK) for number in range(2, 52)]
        end = jump + 52
        arrivals = stored((0, 0, START), (0, 1, CHUNK), *after, (22, end, CallEnded(events=end + 1)))
        run = await separate([*arrivals, overdue(1000, end + 1)])
        silence_s = min(jump * 0.02, MAX_SILENCE_S)
        assert gaps(run) == [(0.02, 0.02 + silence_s, jump)]
        assert closed(run) == [(0.02 + silence_s + 50 * 0.02, "hangup", [jump])]
        assert run.rejected == {}


async def test_an_end_that_says_how_much_is_missing_is_believed_whatever_the_number() -> None:
    for events, missing in ((105_003, 105_000), (10**30, 2**31 - 3)):
        run = await separate(stored((0, 0, START), (0, 1, CHUNK), (0, 2, CallEnded(events=events))))
        [(duration_s, _, counts)] = closed(run)
        assert counts == [missing]
        assert duration_s == 0.02 + min(missing * 0.02, MAX_SILENCE_S)


async def test_gaps_together_stay_within_what_later_records_hold() -> None:
    jump, arrivals = 2**30, stored((0, 0, START), (0, 1, CHUNK))
    end = jump + 1210
    after = [(1.0, jump + number, CHUNK) for number in range(0, 1200, 2)]
    run = await separate([*arrivals, *stored(*after, (1.0, end, CallEnded(events=2**31 - 1))), overdue(9999, end + 1)])
    [(_, _, counts)] = closed(run)
    assert len(counts) == 500
    assert max(counts) < 2**31
