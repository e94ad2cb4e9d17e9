"""Interim versions of utterances, for calls that asked for partials or are watched."""

import msgspec
import pytest

from schemas import envelope
from schemas.audio import AudioEvent, CallStarted, CallWatched
from schemas.utterances import CallOpened, InterimUtterance, Utterance
from stages.separate.codecs import Samples
from stages.separate.stage import SeparateStage
from tests.unit.stages.separate.scripted import (
    CALL,
    Arrival,
    LoudnessModel,
    Run,
    bursts,
    call_events,
    feed,
    in_order,
    separate,
)

CHANNELS = bursts((1, 4.4), (8, 27), length_s=30), bursts((2, 2.5), (9, 12), length_s=30, seed=2)


def watched(*channels: Samples, chunk_s: float = 0.2) -> list[AudioEvent]:
    start, *rest = call_events(*channels, chunk_s=chunk_s)
    assert isinstance(start, CallStarted)
    return [msgspec.structs.replace(start, partials=True), *rest]


def interims(run: Run, channel: int) -> list[InterimUtterance]:
    records = [output.record for output in run.others]
    return [record for record in records if isinstance(record, InterimUtterance) and record.channel == channel]


def utterances(run: Run, channel: int) -> list[Utterance]:
    return [record for record in run.records if isinstance(record, Utterance) and record.channel == channel]


def stretches(interim: InterimUtterance) -> float:
    return len(interim.pcm) / 2 / interim.sample_rate_hz


async def test_an_open_utterance_is_sent_again_each_second_from_its_start() -> None:
    run = await separate(in_order(watched(*CHANNELS)))
    first, *_ = utterances(run, 0)
    found = [interim for interim in interims(run, 0) if interim.first_sample == first.first_sample]
    assert [interim.revision for interim in found] == [1, 2, 3, 4]
    assert [stretches(interim) for interim in found] == pytest.approx([1, 2, 3, 4], abs=0.05)
    for interim in found:
        assert first.pcm.startswith(interim.pcm) or interim.pcm.startswith(first.pcm)
        assert all(first.start_s <= start_s < end_s <= interim.end_s for start_s, end_s in interim.voiced)


async def test_every_interim_precedes_its_utterance_and_a_certain_one_is_inside_it() -> None:
    """Also for a speaker without a pause for 19 s, where a hard cut searches the last seconds."""
    run = await separate(in_order(watched(*CHANNELS)))
    for channel in (0, 1):
        finals = {utterance.first_sample: utterance for utterance in utterances(run, channel)}
        found = interims(run, channel)
        assert {interim.first_sample for interim in found} <= finals.keys()
        for interim in found:
            final = finals[interim.first_sample]
            assert interim.before == final.before
            if interim.certain and final.cut == "hard":
                assert interim.end_s <= final.end_s
    assert any(interim.before for interim in interims(run, 0))
    assert any(not interim.certain for interim in interims(run, 0))
    assert all(interim.certain == (stretches(interim) <= 9) for interim in interims(run, 0))


async def test_a_click_has_no_interims() -> None:
    run = await separate(in_order(watched(bursts((1, 1.3), (4, 4.3), length_s=8))))
    assert interims(run, 0) == []


async def test_interims_do_not_change_the_numbered_records_of_a_call() -> None:
    plain = await separate(in_order(call_events(*CHANNELS, chunk_s=0.2)))
    run = await separate(in_order(watched(*CHANNELS)))
    assert not [output for output in plain.others if isinstance(output.record, InterimUtterance)]
    opened, *rest = run.records
    assert isinstance(opened, CallOpened)
    assert [msgspec.structs.replace(opened, partials=False), *rest] == plain.records
    assert len(run.published) == len(plain.published)
    unwatched = await separate(in_order(watched(*CHANNELS)), SeparateStage(LoudnessModel(), lane="batch"))
    assert [output.event_id for output in unwatched.others] == [output.event_id for output in plain.others]


