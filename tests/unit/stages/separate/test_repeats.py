"""Events whose number was had before: repeats, other calls under the same id, and producers that count anew."""

from collections.abc import Sequence

import msgspec
import pytest

from schemas import topics
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallIdle, CallStarted
from schemas.event_numbers import event_number
from schemas.status import DeadLetter, JobStatus
from schemas.utterances import CallClosed
from stages.separate.proofs import MAX_PROOFS, MAX_RUNS, PROOF_BYTES, Proofs, proof_of
from stages.separate.stage import SeparateStage
from stages.separate.state import SeparateState
from tests.unit.stages.separate.scripted import CALL, Arrival, LoudnessModel, Run, after_crash, feed, separate, wire

START = CallStarted(encoding="pcm_s16le", sample_rate_hz=8000, channels=1)
OTHER_START = CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=1)


def tone(level: int) -> AudioChunk:
    """Return half a second."""
    return AudioChunk(data=level.to_bytes(2, "little") * 4000)


def sent(events: Sequence[AudioEvent], *, at: int = 0, source: str = "/pbx/7", epoch: int = 0) -> list[Arrival]:
    """Return the events of a producer that counts from 0, stored from position `at` on."""
    return [
        Arrival(at + number, event_number(epoch, number), event, source, at_s=0.0)
        for number, event in enumerate(events)
    ]


def whole_call(*levels: int) -> list[AudioEvent]:
    return [START, *map(tone, levels), CallEnded(events=len(levels) + 2)]


def closed(run: Run) -> CallClosed:
    [end] = [record for record in run.records if isinstance(record, CallClosed)]
    return end


def letters(run: Run) -> list[DeadLetter]:
    return [output.record for output in run.others if isinstance(output.record, DeadLetter)]


def updates(run: Run) -> list[dict[str, object]]:
    entries = [output.record for output in run.others if output.topic == topics.STATUS]
    return [entry.detail for entry in entries if isinstance(entry, JobStatus) and entry.status == "updated"]


async def test_what_is_sent_again_is_a_repeat_whatever_its_id_and_source() -> None:
    call = sent(whole_call(1, 2, 3))
    for source in ("/pbx/7", "/pbx/8"):
        run = await separate([*call[:3], *sent(whole_call(1, 2), at=10, source=source)[:3], *call[3:]])
        assert run.rejected == {}
        assert letters(run) == []
        assert run.records == (await separate(call)).records


async def test_another_call_under_the_id_of_one_that_is_over_is_rejected_event_by_event() -> None:
    run = await separate([*sent(whole_call(1, 2, 3, 4)), *sent(whole_call(9, 9, 9), at=10, source="/pbx/8")])
    assert sorted(run.rejected) == [11, 12, 13, 14]
    assert all("the number of another event, with other content" in reason for reason in run.rejected.values())
    assert closed(run).duration_s == 2.0


async def test_events_held_are_compared_too() -> None:
    call = sent(whole_call(1, 2, 3))
    run = await separate([*call[:2], call[3], *sent([START, tone(1), tone(7), tone(8)], at=10)[3:], *call[2:]])
    assert sorted(run.rejected) == [13]
    assert closed(run).gaps == []


async def test_a_producer_that_counts_from_0_again_without_a_new_epoch_is_told() -> None:
    run = await separate([*sent([START, *map(tone, range(1, 9))]), *sent(whole_call(11, 12, 13), at=20)])
    assert sorted(run.rejected) == [21, 22, 23, 24]


async def test_a_producer_that_says_so_continues_the_call() -> None:
    before, after = sent([START, tone(1), tone(2)]), sent(whole_call(1, 5), at=10, epoch=1)
    run = await separate([*before, *after])
    assert run.rejected == {}
    assert letters(run) == []
    end = closed(run)
    assert (end.duration_s, end.reason) == (2.0, "hangup")
    assert [(gap.start_s, gap.end_s, gap.events) for gap in end.gaps] == [(1.0, 1.0, 0)]
    assert updates(run) == [{"event": 0, "epoch": 1, "from_s": 1.0}]


async def test_epochs_may_be_the_time_and_what_comes_late_of_an_earlier_one_is_told() -> None:
    first, second = sent(whole_call(1, 2, 3), epoch=1_764_448_096), sent(whole_call(4), at=10, epoch=1_764_448_196)
    run = await separate([*first[:3], *second[:2], first[3], second[2]])
    assert list(run.rejected) == [3]
    assert closed(run).duration_s == 1.5


async def test_a_missing_tail_of_an_epoch_shows_by_its_own_number_of_events() -> None:
    later = sent([START, tone(5), CallEnded(events=5)], at=10, epoch=1)
    end = closed(await separate([*sent([START, tone(1)]), *later]))
    assert [gap.events for gap in end.gaps] == [0, 2]
    assert end.duration_s == 2.0


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 2, 0, 3]])
async def test_an_epoch_in_another_format_is_no_continuation(order: list[int]) -> None:
    other = sent([OTHER_START, tone(5), tone(6), CallEnded(events=4)], at=10, epoch=1)
    arrivals = [msgspec.structs.replace(other[at], position=10 + position) for position, at in enumerate(order)]
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    begun = await feed(processor, [*sent([START, tone(1)]), *arrivals])
    idle = Arrival(90, processor.next_seq - 1, CallIdle(next_seq=processor.next_seq))
    ended = await feed(processor, [idle])
    run = Run([*begun.published, *ended.published], begun.others + ended.others, begun.rejected | ended.rejected)
    told = {letter.position for letter in letters(run)} | set(run.rejected)
    assert told == {10, 11, 12, 13}
    held = [one for one in [*arrivals, idle] if one.seq >= run.published[-1].released]
    assert [one.position for one in held if one.position not in run.rejected] == []


