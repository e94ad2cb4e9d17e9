"""Deferred summaries, which are written once the language model is available."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from schemas.status import JobStatus
from schemas.summaries import Summary, SummaryDeferred
from schemas.topics import SUMMARIES
from schemas.transcripts import TranscriptCompleted
from stages.adapters.llm.protocol import LlmUnavailable
from stages.protocol import Event, Origin, Output
from stages.summarize.deferred import DeferredSummaryStage
from tests.unit.stages.summarize.calls import CALL, ScriptedLlm, answer, completed, turns, writer

DEFERRED = SummaryDeferred(call=CALL, revision=1, partition=0, position=7, reason="away")


def stage_of(llm: ScriptedLlm, parts: Sequence[TranscriptCompleted]) -> DeferredSummaryStage:
    async def stored(deferred: SummaryDeferred) -> AsyncIterator[TranscriptCompleted]:
        assert deferred == DEFERRED
        for part in parts:
            yield part

    return DeferredSummaryStage(writer(llm), stored, ask_every_s=0.01)


async def again(stage: DeferredSummaryStage) -> list[Output]:
    event = Event(seq=0, event_id="deferred", origin=Origin("in", 0, 0, CALL.key), timestamp_s=1_700_000_000.0)
    return [output async for output in stage.open(CALL, None).submit(DEFERRED, event)]


async def test_it_waits_for_the_model_and_then_summarizes_the_stored_transcript() -> None:
    llm = ScriptedLlm(answer(), missing="away")
    parts = [completed(turns()[:3], part=1, parts=2), completed(turns()[3:], part=2, parts=2)]
    working = asyncio.create_task(again(stage_of(llm, parts)))
    await asyncio.sleep(0.1)
    assert not working.done()
    llm.missing = None
    job, summary = await working
    assert isinstance(job.record, JobStatus)
    assert (job.record.status, job.record.detail["method"]) == ("completed", "llm")
    assert isinstance(summary.record, Summary)
    assert (summary.topic, summary.seq, summary.same_partition) == (SUMMARIES, None, True)
    assert (summary.record.method, summary.record.kind, summary.record.revision) == ("llm", "final", 1)
    assert len(llm.asked[0][1].content.splitlines()) == len(turns())


async def test_two_different_texts_have_two_ids() -> None:
    llm = ScriptedLlm(answer(), answer(summary="Something else."), answer())
    ids = [(await again(stage_of(llm, [completed(turns())])))[1].event_id for _ in range(3)]
    assert ids[0] == ids[2] != ids[1]


async def test_a_server_that_goes_away_again_is_waited_for_again() -> None:
    llm = ScriptedLlm(LlmUnavailable("killed"), answer())
    outputs = await again(stage_of(llm, [completed(turns())]))
    assert isinstance(outputs[-1].record, Summary)
    assert len(llm.asked) == 2


async def test_however_many_calls_wait_one_asks() -> None:
    llm = ScriptedLlm(*[answer()] * 20, missing="away")
    checks = 0
    check = llm.check

    async def counted() -> None:
        nonlocal checks
        checks += 1
        await check()

    llm.check = counted  # type: ignore[method-assign]
    stage = stage_of(llm, [completed(turns())])
    working = [asyncio.create_task(again(stage)) for _ in range(20)]
    await asyncio.sleep(0.1)
    assert checks < 20
    llm.missing = None
    assert all(len(outputs) == 2 for outputs in await asyncio.gather(*working))


@pytest.mark.parametrize("parts", [[], [completed(turns()[:3], part=1, parts=2)]], ids=["all gone", "a part gone"])
async def test_a_transcript_that_the_bus_no_longer_holds_is_a_failed_job(parts: list[TranscriptCompleted]) -> None:
    (job,) = await again(stage_of(ScriptedLlm(), parts))
    assert isinstance(job.record, JobStatus)
    assert (job.record.status, job.record.detail["reason"]) == (
        "failed",
        "the bus does not hold the transcript any more",
    )


async def test_a_call_that_went_on_has_a_newer_summary_already() -> None:
    parts = [completed(turns()[:3]), completed(turns(), revision=2)]
    assert await again(stage_of(ScriptedLlm(), parts)) == []


async def test_answers_that_cannot_be_used_are_a_failed_job() -> None:
    (job,) = await again(stage_of(ScriptedLlm("{", "{"), [completed(turns())]))
    assert isinstance(job.record, JobStatus)
    assert job.record.status == "failed"
    assert "did not answer with the JSON" in job.record.detail["reason"]
