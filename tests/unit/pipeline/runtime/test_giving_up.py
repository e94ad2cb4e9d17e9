"""Records that are given up: the stage ends their call as failed where it cannot go on, and the floor moves on."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_transcript, stage_records
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, envelope, topics
from schemas.calls import CallRef
from schemas.segments import SegmentRecord
from schemas.status import JobStatus
from schemas.summaries import Summary
from schemas.transcripts import TranscriptCompleted
from schemas.utterances import SpeakerTurn
from stages.merge.stage import MergeStage
from stages.protocol import CallProcessor, Event, Output
from stages.summarize.stage import SummarizeStage
from tests.unit.pipeline.runtime.test_call_runner import (
    CALLS,
    OUTPUT,
    Faults,
    Sums,
    SumStage,
    bus_with_inputs,
    by_call,
    publish,
    read_all,
    runner_on,
    stop,
    wait_for_lag,
)
from tests.unit.stages.merge.scripted import CALL, closed, numbered, opened, segment


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.call_work._RETRY_PAUSES_S", (0.0,))


async def bus_with_call(records: list[SegmentRecord]) -> MemoryBus:
    """A bus with the records of a call as the transcribe stage publishes them."""
    bus = MemoryBus(partitions=1)
    names = (topics.SEGMENTS, topics.TRANSCRIPTS, topics.SUMMARIES, topics.STATUS, topics.DEAD_LETTERS)
    await bus.ensure_topics([TopicSpec(name=name, partitions=1, retention_s=60) for name in names])
    for record in numbered(records):
        headers = cloudevents.headers(
            event_id=f"in/{record.seq}",
            event_type="callstream.stage",
            call=CALL,
            seq=record.seq,
            source="test",
            content_type=envelope.CONTENT_TYPE,
        )
        value = envelope.encode(record)
        await bus.publish(Outgoing(topics.SEGMENTS, CALL.key, value, f"in/{record.seq}", headers))
    return bus


def merging(bus: MemoryBus) -> StageRunner:
    metrics = Metrics()
    return StageRunner(
        bus,
        MergeStage(),
        subscription=Subscription(group="merge", topics=(topics.SEGMENTS,), progress_topic=topics.TRANSCRIPTS),
        decoder=stage_records(SegmentRecord),
        publisher=Publisher(bus, stage="merge", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=10_000,
    )


def summarizing(bus: MemoryBus) -> StageRunner:
    metrics = Metrics()
    return StageRunner(
        bus,
        SummarizeStage(),
        subscription=Subscription(group="summarize", topics=(topics.TRANSCRIPTS,), progress_topic=topics.SUMMARIES),
        decoder=decode_transcript,
        publisher=Publisher(bus, stage="summarize", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=10_000,
    )


async def entries(bus: MemoryBus) -> list[tuple[str, str]]:
    found = [msgspec.json.decode(r.value, type=JobStatus) for r in await read_all(bus, topics.STATUS, 10**6)]
    return [(entry.job, entry.status) for entry in found]


def fails(*_args: object, **_more: object) -> None:
    raise ZeroDivisionError("a bug")


async def test_a_call_that_cannot_be_merged_or_summarized_ends_as_failed_and_frees_its_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.merge.stage.turns_by_speaker", fails)
    monkeypatch.setattr("stages.summarize.stage.extractive_summary", fails)
    end = msgspec.structs.replace(closed(9.0), speakers=[SpeakerTurn(0.0, 1.0, "a")], speaker_source="estimated")
    bus = await bus_with_call([opened("agent"), segment("a", 0, 0.0, "hello there"), segment("b", 0, 5.0, "bye"), end])
    for runner in (merging(bus), summarizing(bus)):
        task = asyncio.create_task(runner.run())
        await wait_for_lag(bus, runner, 0, timeout_s=5.0)
        await stop(task)
    outputs = [r for r in await read_all(bus, topics.TRANSCRIPTS, 2) if r.headers["ce_type"].endswith("completed")]
    (transcript,) = [msgspec.json.decode(record.value, type=TranscriptCompleted) for record in outputs]
    assert [turn.text for turn in transcript.turns] == ["hello there"]
    assert [(gap.start_s, gap.end_s) for gap in transcript.gaps] == [(5.0, 9.0)]
    (written,) = await read_all(bus, topics.SUMMARIES, 1)
    assert msgspec.json.decode(written.value, type=Summary).detail == "failed 3 times"
    for job in ("merge", "summarize"):
        told = [status for by, status in await entries(bus) if by == job]
        assert [status for status in told if status != "started"] == [*["retrying"] * 3, "failed", "rejected"]


class Stubborn(Sums):
    """Fails at number 4, and for a while cannot even give it up."""

    async def submit(self, record: int, event: Event) -> AsyncIterator[Output]:
        if record == 4:
            raise ZeroDivisionError("a bug")
        async for output in super().submit(record, event):
            yield output

    async def give_up(self, record: int, event: Event, *, reason: str) -> AsyncIterator[Output]:  # type: ignore[override]
        self.faults.left -= 1
        if self.faults.left >= 0:
            raise ZeroDivisionError("another bug")
        self.next_seq = event.seq + 1
        yield Output(topic=OUTPUT, record={"total": -1, "copy": 0}, event_id="given up", seq=self.out_seq)
        self.out_seq += 1
        self.base = (self.total, self.next_seq, self.out_seq)


class StubbornStage(SumStage):
    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[int]:
        return Stubborn(call, state, self.faults)


async def given_up(bus: MemoryBus, runner: StageRunner) -> bool:
    """Run until the records are finished. Returns True if the stage gave the failing one up."""
    task = asyncio.create_task(runner.run())
    await wait_for_lag(bus, runner, 1, timeout_s=5.0)
    await asyncio.sleep(0.05)
    await stop(task)
    return (-1, 0) in by_call(await read_all(bus, OUTPUT, 10**6))[CALLS[0].key]


@pytest.mark.parametrize(("failures", "expected"), [(0, True), (2, True), (3, False)])
async def test_a_stage_that_fails_to_give_a_record_up_is_asked_three_times(failures: int, expected: bool) -> None:
    bus = await bus_with_inputs()
    for seq in range(6):
        await publish(bus, CALLS[0], seq, seq)
    assert await given_up(bus, runner_on(bus, StubbornStage(Faults(times=failures)))) is expected
    assert len(await read_all(bus, topics.DEAD_LETTERS, 1)) == 1


async def test_a_record_that_was_to_be_given_up_as_the_process_died_is_given_up_by_the_next() -> None:
    bus = await bus_with_inputs()
    for seq in range(6):
        await publish(bus, CALLS[0], seq, seq)
    runner = runner_on(bus, StubbornStage(Faults(times=10**9)))
    task = asyncio.create_task(runner.run())
    while [*runner.attempts._counts.get(CALLS[0], {}).values()] != [3]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await stop(task)
    assert await given_up(bus, runner_on(bus, StubbornStage()))