async def test_another_start_refuses_its_producer_and_the_call_goes_on() -> None:
    call = sent(whole_call(*range(1, 7)))
    other = sent([OTHER_START, *map(tone, range(1, 9)), CallEnded(events=10)], at=20, source="/pbx/8")
    late = [msgspec.structs.replace(item, position=40 + at) for at, item in enumerate(call[4:])]
    arrivals = [*call[:4], *other[:6], *late, *other[6:]]
    run = await separate(arrivals)
    [letter] = letters(run)
    assert (letter.position, letter.headers["ce_source"]) == (20, "/pbx/8")
    assert "another start" in letter.message
    assert sorted(run.rejected) == list(range(21, 30))
    assert (closed(run).duration_s, closed(run).gaps) == (3.0, [])


async def test_a_refusal_survives_a_crash_after_each_output() -> None:
    call = sent(whole_call(1, 2, 3))
    other = sent([OTHER_START, *map(tone, range(1, 9))], at=20, source="/pbx/8")
    late = [msgspec.structs.replace(item, position=40 + at) for at, item in enumerate(call[2:])]
    arrivals = [*call[:2], *other, *late]
    stage = SeparateStage(LoudnessModel())
    whole = await separate(arrivals, stage)
    for n_published in range(len(whole.published) + 1):
        for only_unreleased in (True, False):
            again = await after_crash(arrivals, whole, n_published, only_unreleased=only_unreleased, stage=stage)
            assert wire(again) == wire(whole)


async def test_what_the_bus_delivers_again_gives_no_letter_and_what_is_sent_again_does() -> None:
    chunks = [AudioChunk(data=number.to_bytes(2, "little")) for number in range(MAX_PROOFS + 100)]
    call = sent([START, *chunks, CallEnded(events=len(chunks) + 2)])
    stage = SeparateStage(LoudnessModel())
    run = await separate(call, stage)
    state = run.published[-1].state
    again = await feed(stage.open(CALL, state), call)
    assert (again.published, again.others, again.rejected) == ([], [], {})
    resent = [msgspec.structs.replace(item, position=10_000 + item.position) for item in call]
    again = await feed(stage.open(CALL, state), resent)
    assert {at - 10_000 for at in again.rejected} == set(range(1, 102))
    assert "too long ago" in again.rejected[10_001]


async def test_a_state_without_proofs_takes_what_it_had_for_repeats() -> None:
    call = sent(whole_call(1, 2, 3))
    stage = SeparateStage(LoudnessModel())
    processor = stage.open(CALL, None)
    await feed(processor, call[:3])
    old = msgspec.msgpack.decode(processor.checkpoint().state, type=SeparateState)
    old.taken = msgspec.UNSET
    reopened = stage.open(CALL, msgspec.msgpack.encode(old))
    run = await feed(reopened, [*sent(whole_call(7, 8, 9))[:3], *call[3:]])
    assert run.rejected == {}
    assert closed(run).duration_s == 1.5
    conflict = msgspec.structs.replace(call[3], position=50, record=tone(9))
    assert sorted((await feed(reopened, [conflict])).rejected) == [50]


def test_a_proof_follows_from_what_an_event_says() -> None:
    assert proof_of(tone(1)) == proof_of(tone(1)) != proof_of(tone(2))
    assert proof_of(AudioChunk(data=b'{"events":3,"reason":"hangup"}')) != proof_of(CallEnded(events=3))
    assert len(proof_of(START)) == PROOF_BYTES


def test_proofs_are_kept_of_the_last_events_and_survive_a_restart() -> None:
    proofs = Proofs()
    for seq in [*range(5), *range(10, MAX_PROOFS + 6)]:
        proofs.add(seq, seq.to_bytes(PROOF_BYTES, "big"))
    assert [proofs.of(seq) for seq in (0, 1, 2, 4, 5, 9, 10, MAX_PROOFS + 7)] == [
        None,
        b"\0\0\1",
        b"\0\0\2",
        b"\0\0\4",
        None,
        None,
        b"\0\0\x0a",
        None,
    ]
    again = Proofs(proofs.below(20))
    assert again.of(19) == (19).to_bytes(PROOF_BYTES, "big")
    assert again.of(20) is None
    again.add(20, b"abc")
    assert again.below(10**9)[-1].first_seq == 10


def test_holes_do_not_make_the_proofs_large() -> None:
    proofs = Proofs()
    for seq in range(0, 1000, 2):
        proofs.add(seq, b"abc")
    assert len(proofs.below(10**9)) == MAX_RUNS
    assert proofs.of(998) == b"abc"
    assert proofs.of(998 - 2 * MAX_RUNS) is None
