"""Live text of one call, with an engine that changes its mind."""

import asyncio
import threading

import msgspec

from schemas.partials import FINAL_REVISION, Partial
from schemas.utterances import CallChanged, CallProgress
from stages.protocol import Event, Origin
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage
from tests.unit.stages.transcribe.engines import until
from tests.unit.stages.transcribe.live_call import (
    WaveringEngine,
    assert_nothing_flipped,
    call,
    commitment,
    interim,
    opened,
    utterance,
)
from tests.unit.stages.transcribe.records import CALL, closed


async def test_text_is_shown_while_spoken_and_committed_where_hypotheses_agree() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        for revision in (1, 2, 3, 4):
            await live.publish(interim(1, 5.0, revision))
            shown = await live.until_partials(revision)
        await live.publish(utterance(1, 1, 5.0, 4.5))
        [segment] = await live.until_segments(1)
        shown = await live.until_partials(5)
    assert [(partial.committed, partial.tail) for partial in shown[:4]] == [
        ("", "w0maybe2 w1maybe2"),
        ("", "w0 w1 w2maybe4 w3maybe4"),
        ("w0 w1", " w2 w3 w4maybe6 w5maybe6"),
        ("w0 w1 w2 w3", " w4 w5 w6maybe8 w7maybe8"),
    ]
    assert [partial.revision for partial in shown] == [1, 2, 3, 4, FINAL_REVISION]
    last = shown[-1]
    assert (last.committed, last.tail, last.final) == (segment.text, "", True)
    assert segment.text == "w0 w1 w2 w3 W4 W5 w6 W7 W8"
    assert {partial.utterance_id for partial in shown} == {segment.segment_id}
    assert {(partial.channel, partial.speaker, partial.start_s) for partial in shown} == {(1, "customer", 5.0)}


async def test_a_commitment_that_follows_its_utterance_changes_nothing() -> None:
    late = commitment("something else")
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(utterance(1, 0, 1.0, 1.0))
        await live.publish(late)
        await live.publish(closed(2))
        await live.until_done()
        [segment] = await live.segments()
        [last] = await live.partials()
    assert segment.text == last.committed == "w0 W1"


async def test_of_two_commitments_to_different_text_the_first_one_holds() -> None:
    first = commitment("one", tail=" two")
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(first)
        await live.publish(msgspec.structs.replace(first, committed="another one", revision=2))
        await live.publish(msgspec.structs.replace(first, committed="one two", revision=3))
        await live.publish(utterance(1, 0, 1.0, 1.5))
        [segment] = await live.until_segments(1)
        partials = await live.partials()
    assert segment.text == "one two W2"
    assert [partial.committed for partial in partials] == ["one", "one two", "one two W2"]


async def test_words_that_a_cut_may_still_take_away_are_not_committed() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        for revision in range(1, 9):
            await live.publish(interim(0, 1.0, revision, certain=revision <= 4))
            shown = await live.until_partials(revision)
    assert shown[-1].committed.split() == [f"w{index}" for index in range(6)]
    assert len((shown[-1].committed + shown[-1].tail).split()) == 16


async def test_a_newer_interim_replaces_one_that_waits_and_the_final_both() -> None:
    engine = WaveringEngine()
    engine.gate.clear()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(interim(1, 1.0, 1))  # takes the one worker that interims may have
        await asyncio.sleep(0.05)
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
        await until(lambda: len(live.dropped) == 2)
        assert live.dropped == ["newer", "newer"]
        await live.publish(utterance(1, 0, 1.0, 4.0))
        await until(lambda: len(live.dropped) == 3)
        engine.gate.set()
        [segment] = await live.until_segments(1)
    assert live.dropped == ["newer", "newer", "final"]
    assert engine.interims == [1.0]
    assert segment.channel == 0


async def test_a_final_is_not_held_up_by_an_interim_of_the_call() -> None:
    engine = WaveringEngine()
    hold = HeldInterims()
    async with call(hold) as live:
        await live.publish(opened())
        await live.publish(interim(1, 1.0, 1))
        await until(lambda: hold.held == 1)
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(CallProgress(call=CALL, seq=2, heard_to_s=[3.0, 1.0]))
        [segment] = await live.until_segments(1)
        assert segment.channel == 0
        hold.let_go.set()
    assert engine.interims == []


