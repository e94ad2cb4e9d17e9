import pytest

from schemas.audio import CallEnded, CallUpdated
from schemas.utterances import CallChanged, CallClosed, CallProgress, Part, Utterance
from stages.separate.endpointing import EndpointingSettings
from stages.separate.stage import SeparateStage
from tests.unit.stages.separate.scripted import (
    LoudnessModel,
    bursts,
    call_events,
    in_order,
    separate,
)

PACKED = SeparateStage(LoudnessModel(), EndpointingSettings(pack_s=6.0, pack_span_s=40.0))


async def utterances(
    *stretches: tuple[float, float], length_s: float, stage: SeparateStage = PACKED
) -> list[Utterance]:
    run = await separate(in_order(call_events(bursts(*stretches, length_s=length_s))), stage)
    return [record for record in run.records if isinstance(record, Utterance)]


async def test_a_pack_is_its_utterances_without_the_pauses() -> None:
    stretches = ((1.0, 2.0), (5.0, 6.5), (9.0, 10.0))
    alone = await utterances(*stretches, length_s=12.0, stage=SeparateStage(LoudnessModel()))
    (pack,) = await utterances(*stretches, length_s=12.0)
    assert len(alone) == 3
    assert pack.pcm == b"".join(one.pcm for one in alone)
    assert pack.parts == [Part(one.first_sample, len(one.pcm) // 2) for one in alone]
    assert pack.voiced == [span for one in alone for span in one.voiced]
    assert (pack.start_s, pack.end_s, pack.cut) == (alone[0].start_s, alone[-1].end_s, alone[-1].cut)
    assert pack.audio_s == pytest.approx(sum(one.end_s - one.start_s for one in alone))


async def test_a_pack_holds_no_more_audio_than_it_may() -> None:
    found = await utterances(*((at + 1.0, at + 2.5) for at in range(0, 40, 4)), length_s=42.0)
    assert [len(one.parts) for one in found] == [2, 2, 2, 2, 2]
    assert all(one.audio_s <= 6.0 for one in found)


async def test_a_pack_does_not_wait_for_ever() -> None:
    history = in_order(call_events(bursts((1.0, 2.0), (60.0, 61.0), length_s=62.0)))
    run = await separate(history, PACKED)
    first, second = (item.position for item in run.published if isinstance(item.output.record, Utterance))
    assert 40.0 <= first * 0.5 <= 42.5
    assert second > first


async def test_utterances_at_a_hard_cut_stay_alone() -> None:
    found = await utterances((1.0, 2.0), (5.0, 24.0), (27.0, 28.0), length_s=30.0)
    assert [len(one.parts) for one in found] == [0, 0, 0, 0]
    assert [bool(one.after) for one in found] == [False, True, False, False]


async def test_progress_stops_at_utterances_that_wait_in_a_pack() -> None:
    run = await separate(in_order(call_events(bursts((1.0, 2.0), length_s=30.0))), PACKED)
    told = [record.heard_to_s[0] for record in run.records if isinstance(record, CallProgress)]
    begin_s = next(record.start_s for record in run.records if isinstance(record, Utterance))
    assert max(told) == begin_s


async def test_an_update_follows_the_packed_utterances_before_it() -> None:
    events = call_events(bursts((1.0, 2.0), (8.0, 9.0), length_s=12.0), chunk_s=1.0)
    events.insert(6, CallUpdated(language="es"))
    run = await separate(in_order(events[:-1]), PACKED)
    kinds = [type(record) for record in run.records if isinstance(record, Utterance | CallChanged)]
    assert kinds == [Utterance, CallChanged]


async def test_hours_of_silence_after_a_pack_are_skipped() -> None:
    *events, _ = call_events(bursts((1.0, 2.0), length_s=4.0), chunk_s=1.0)
    missing = 20_000
    run = await separate(in_order([*events, CallEnded(events=len(events) + missing + 1)]), PACKED)
    assert sum(isinstance(record, Utterance) for record in run.records) == 1
    (closed,) = (record for record in run.records if isinstance(record, CallClosed))
    assert closed.duration_s == 4.0 + missing
