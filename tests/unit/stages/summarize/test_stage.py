"""The summarize stage: when it summarizes, by which method, and what a crash changes."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.status import JobStatus
from schemas.summaries import SUMMARY_TYPE, Summary
from schemas.topics import STATUS, SUMMARIES
from schemas.transcripts import TranscriptRecord
from stages.errors import RejectedInput
from stages.protocol import Checkpoint, Output
from stages.summarize.llm import LlmClient, LlmError
from stages.summarize.stage import SummarizeStage
from tests.unit.stages.summarize.calls import CALL, ScriptedLlm, answer, completed, feed, turns


async def outputs_of(
    records: Sequence[TranscriptRecord], llm: LlmClient | None = None, *, timeout_s: float = 5.0
) -> list[Output]:
    processor = SummarizeStage(llm, timeout_s=timeout_s).open(CALL, None)
    return [output for seq, record in enumerate(records) for output in await feed(processor, record, seq)]


def summaries(outputs: Sequence[Output]) -> list[Summary]:
    return [output.record for output in outputs if isinstance(output.record, Summary)]


def jobs(outputs: Sequence[Output]) -> list[JobStatus]:
    return [output.record for output in outputs if isinstance(output.record, JobStatus)]


async def test_a_completed_transcript_gives_one_numbered_summary_behind_its_ledger_entries() -> None:
    outputs = await outputs_of([*turns(), completed(turns())], ScriptedLlm(answer()))
    assert [(output.topic, output.seq, output.event_id) for output in outputs] == [
        (STATUS, None, "default/call-1/summarize.1/started/7"),
        (STATUS, None, "default/call-1/summarize.1/completed/7"),
        (SUMMARIES, 0, "default/call-1/summarize.1/0"),
    ]
    assert outputs[2].event_type == SUMMARY_TYPE
    (summary,) = summaries(outputs)
    assert (summary.method, summary.model, summary.detail) == ("llm", "scripted", "prompt summary-1")
    assert (summary.kind, summary.revision) == ("final", 1)
    assert jobs(outputs)[1].detail["method"] == "llm"
    assert jobs(outputs)[1].at == 1_700_000_007.0


async def test_dropped_points_are_told() -> None:
    points = [{"text": "made up", "segments": ["S99"]}]
    (summary,) = summaries(await outputs_of([completed(turns())], ScriptedLlm(answer(key_points=points))))
    assert summary.detail == "prompt summary-1; 1 key points without a valid citation dropped"


@pytest.mark.parametrize(
    ("llm", "reason"),
    [
        (None, "no language model is set up"),
        (ScriptedLlm(missing="no Ollama answers at http://nowhere"), "no Ollama answers at http://nowhere"),
        (ScriptedLlm(LlmError("Ollama failed: killed")), "Ollama failed: killed"),
        (ScriptedLlm("{", "{"), "the model did not answer with the JSON asked for"),
        (ScriptedLlm(5.0), "the language model took longer than 0.05 s"),
        (ScriptedLlm(context_tokens=600), "fit the model's context"),
    ],
)
async def test_without_a_usable_model_the_summary_is_extractive_and_says_why(
    llm: LlmClient | None, reason: str
) -> None:
    outputs = await outputs_of([completed(turns())], llm, timeout_s=0.05)
    (summary,) = summaries(outputs)
    assert (summary.method, summary.model, summary.sentiment, summary.actions) == ("extractive", "textrank", None, [])
    assert reason in summary.detail
    assert summary.key_points
    assert [job.status for job in jobs(outputs)] == ["started", "completed"]
    assert jobs(outputs)[1].detail["detail"] == summary.detail


async def test_a_call_without_speech_is_summarized_without_asking_a_model() -> None:
    llm = ScriptedLlm(answer())
    (summary,) = summaries(await outputs_of([completed([])], llm))
    assert (summary.text, summary.method, summary.key_points) == ("No speech in this call.", "extractive", [])
    assert llm.asked == []


async def test_parts_are_summarized_together_once_the_last_one_is_there() -> None:
    spoken = turns()
    llm = ScriptedLlm(answer())
    outputs = await outputs_of([completed(spoken[:3], part=1, parts=2), completed(spoken[3:], part=2, parts=2)], llm)
    assert len(summaries(outputs)) == 1
    assert len(llm.asked[0][1].content.splitlines()) == len(spoken)
    assert jobs(outputs)[0].detail == {"revision": 1, "turns": 7}


async def test_a_transcript_with_a_part_missing_is_a_failed_job_with_what_there_is() -> None:
    outputs = await outputs_of([completed(turns(), part=2, parts=2)], ScriptedLlm(answer()))
    assert [job.status for job in jobs(outputs)] == ["started", "failed"]
    assert "only 1 of the transcript's 2 parts" in jobs(outputs)[1].detail["reason"]
    assert len(summaries(outputs)) == 1


async def test_parts_of_an_older_revision_do_not_get_into_the_next() -> None:
    spoken = turns()
    outputs = await outputs_of(
        [completed(spoken, part=1, parts=2), completed(spoken[:2], revision=2)], ScriptedLlm(answer())
    )
    assert [
        (summary.revision, job.detail["turns"]) for summary, job in zip(summaries(outputs), jobs(outputs), strict=False)
    ] == [(2, 2)]


async def test_each_revision_gets_a_summary_of_its_own() -> None:
    outputs = await outputs_of([completed(turns()[:2], provisional=True), *turns()[2:], completed(turns(), revision=2)])
    assert [(output.seq, output.record.revision) for output in outputs if isinstance(output.record, Summary)] == [
        (0, 1),
        (1, 2),
    ]


async def test_repeats_give_nothing() -> None:
    processor = SummarizeStage().open(CALL, None)
    assert len(summaries(await feed(processor, completed(turns()), 3))) == 1
    assert await feed(processor, completed(turns()), 3) == []
    assert await feed(processor, turns()[0], 0) == []


async def test_inputs_are_released_by_the_summary_that_they_went_into() -> None:
    processor = SummarizeStage().open(CALL, None)
    history: list[TranscriptRecord] = [turns()[0], completed(turns()), turns()[1], completed(turns(), revision=2)]
    seen = []
    for seq, record in enumerate(history):
        await feed(processor, record, seq)
        seen.append((processor.checkpoint().released, processor.finished))
    assert seen == [(0, False), (2, True), (2, False), (4, True)]


async def test_an_impossible_part_is_rejected_and_changes_nothing() -> None:
    processor = SummarizeStage().open(CALL, None)
    with pytest.raises(RejectedInput, match="part 3 of 2"):
        await feed(processor, completed(turns(), part=3, parts=2), 0)
    assert len(summaries(await feed(processor, completed(turns()), 0))) == 1


async def test_calls_take_turns_with_the_language_model() -> None:
    """The wait for another call's summary does not count against a call's own time."""
    stage = SummarizeStage(ScriptedLlm(0.2, 0.2, 0.2), timeout_s=0.5)
    processors = [stage.open(CALL, None) for _ in range(3)]
    outputs = await asyncio.gather(*(feed(processor, completed(turns()), 0) for processor in processors))
    assert [summaries(each)[0].method for each in outputs] == ["llm", "llm", "llm"]


@st.composite
def histories(draw: st.DrawFn) -> list[TranscriptRecord]:
    """What the merge stage sends of a call that is reopened a few times, its transcript in one or more parts."""
    records: list[TranscriptRecord] = []
    for revision in range(1, draw(st.integers(1, 3)) + 1):
        records += turns()[: draw(st.integers(0, 2))]
        parts = draw(st.integers(1, 3))
        spoken = turns()[: draw(st.integers(0, 4))]
        for part in range(1, parts + 1):
            records.append(completed(spoken[part - 1 :: parts], revision=revision, part=part, parts=parts))
    return records


@settings(max_examples=40)
@given(histories(), st.data())
def test_a_crash_anywhere_changes_no_numbered_output(records: list[TranscriptRecord], data: st.DataObject) -> None:
    crashes = set(data.draw(st.lists(st.tuples(st.integers(0, len(records) - 1), st.booleans()), max_size=4)))

    async def run(crashes: set[tuple[int, bool]]) -> list[Summary]:
        bus: list[Summary] = []
        kept = Checkpoint(state=b"", released=0)
        processor = SummarizeStage().open(CALL, None)
        position = 0
        while position < len(records):
            outputs = [
                output for output in await feed(processor, records[position], position) if output.seq is not None
            ]
            crash = next((crash for crash in crashes if crash[0] == position), None)
            if crash is None or crash[1]:
                for output in outputs:
                    assert isinstance(output.record, Summary)
                    assert output.seq is not None
                    assert output.seq <= len(bus)
                    if output.seq == len(bus):
                        bus.append(output.record)
                        assert processor.checkpoint().released >= kept.released
                        kept = processor.checkpoint()
            position += 1
            if crash is not None:
                crashes = crashes - {crash}
                processor = SummarizeStage().open(CALL, kept.state or None)
                position = kept.released
        return bus

    assert asyncio.run(run(crashes)) == asyncio.run(run(set()))