class HeldInterims(WaveringEngine):
    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.held = 0

    def _hear(self, row: Row) -> Transcription:
        if row.interim:
            self.held += 1
            self.let_go.wait(10)
        return super()._hear(row)


async def test_committed_text_stays_if_the_engine_fails() -> None:
    async with call(WaveringEngine(fails_finals=True)) as live:
        await live.publish(opened())
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        await live.publish(utterance(1, 0, 1.0, 3.5))
        [segment] = await live.until_segments(1)
        partials = await live.until_partials(4)
    assert (segment.text, segment.guard, segment.flags) == ("w0 w1", None, ["error"])
    assert [(word.text, word.interpolated) for word in segment.words] == [("w0", True), ("w1", True)]
    assert_nothing_flipped(partials, [segment])


async def test_committed_text_is_not_dropped_by_a_guard() -> None:
    async with call(WaveringEngine(no_speech=0.99)) as live:
        await live.publish(opened())
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        await live.publish(utterance(1, 0, 1.0, 3.5))
        await live.publish(utterance(2, 0, 9.0, 3.5))
        kept, dropped = await live.until_segments(2)
    assert (kept.text.split()[:2], kept.guard, kept.flags) == (["w0", "w1"], None, ["no_speech"])
    assert (dropped.text, dropped.guard) == ("", "no_speech")


async def test_a_call_that_nobody_asks_for_gets_no_partials() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        assert await live.partials() == []
    assert engine.interims == []


async def test_a_call_gets_partials_of_utterances_heard_while_it_is_watched() -> None:
    """The first utterance had ended before, the second had begun, and nobody watches the last one any more."""
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        for number, revision in enumerate((4, 5), 1):
            await live.publish(interim(0, 5.0, revision))
            await live.until_partials(number)
        await live.publish(utterance(2, 0, 5.0, 6.0))
        await live.publish(utterance(3, 0, 15.0, 2.0))
        _, segment, _ = await live.until_segments(3)
        partials = await live.partials()
    assert [partial.revision for partial in partials] == [4, 5, FINAL_REVISION]
    assert {partial.utterance_id for partial in partials} == {segment.segment_id}
    assert partials[1].committed
    assert_nothing_flipped(partials, [segment])


async def test_an_interim_repeated_after_its_utterance_gives_nothing() -> None:
    """A separator that resumes after a crash may repeat interims, and meanwhile somebody has begun to watch."""
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(interim(0, 1.0, 1))
        await live.publish(closed(2))
        await live.until_done()
        assert await live.partials() == []
    assert engine.interims == []


async def test_a_call_may_begin_to_ask_and_stop() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(CallChanged(call=CALL, seq=2, from_s=4.0, partials=True))
        await live.publish(utterance(3, 0, 5.0, 2.0))
        await live.publish(CallChanged(call=CALL, seq=4, from_s=8.0, partials=False))
        await live.publish(utterance(5, 0, 9.0, 2.0))
        _, segment, _ = await live.until_segments(3)
        partials = await live.partials()
    assert [(partial.utterance_id, partial.final) for partial in partials] == [(segment.segment_id, True)]


async def test_an_interim_is_decoded_in_the_language_in_force_when_it_began() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(CallChanged(call=CALL, seq=1, from_s=6.0, language="fr"))
        await live.publish(interim(0, 5.0, 1))
        await live.until_partials(1)
        await live.publish(interim(1, 6.0, 1))
        await live.until_partials(2)
    assert engine.asked == ["en", "fr"]


async def test_interims_after_an_utterance_are_decoded_in_the_calls_language() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        await live.publish(interim(1, 6.0, 1))
        await live.until_partials(2)
    assert engine.asked == ["en"]


async def test_a_call_whose_state_predates_partials_can_be_watched() -> None:
    state = msgspec.msgpack.encode({"released": 1, "vote": {"locked": "en"}})
    scheduler = Scheduler(WaveringEngine(), workers=1)
    try:
        processor = TranscribeStage(scheduler).open(CALL, state)
        event = Event(seq=1, event_id="", origin=Origin("in", 0, 1, CALL.key), timestamp_s=1.0)
        [shown] = [output.record async for output in processor.submit(interim(1, 1.0, 1), event)]
    finally:
        await scheduler.close()
    assert isinstance(shown, Partial)
    assert shown.speaker == "channel-1"
