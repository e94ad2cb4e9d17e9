"""Updates: a producer changes settings of a call in progress."""

import random
from pathlib import Path

import msgspec
import pytest

from schemas import topics
from schemas.audio import AudioEvent, CallEnded, CallIdle, CallUpdated, UnusableUpdate
from schemas.status import DeadLetter, JobStatus
from schemas.utterances import CallChanged, CallClosed, CallOpened, CallProgress, InterimUtterance, Utterance
from stages.separate.stage import SeparateStage
from tests.unit.stages.separate.scripted import (
    CALL,
    Arrival,
    LoudnessModel,
    Run,
    after_crash,
    bursts,
    call_events,
    feed,
    in_order,
    separate,
    wire,
)
from tests.unit.stages.separate.test_stage import as_container

SPANISH = CallUpdated(language="es", hotwords=["Iberdrola"])


def with_update(events: list[AudioEvent], at: int, update: AudioEvent = SPANISH) -> list[AudioEvent]:
    """Insert `update` as event `at`; later events are renumbered."""
    *rest, end = events
    assert isinstance(end, CallEnded)
    return [*rest[:at], update, *rest[at:], CallEnded(events=end.events + 1)]


def changes(run: Run) -> list[CallChanged]:
    return [record for record in run.records if isinstance(record, CallChanged)]


def starts(run: Run) -> list[tuple[int, float]]:
    return [(item.channel, round(item.start_s, 3)) for item in run.records if isinstance(item, Utterance)]


async def test_an_update_follows_the_utterances_before_it_with_its_time() -> None:
    events = call_events(bursts((1, 2), (4, 5.5), (8, 9), length_s=11), chunk_s=0.5)
    run = await separate(in_order(with_update(events, 11)))
    plain = await separate(in_order(events))
    assert [type(record) for record in run.records if not isinstance(record, CallProgress)] == [
        CallOpened,
        Utterance,
        CallChanged,
        Utterance,
        Utterance,
        CallClosed,
    ]
    [changed] = changes(run)
    assert (changed.from_s, changed.language, changed.hotwords) == (5.0, "es", ["Iberdrola"])
    assert changed.partials is msgspec.UNSET
    assert starts(run) == starts(plain)
    assert [record.seq for record in run.records] == list(range(len(run.records)))
    entries = [output.record for output in run.others if output.topic == topics.STATUS]
    [entry] = [entry for entry in entries if isinstance(entry, JobStatus) and entry.status == "updated"]
    assert entry.detail == {"event": 11, "from_s": 5.0, "language": "es", "hotwords": ["Iberdrola"]}


async def test_an_update_takes_its_place_whenever_it_comes() -> None:
    events = in_order(with_update(call_events(bursts((1, 2), (4, 5.5), length_s=7), chunk_s=0.5), 6))
    late = [*events[:6], *events[7:10], events[6], events[6], *events[10:]]
    assert (await separate(late)).records == (await separate(events)).records


async def test_updates_do_not_delay_progress() -> None:
    *events, end = call_events(bursts((1, 2), length_s=20), chunk_s=0.5)
    flood = [item for event in events for item in (event, SPANISH)]
    run = await separate(in_order([*flood, end]))
    assert len(changes(run)) == len(events)
    heard = [record.heard_to_s[0] for record in run.records if isinstance(record, CallProgress)]
    assert len(heard) >= 8


@pytest.mark.parametrize("update", [UnusableUpdate(value=b'{"language":"tlh"}', error="'tlh' is not a code")])
async def test_an_unusable_update_becomes_a_dead_letter_without_a_gap(update: UnusableUpdate) -> None:
    events = call_events(bursts((1, 2), (4, 5.5), length_s=7), chunk_s=0.5)
    run = await separate(in_order(with_update(events, 6, update)))
    plain = await separate(in_order(events))
    assert run.records == plain.records
    [letter] = [output.record for output in run.others if isinstance(output.record, DeadLetter)]
    assert (letter.value, letter.message, letter.position) == (update.value, update.error, 6)
    assert letter.headers["ce_type"] == "callstream.call.updated"
    assert run.rejected == {}


async def test_an_update_after_the_end_or_in_the_starts_place_is_refused() -> None:
    events = in_order(call_events(bursts((1, 2), length_s=3), chunk_s=0.5))
    run = await separate([Arrival(90, 0, SPANISH), *events, Arrival(91, len(events), SPANISH)])
    assert "a call's start, and only it" in run.rejected[90]
    assert "after the call's end" in run.rejected[91]
    assert changes(run) == []


async def test_an_update_reopens_a_call_that_had_fallen_silent() -> None:
    events = in_order(call_events(bursts((1, 2), (4, 5), length_s=7), chunk_s=0.5))
    processor = SeparateStage(LoudnessModel()).open(CALL, None)
    await feed(processor, [*events[:7], Arrival(90, 6, CallIdle(next_seq=7))])
    assert processor.finished
    run = await feed(processor, [Arrival(91, 7, SPANISH)])
    assert not processor.finished
    run = await feed(processor, [Arrival(92, 7, CallIdle(next_seq=8))])
    assert [(end.revision, end.provisional) for end in run.records if isinstance(end, CallClosed)] == [(2, True)]


async def test_an_update_turns_interims_on_and_off() -> None:
    talk = bursts((1, 6), (8, 13), (15, 20), length_s=22)
    events = with_update(call_events(talk, chunk_s=0.5), 15, CallUpdated(partials=True))
    events = with_update(events, 30, CallUpdated(partials=False))
    run = await separate(in_order(events))
    found = [output.record for output in run.others if isinstance(output.record, InterimUtterance)]
    assert found
    assert {round(interim.start_s) for interim in found} == {8}
    assert [changed.partials for changed in changes(run)] == [True, False]


async def test_an_update_of_a_container_holds_for_all_of_it(tmp_path: Path) -> None:
    events = as_container(_written(tmp_path))
    run = await separate(in_order(with_update(events, 2)))
    opened = run.records[0]
    assert isinstance(opened, CallOpened)
    assert (opened.language, opened.hotwords) == ("es", ["Iberdrola"])
    assert changes(run) == []


def _written(folder: Path) -> Path:
    from tests.calls import bad

    return bad.write_wav(folder / "call.wav", [bursts((1, 2), length_s=4)], rate_hz=8000, channels=1)


async def test_a_crash_after_any_output_of_a_call_with_updates_changes_no_byte() -> None:
    dice = random.Random(3)
    events = call_events(bursts((1, 4), (6, 16), length_s=18), bursts((3, 5), (9, 10), length_s=18, seed=2))
    for at in sorted(dice.sample(range(2, 30), 5)):
        updates: list[AudioEvent] = [
            SPANISH,
            CallUpdated(language=None),
            UnusableUpdate(value=b"[]", error="no object"),
        ]
        events = with_update(events, at, dice.choice(updates))
    history = in_order(events)
    stage = SeparateStage(LoudnessModel())
    whole = await separate(history, stage)
    told = {output.event_id: output.record for output in whole.others}
    for n_published in range(len(whole.published) + 1):
        for only_unreleased in (True, False):
            again = await after_crash(history, whole, n_published, only_unreleased=only_unreleased, stage=stage)
            assert wire(again) == wire(whole)
            for output in again.others:
                assert told[output.event_id] == output.record
