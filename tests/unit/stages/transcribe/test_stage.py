"""The transcribe stage with an engine that needs no model."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.segments import Segment
from schemas.status import JobStatus
from schemas.topics import SEGMENTS, STATUS
from schemas.utterances import CallChanged, CallOpened, CallProgress, Channel, Part, Utterance, UtteranceRecord
from stages.errors import MachineFailure, RejectedInput
from stages.protocol import Checkpoint, Event, Origin, Output
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeProcessor, TranscribeStage, TranscribeState
from stages.transcribe.undecided import UndecidedAudio
from tests.unit.stages.transcribe.engines import FakeEngine, until
from tests.unit.stages.transcribe.records import CALL, closed

UNSURE = 500
"""The level of speech whose language `UnsureEngine` cannot tell."""


class UnsureEngine(FakeEngine):
    def detected(self, level: int) -> dict[str, float]:
        return {"de": 0.5, "en": 0.45} if level == UNSURE else super().detected(level)


def opened(language: str | None = None) -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=8000,
        encoding="pcm_s16le",
        language=language,
        partials=False,
        metadata={},
        opened_at=1.0,
    )


def utterance(seq: int, level: int, *, seconds: float = 2.0, voiced_s: float | None = None) -> Utterance:
    """An utterance that begins `seq` × 10 s into the call; the fake engine writes its level."""
    start_s = seq * 10.0
    samples = np.full(int(seconds * 16_000), round(level / 1000 * 32768), "<i2")
    return Utterance(
        call=CALL,
        seq=seq,
        channel=seq % 2,
        first_sample=int(start_s * 16_000),
        sample_rate_hz=16_000,
        pcm=samples.tobytes(),
        voiced=[(start_s, start_s + (seconds if voiced_s is None else voiced_s))],
        cut="pause",
    )


def changed(seq: int, from_s: float, **what: Any) -> CallChanged:
    return CallChanged(call=CALL, seq=seq, from_s=from_s, **what)


def progress(seq: int) -> CallProgress:
    return CallProgress(call=CALL, seq=seq, heard_to_s=[seq * 10.0, seq * 10.0])


def event(record: UtteranceRecord) -> Event:
    origin = Origin("in", 0, record.seq, CALL.key)
    return Event(seq=record.seq, event_id=str(record.seq), origin=origin, timestamp_s=1000.0 + record.seq)


@asynccontextmanager
async def stage(
    engine: FakeEngine | None = None, *, language: str | None = None, live: bool = True
) -> AsyncIterator[Callable[[bytes | None], TranscribeProcessor]]:
    engine = engine or FakeEngine()
    scheduler = Scheduler(engine, workers=3)
    made = TranscribeStage(scheduler, language=language, live=live)
    try:
        yield lambda state: made.open(CALL, state)
    finally:
        engine.gate.set()
        await scheduler.close()


async def process(processor: TranscribeProcessor, records: Sequence[UtteranceRecord]) -> list[Output]:
    """Submit all records at once, as the runner does, then iterate in order."""
    return [output for work in [processor.submit(r, event(r)) for r in records] async for output in work]


async def segments(
    records: Sequence[UtteranceRecord], engine: FakeEngine | None = None, *, live: bool = True
) -> list[Segment]:
    async with stage(engine, live=live) as open_call:
        outputs = await process(open_call(None), records)
    return [output.record for output in outputs if isinstance(output.record, Segment)]


def ledger(outputs: Sequence[Output], status: str) -> list[JobStatus]:
    entries = [output.record for output in outputs if isinstance(output.record, JobStatus)]
    return [entry for entry in entries if entry.status == status]


async def test_an_utterance_becomes_a_segment_with_the_times_of_the_call() -> None:
    (segment,) = await segments([opened("en"), utterance(1, 7)])
    assert (segment.seq, segment.channel, segment.text) == (1, 1, "en 7")
    assert (segment.start_s, segment.end_s) == (10.0, 12.0)
    assert [(word.start_s, word.end_s) for word in segment.words] == [(10.1, 10.5)]
    assert segment.segment_id == str(CALL.derived_id("segment", 1, 160_000))
    assert (segment.language, segment.model, segment.word_source) == ("en", "fake", "attention")
    assert segment.probability == 0.9


async def test_an_utterance_of_several_parts_becomes_a_segment_of_as_many() -> None:
    first, second = utterance(1, 7, voiced_s=1.5), utterance(3, 8, voiced_s=1.5)
    joined = msgspec.structs.replace(
        first,
        pcm=first.pcm + second.pcm,
        voiced=first.voiced + second.voiced,
        parts=[Part(one.first_sample, 32_000) for one in (first, second)],
    )
    engine = FakeEngine(words=[(0.1, 0.5), (2.3, 2.9), (3.2, 3.4)])
    (segment,) = await segments([opened("en"), joined], engine)
    assert (segment.start_s, segment.end_s, segment.parts) == (10.0, 32.0, [(10.0, 12.0), (30.0, 32.0)])
    assert [(word.start_s, word.end_s) for word in segment.words] == [(10.1, 10.5), (30.3, 30.9), (31.2, 31.4)]
    assert segment.segment_id == str(CALL.derived_id("segment", 1, 160_000))


async def test_the_calls_hotwords_precede_its_tenants_after_a_restart_too() -> None:
    engine = FakeEngine()
    scheduler = Scheduler(engine, workers=1)
    stage_ = TranscribeStage(scheduler, hotwords=lambda tenant: [f"{tenant} Energy", "Carter"])
    try:
        first = stage_.open(CALL, None)
        named = msgspec.structs.replace(opened("en"), hotwords=["Northwind", " Carter ", ""])
        outputs = await process(first, [named, utterance(1, 1)])
        other = TranscribeStage(scheduler).open(CALL, first.checkpoint().state)
        await process(other, [utterance(2, 2)])
    finally:
        await scheduler.close()
    expected = ("Northwind", "Carter", "default Energy")
    assert engine.hotwords == [expected, expected]
    assert ledger(outputs, "started")[0].detail["hotwords"] == list(expected)


async def test_other_records_are_forwarded_unchanged_in_their_order() -> None:
    records: list[UtteranceRecord] = [opened("en"), utterance(1, 1), progress(2), utterance(3, 2), closed(4)]
    async with stage() as open_call:
        outputs = await process(open_call(None), records)
    numbered = [output for output in outputs if output.seq is not None]
    assert [output.seq for output in numbered] == [0, 1, 2, 3, 4]
    assert [numbered[index].record for index in (0, 2, 4)] == [records[0], records[2], records[4]]
    assert {output.topic for output in numbered} == {SEGMENTS}
    assert numbered[3].event_id == "default/call-1/transcribe.1/3"


async def test_the_ledger_records_a_calls_start_and_result() -> None:
    records: list[UtteranceRecord] = [
        opened("en"),
        utterance(1, 1),
        utterance(2, 19),
        utterance(3, 2, voiced_s=0.1),
        closed(4),
    ]
    async with stage() as open_call:
        outputs = await process(open_call(None), records)
    assert [output.topic for output in outputs].index(STATUS) == 0
    (started,) = ledger(outputs, "started")
    assert started.detail == {"model": "fake", "language": "en", "requested_language": "en"}
    (completed,) = ledger(outputs, "completed")
    assert completed.at == 1004.0
    assert completed.detail == {
        "model": "fake",
        "language": "en",
        "languages": {"en": 2.0},
        "utterances": 3,
        "with_words": 1,
        "aligned": 0,
        "failed": 0,
        "dropped": {"no_speech": 1, "short": 1},
        "audio_s": 6.0,
        "seconds": {
            "received_s": 120.0,
            "silence_s": 115.9,
            "worded_s": 0.75,
            "dropped_s": {"no_speech": 2.0, "short": 0.1},
            "unheard_s": {"no_words": 1.25},
        },
    }
    assert outputs[-1].seq == 4  # the numbered output is last: it carries the checkpoint


async def test_text_that_a_guard_drops_is_kept_aside() -> None:
    (segment,) = await segments([opened("en"), utterance(1, 19)])
    assert (segment.guard, segment.text, segment.words, segment.dropped_text) == ("no_speech", "", [], "en 19")


async def test_too_little_speech_is_answered_without_decoding() -> None:
    engine = FakeEngine()
    (segment,) = await segments([opened("en"), utterance(1, 7, voiced_s=0.1)], engine)
    assert (segment.guard, segment.text) == ("short", "")
    assert engine.batches == []


async def test_an_utterance_that_cannot_be_decoded_is_answered_and_reported() -> None:
    async with stage(FakeEngine(broken=frozenset({7}))) as open_call:
        outputs = await process(open_call(None), [opened("en"), utterance(1, 7), utterance(2, 8), closed(3)])
    first, second = (output.record for output in outputs if isinstance(output.record, Segment))
    assert (first.guard, first.text, first.seq) == ("error", "", 1)
    assert second.text == "en 8"
    (failed,) = ledger(outputs, "failed")
    assert failed.detail["error"] == "RuntimeError: broken audio"
    assert failed.detail["segment_id"] == first.segment_id
    (completed,) = ledger(outputs, "completed")
    assert completed.detail["failed"] == 1


async def test_a_device_that_fails_gives_no_segment_and_the_utterance_is_decoded_later() -> None:
    engine = FakeEngine()
    records: list[UtteranceRecord] = [opened("en"), utterance(1, 7)]
    async with stage(engine) as open_call:
        engine.failure = RuntimeError("the GPU has fallen off the bus")
        processor = open_call(None)
        with pytest.raises(MachineFailure):
            await process(processor, records)
        assert processor.checkpoint().released == 1
        engine.failure = None
        outputs = await process(open_call(None), records)
    assert [output.record.text for output in outputs if isinstance(output.record, Segment)] == ["en 7"]


async def test_an_utterance_that_is_given_up_leaves_an_empty_segment_and_an_entry() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        outputs = await process(processor, [opened("en")])
        given_up = processor.give_up(utterance(1, 7), event(utterance(1, 7)), reason="failed 3 times")
        outputs += [output async for output in given_up]
        outputs += await process(processor, [utterance(2, 8), closed(3)])
    first, second = (output.record for output in outputs if isinstance(output.record, Segment))
    assert (first.guard, first.text, first.seq) == ("error", "", 1)
    assert second.text == "en 8"
    (failed,) = ledger(outputs, "failed")
    assert failed.detail["error"] == "failed 3 times"
    assert processor.finished


async def test_an_utterance_longer_than_a_window_is_answered_and_reported() -> None:
    (segment,) = await segments([opened("en"), utterance(1, 7, seconds=31.0)])
    assert segment.guard == "error"


async def test_an_odd_last_byte_is_ignored() -> None:
    torn = msgspec.structs.replace(utterance(1, 7), pcm=utterance(1, 7).pcm + b"\1")
    (segment,) = await segments([opened("en"), torn])
    assert segment.text == "en 7"


async def test_a_telephone_rate_is_resampled_to_the_models() -> None:
    slow = msgspec.structs.replace(utterance(1, 7), sample_rate_hz=8000, first_sample=80_000)
    engine = FakeEngine()
    (segment,) = await segments([opened("en"), msgspec.structs.replace(slow, voiced=[(10.0, 14.0)])], engine)
    assert (segment.start_s, segment.end_s) == (10.0, 14.0)
    assert segment.guard is None


async def test_an_utterance_without_a_rate_is_rejected_before_anything_changes() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        with pytest.raises(RejectedInput):
            processor.submit(msgspec.structs.replace(utterance(0, 7), sample_rate_hz=0), event(utterance(0, 7)))
        assert len(await process(processor, [opened("en")])) == 2


@pytest.mark.parametrize("time_s", [-4e149, 1e300, 2.0**31, float("inf"), float("nan")])
async def test_an_utterance_with_a_time_that_cannot_be_is_rejected_before_anything_changes(time_s: float) -> None:
    impossible = msgspec.structs.replace(utterance(0, 7), voiced=[(time_s, 0.02)])
    async with stage() as open_call:
        processor = open_call(None)
        with pytest.raises(RejectedInput):
            processor.submit(impossible, event(utterance(0, 7)))
        assert len(await process(processor, [opened("en")])) == 2


async def test_several_utterances_of_a_call_are_in_the_engine_at_once() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with stage(engine) as open_call:
        work = asyncio.create_task(process(open_call(None), [opened("en"), *(utterance(n, n) for n in (1, 2, 3))]))
        await until(lambda: engine.running == 3)
        engine.gate.set()
        await work


async def test_until_the_language_is_locked_each_utterance_waits_for_the_vote() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with stage(engine) as open_call:
        work = asyncio.create_task(process(open_call(None), [opened(), *(utterance(n, 100 + n) for n in range(1, 6))]))
        await asyncio.sleep(0.05)
        assert engine.most_running == 1
        engine.gate.set()
        outputs = await work
    texts = [output.record.text for output in outputs if isinstance(output.record, Segment)]
    assert texts == ["de 101", "de 102", "de 103", "de 104", "de 105"]
    assert engine.batches[:2] == [[101], [102]]  # two sure votes settle it, the rest go side by side


async def test_one_utterance_in_another_language_does_not_switch_a_settled_call() -> None:
    texts = [
        segment.text for segment in await segments([opened(), *(utterance(n, 1) for n in (1, 2)), utterance(3, 205)])
    ]
    assert texts == ["en 1", "en 1", "en 205"]


async def test_long_speech_that_is_surely_in_another_language_is_decoded_in_that() -> None:
    records: list[UtteranceRecord] = [
        opened(),
        *(utterance(n, 1) for n in (1, 2)),
        utterance(3, 205, seconds=3.5),
        utterance(4, 1),
    ]
    made = await segments(records)
    assert [segment.language for segment in made] == ["en", "en", "fr", "en"]
    assert [segment.flags for segment in made] == [[], [], ["other_language"], []]


async def test_a_language_that_the_producer_names_admits_no_other() -> None:
    made = await segments([opened("en"), utterance(1, 1), utterance(2, 205, seconds=3.5)])
    assert [segment.language for segment in made] == ["en", "en"]


async def test_a_recorded_call_has_the_speech_before_the_vote_in_its_language_too() -> None:
    records: list[UtteranceRecord] = [
        opened(),
        utterance(1, UNSURE),
        *(utterance(n, 100 + n) for n in (2, 3)),
        closed(4),
    ]
    texts = [segment.text for segment in await segments(records, UnsureEngine(), live=False)]
    assert texts == [f"de {UNSURE}", "de 102", "de 103"]
    live = [segment.text for segment in await segments(records, UnsureEngine())]
    assert live == [f"en {UNSURE}", "de 102", "de 103"]


async def test_a_call_that_ends_before_the_vote_is_sure_keeps_what_was_decoded() -> None:
    records: list[UtteranceRecord] = [opened(), utterance(1, UNSURE), closed(2)]
    assert [segment.text for segment in await segments(records, UnsureEngine(), live=False)] == [f"en {UNSURE}"]


async def test_a_change_of_the_language_ends_the_wait_for_the_vote_before_it() -> None:
    records: list[UtteranceRecord] = [
        opened(),
        utterance(1, UNSURE),
        changed(2, 15.0, language="fr"),
        CallProgress(call=CALL, seq=3, heard_to_s=[15.0, 15.0]),
        utterance(4, 1),
    ]
    texts = [segment.text for segment in await segments(records, UnsureEngine(), live=False)]
    assert texts == [f"en {UNSURE}", "fr 1"]


async def test_without_room_nothing_waits_for_the_vote() -> None:
    engine = UnsureEngine()
    scheduler = Scheduler(engine, workers=3)
    made = TranscribeStage(scheduler, live=False)
    made.undecided = UndecidedAudio(limit_bytes=100)
    try:
        outputs = await process(made.open(CALL, None), [opened(), utterance(1, UNSURE)])
    finally:
        await scheduler.close()
    assert [output.record.text for output in outputs if isinstance(output.record, Segment)] == [f"en {UNSURE}"]


async def test_a_given_language_is_not_detected() -> None:
    (segment,) = await segments([opened("de-AT"), utterance(1, 1)])
    assert segment.language == "de"


async def test_an_unknown_language_is_detected() -> None:
    (segment,) = await segments([opened("tlh"), utterance(1, 101)])
    assert segment.language == "de"


async def test_the_deployments_language_counts_if_the_call_names_none() -> None:
    async with stage(language="fr") as open_call:
        outputs = await process(open_call(None), [opened(), utterance(1, 1)])
        other = await process(open_call(None), [opened("de"), utterance(1, 1)])
    assert [output.record.language for output in outputs if isinstance(output.record, Segment)] == ["fr"]
    assert [output.record.language for output in other if isinstance(output.record, Segment)] == ["de"]


async def test_an_utterance_that_began_before_a_change_keeps_the_old_settings() -> None:
    """The third utterance begins at 30 s, and its record follows a change at 35 s."""
    records: list[UtteranceRecord] = [
        opened("en"),
        utterance(1, 1),
        changed(2, 35.0, language="fr"),
        utterance(3, 1),
        utterance(4, 1),
        changed(5, 55.0, language="de"),
        changed(6, 55.0, hotwords=["Iberdrola"]),
        utterance(7, 1),
    ]
    assert [segment.language for segment in await segments(records)] == ["en", "en", "fr", "de"]


async def test_a_change_counts_from_the_start_of_speech_not_of_its_context() -> None:
    with_context = msgspec.structs.replace(utterance(2, 1), voiced=[(20.3, 22.0)])
    records: list[UtteranceRecord] = [opened("en"), changed(1, 20.3, language="fr"), with_context]
    assert [segment.language for segment in await segments(records)] == ["fr"]


async def test_a_language_that_is_withdrawn_is_detected_instead() -> None:
    records: list[UtteranceRecord] = [
        opened("en"),
        utterance(1, 1),
        changed(2, 15.0, language=None),
        *(utterance(n, 100 + n) for n in (3, 4, 5)),
    ]
    engine = FakeEngine()
    assert [segment.language for segment in await segments(records, engine)] == ["en", "de", "de", "de"]


async def test_settings_that_a_change_leaves_out_stay() -> None:
    engine = FakeEngine()
    records: list[UtteranceRecord] = [
        msgspec.structs.replace(opened(), hotwords=["Northwind"]),
        *(utterance(n, 100 + n) for n in (1, 2)),
        changed(3, 25.0, hotwords=["Iberdrola"]),
        utterance(4, 1),
        changed(5, 45.0, language="fr"),
        utterance(6, 1),
        changed(7, 65.0, hotwords=[]),
        utterance(8, 1),
    ]
    found = await segments(records, engine)
    assert [segment.text for segment in found] == ["de 101", "de 102", "de 1", "fr 1", "fr 1"]
    assert sorted(engine.hotwords) == [(), ("Iberdrola",), ("Iberdrola",), ("Northwind",), ("Northwind",)]


async def test_a_change_is_forwarded_and_the_ledger_has_the_new_settings() -> None:
    change = changed(2, 15.0, language="es-MX", hotwords=["Iberdrola", "Iberdrola "])
    async with stage(FakeEngine(languages=("en", "es"))) as open_call:
        outputs = await process(open_call(None), [opened("en"), utterance(1, 1), change, closed(3)])
    assert outputs[-3].record == change
    (entry,) = ledger(outputs, "updated")
    assert entry.detail == {"from_s": 15.0, "language": "es", "hotwords": ["Iberdrola"], "partials": False}
    assert ledger(outputs, "completed")[0].detail["language"] == "es"


async def test_settings_are_forgotten_once_all_channels_have_passed_them() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        await process(processor, [opened("en"), changed(1, 15.0, language="fr"), changed(2, 25.0, language="de")])
        held = len(processor.checkpoint().state)
        await process(processor, [progress(3)])
        assert len(processor.checkpoint().state) < held
        await process(processor, [changed(4, 45.0, hotwords=["Iberdrola"]), progress(5)])
        outputs = await process(open_call(processor.checkpoint().state), [utterance(6, 1)])
    assert [output.record.language for output in outputs if isinstance(output.record, Segment)] == ["de"]


async def test_an_english_model_decodes_english_whatever_is_asked() -> None:
    (segment,) = await segments([opened("de"), utterance(1, 101)], FakeEngine(languages=("en",)))
    assert segment.language == "en"


async def test_a_repeated_input_gives_nothing() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        await process(processor, [opened("en"), utterance(1, 1)])
        assert await process(processor, [opened("en"), utterance(1, 1)]) == []


async def test_a_call_is_finished_once_its_close_is_out_and_may_reopen() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        await process(processor, [opened("en"), utterance(1, 1)])
        assert not processor.finished
        work = processor.submit(closed(2, provisional=True), event(closed(2)))
        assert not processor.finished
        outputs = [output async for output in work]
        assert processor.finished
        reopened = open_call(processor.checkpoint().state)
        outputs += await process(reopened, [utterance(3, 2)])
        assert not reopened.finished
        outputs += await process(reopened, [closed(4, revision=1)])
    first, second = ledger(outputs, "completed")
    assert (first.detail["utterances"], second.detail["utterances"]) == (1, 2)
    assert len({output.event_id for output in outputs}) == len(outputs)


async def test_the_checkpoint_of_a_call_is_small() -> None:
    async with stage() as open_call:
        processor = open_call(None)
        await process(processor, [opened(), *(utterance(n, n, voiced_s=0.3) for n in range(1, 20))])
        assert len(processor.checkpoint().state) < 400


def test_checkpoints_keep_the_field_names_of_earlier_releases() -> None:
    stored = {
        "released": 3,
        "vote": {"locked": "en", "votes": {}, "sure": {}, "voiced_s": 0.0},
        "utterances": 2,
        "dropped": {"no_speech": 1},
        "audio_s": 4.0,
        "partials": {
            "speakers": ["agent"],
            "settled": {0: {"first_sample": 8000, "text": "so far", "language": "en"}},
            "asked": False,
        },
        "since_s": 5.0,
        "earlier": [
            {"from_s": 0.0, "vote": {"locked": "de", "votes": {}, "sure": {}, "voiced_s": 0.0}, "hotwords": []}
        ],
        "seams": {1: {"first_sample": 16000, "start_s": 1.5, "text": "on and"}},
    }
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=TranscribeState)
    assert state.overlaps[1].text == "on and"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state)) == stored


def stamped(outputs: Sequence[Output]) -> list[tuple[str, bytes]]:
    return [(output.event_id, msgspec.msgpack.encode(output.record)) for output in outputs]


async def run_with_crashes(records: Sequence[UtteranceRecord], crashes: Sequence[tuple[int, int]]) -> list[Output]:
    """Process a call as the runner does, losing the process at each of `crashes`: after so many more outputs are out.

    The checkpoint that counts is that of the last numbered output; the next process gets all records from its
    `released` on, or earlier ones too where the second number says so, and what was numbered before is dropped.
    """
    async with stage() as open_call:
        out: list[Output] = []
        stored = Checkpoint(state=b"", released=0)
        for more, earlier in [*crashes, (10_000, 0)]:
            processor = open_call(stored.state or None)
            resent = [record for record in records if record.seq >= max(0, stored.released - earlier)]
            works = [(record, processor.submit(record, event(record))) for record in resent]
            until = len(out) + more
            for _, work in works:
                before = processor.checkpoint()
                outputs = [output async for output in work]
                for index, output in enumerate(outputs):
                    if len(out) >= until:
                        break
                    last = index == len(outputs) - 1
                    checkpoint = processor.checkpoint() if last else before
                    if output.seq is None or output.seq > max((o.seq for o in out if o.seq is not None), default=-1):
                        out.append(output)
                        if output.seq is not None:
                            stored = checkpoint
                if len(out) >= until:
                    break
    seen: set[str] = set()
    return [output for output in out if output.event_id not in seen and not seen.add(output.event_id)]  # type: ignore[func-returns-value]


Change = dict[str, Any]
change_lists: st.SearchStrategy[list[tuple[int, float, Change]]] = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.sampled_from([-15.0, -5.0, 0.0, 5.0]),
        st.sampled_from([{"language": "fr"}, {"language": None}, {"hotwords": ["Iberdrola"]}, {"partials": True}]),
    ),
    max_size=3,
)


def with_changes(records: Sequence[UtteranceRecord], changes: list[tuple[int, float, Change]]) -> list[UtteranceRecord]:
    """Return the records with changes after some of them, and progress, renumbered. Times stay."""
    out: list[UtteranceRecord] = []
    from_s = 0.0
    for index, record in enumerate(records):
        out.append(record)
        for at, offset_s, change in changes:
            if at == index < len(records) - 1:
                from_s = max(from_s, at * 10.0 + offset_s)
                out += [changed(0, from_s, **change), CallProgress(call=CALL, seq=0, heard_to_s=[at * 10.0 + 1.0])]
    return [msgspec.structs.replace(record, seq=seq) for seq, record in enumerate(out)]


levels = st.lists(st.tuples(st.integers(1, 299), st.sampled_from([0.1, 0.6, 1.6, 5.0])), min_size=1, max_size=8)


@settings(max_examples=40)
@given(
    levels,
    st.sampled_from([None, "de"]),
    change_lists,
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=4),
)
def test_a_call_comes_out_the_same_to_the_byte_wherever_it_is_interrupted(
    said: list[tuple[int, float]],
    language: str | None,
    changes: list[tuple[int, float, Change]],
    crashes: list[tuple[int, int]],
) -> None:
    records: list[UtteranceRecord] = [opened(language)]
    records += [utterance(n, level, seconds=5.0, voiced_s=voiced) for n, (level, voiced) in enumerate(said, 1)]
    records = with_changes([*records, closed(len(records))], changes)
    whole = asyncio.run(run_with_crashes(records, []))
    assert stamped(asyncio.run(run_with_crashes(records, crashes))) == stamped(whole)