async def test_a_repeated_interim_has_the_same_id_and_bytes() -> None:
    """A separator that is restored from any checkpoint processes again what the checkpoint does not release."""
    events = in_order(watched(*CHANNELS))
    whole = await separate(events)
    sent = {
        output.event_id: envelope.encode(output.record)
        for output in whole.others
        if isinstance(output.record, InterimUtterance)
    }
    assert sent
    for cut in whole.published[:: max(1, len(whole.published) // 6)]:
        again = await _from(events, cut.state, cut.released)
        for output in again.others:
            if isinstance(output.record, InterimUtterance):
                assert envelope.encode(output.record) == sent[output.event_id]


async def _from(events: list[Arrival], state: bytes, released: int) -> Run:
    processor = SeparateStage(LoudnessModel()).open(CALL, state or None)
    return await feed(processor, events[released:], state=state, released=released)


def at(events: list[Arrival], position: int, seconds: float) -> list[Arrival]:
    """Return the events with a viewer who starts to watch after one of them. Each is stored a second after the last."""
    asks = Arrival(position, position + 1, CallWatched(seconds=seconds))
    return sorted([*events, asks], key=lambda item: item.position)


async def test_a_watched_call_has_interims_until_the_last_request_expires() -> None:
    plain = in_order(call_events(*CHANNELS, chunk_s=0.2))
    run = await separate(at(plain, 60, seconds=25.5))
    assert run.records == (await separate(plain)).records
    found = interims(run, 0)
    assert found
    assert all(0.2 * 60 - 1 <= interim.end_s <= 0.2 * 86 for interim in found)
    renewed = await separate(at(at(plain, 60, seconds=25.5), 80, seconds=25.5))
    assert max(interim.end_s for interim in interims(renewed, 0)) > 0.2 * 90


async def test_an_older_request_does_not_end_a_longer_one() -> None:
    plain = in_order(call_events(*CHANNELS, chunk_s=0.2))
    longer = await separate(at(plain, 60, seconds=60.0))
    both = await separate(at(at(plain, 60, seconds=60.0), 61, seconds=1.0))
    assert interims(both, 0) == interims(longer, 0)


async def test_that_a_call_is_watched_outlives_a_restart() -> None:
    events = at(in_order(call_events(*CHANNELS, chunk_s=0.2)), 20, seconds=1_000.0)
    whole = await separate(events)
    sent = {interim.end_s for interim in interims(whole, 0)}
    for cut in [item for item in whole.published if item.position > 22][::3]:
        rest = [item for item in events if item.seq >= cut.released and not isinstance(item.record, CallWatched)]
        processor = SeparateStage(LoudnessModel()).open(CALL, cut.state)
        again = await feed(processor, rest, state=cut.state, released=cut.released)
        assert {interim.end_s for interim in interims(again, 0)} >= {
            end_s for end_s in sent if end_s > (cut.position + 1) * 0.2
        }


async def test_a_request_for_a_call_that_has_not_begun_or_is_over_does_nothing() -> None:
    ask = Arrival(500, 500, CallWatched())
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    run = await feed(processor, [ask])
    assert (run.published, run.others, run.rejected, processor.finished) == ([], [], {}, True)
    assert processor.checkpoint().state == b""
    whole = await separate(in_order(call_events(*CHANNELS)))
    over = SeparateStage(LoudnessModel()).open(CALL, whole.published[-1].state)
    run = await feed(over, [ask, ask])
    assert (run.published, run.others, run.rejected, over.finished) == ([], [], {}, True)


async def test_backfill_that_is_watched_has_no_interims() -> None:
    stage = SeparateStage(LoudnessModel(), lane="batch")
    run = await separate(at(in_order(call_events(*CHANNELS, chunk_s=0.2)), 20, seconds=1_000.0), stage)
    assert interims(run, 0) == []
