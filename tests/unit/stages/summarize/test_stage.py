"""The summarize stage: when it summarizes, by which method, and after a crash."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.status import JobStatus
from schemas.summaries import SUMMARY_TYPE, Summary, SummaryDeferred
from schemas.topics import DEFERRED, STATUS, SUMMARIES
from schemas.transcripts import TranscriptRecord
from stages.adapters.llm.protocol import LlmUnavailable
from stages.errors import RejectedInput
from stages.protocol import Checkpoint, Output
from stages.summarize.stage import SummarizeStage
from tests.unit.stages.summarize.calls import CALL, NotingLlm, ScriptedLlm, answer, completed, feed, turns, writer


async def outputs_of(
    records: Sequence[TranscriptRecord], llm: ScriptedLlm | None = None, *, rolling_turns: int | None = None
) -> list[Output]:
    processor = SummarizeStage(writer(llm) if llm else None, rolling_turns=rolling_turns).open(CALL, None)
    return [output for seq, record in enumerate(records) for output in await feed(processor, record, seq)]


def summaries(outputs: Sequence[Output]) -> list[Summary]:
    return [output.record for output in outputs if isinstance(output.record, Summary)]


def jobs(outputs: Sequence[Output]) -> list[JobStatus]:
    return [output.record for output in outputs if isinstance(output.record, JobStatus)]


async def test_a_transcript_gives_one_numbered_summary_after_its_ledger_entries() -> None:
    outputs = await outputs_of([*turns(), completed(turns())], ScriptedLlm(answer()))
    assert [(output.topic, output.seq, output.event_id) for output in outputs] == [
        (STATUS, None, "default/call-1/summarize.1/started/7"),
        (STATUS, None, "default/call-1/summarize.1/completed/7"),
        (SUMMARIES, 0, "default/call-1/summarize.1/0"),
    ]
    assert outputs[2].event_type == SUMMARY_TYPE
    (summary,) = summaries(outputs)
    assert (summary.method, summary.model, summary.detail) == ("llm", "scripted", "prompt summary-3")
    assert (summary.kind, summary.revision) == ("final", 1)
    assert jobs(outputs)[1].detail["method"] == "llm"
    assert jobs(outputs)[1].at == 1_700_000_007.0


async def test_dropped_points_are_reported() -> None:
    points = [{"text": "made up", "segments": ["S99"]}]
    (summary,) = summaries(await outputs_of([completed(turns())], ScriptedLlm(answer(key_points=points))))
    assert summary.detail == "prompt summary-3; 1 claims left out"
    assert [claim.doubt for claim in summary.doubted] == ["citation"]


@pytest.mark.parametrize(
    ("llm", "reason", "status", "deferred"),
    [
        (None, "no language model is set up", "completed", False),
        (ScriptedLlm(missing="no Ollama answers at http://nowhere"), "no Ollama answers", "completed", True),
        (ScriptedLlm(LlmUnavailable("Ollama took too long")), "Ollama took too long", "completed", True),
        (ScriptedLlm("{", "{"), "the model did not answer with the JSON asked for", "failed", False),
        (NotingLlm(context_tokens=800, tokens_per_word=5.0), "fit the model's context", "failed", False),
    ],
    ids=["none", "away", "slow", "malformed", "too small"],
)
async def test_without_a_usable_model_the_summary_is_extractive_and_deferred(
    llm: ScriptedLlm | None, reason: str, status: str, deferred: bool
) -> None:
    outputs = await outputs_of([completed(turns())], llm)
    (summary,) = summaries(outputs)
    assert (summary.method, summary.model, summary.sentiment, summary.actions) == ("extractive", "textrank", None, [])
    assert reason in summary.detail
    assert summary.key_points
    assert [job.status for job in jobs(outputs)] == ["started", status]
    assert jobs(outputs)[1].detail["detail"] == summary.detail
    assert ("reason" in jobs(outputs)[1].detail) == (status == "failed")
    waiting = [output.record for output in outputs if output.topic == DEFERRED]
    expected = SummaryDeferred(call=CALL, revision=1, partition=0, position=0, reason=summary.detail)
    assert waiting == ([expected] if deferred else [])


async def test_a_deferred_summary_names_the_position_of_the_first_part() -> None:
    spoken = turns()
    parts = [completed(spoken[:3], part=1, parts=2), completed(spoken[3:], part=2, parts=2)]
    outputs = await outputs_of([*spoken, *parts], ScriptedLlm(missing="away"))
    (waiting,) = [output.record for output in outputs if isinstance(output.record, SummaryDeferred)]
    assert waiting.position == len(spoken)


async def test_a_call_without_speech_is_summarized_without_asking_a_model() -> None:
    llm = ScriptedLlm(answer())
    (summary,) = summaries(await outputs_of([completed([])], llm))
    assert (summary.text, summary.method, summary.key_points) == ("No speech in this call.", "extractive", [])
    assert llm.asked == []


async def test_parts_are_summarized_together_after_the_last_one() -> None:
    spoken = turns()
    llm = ScriptedLlm(answer())
    outputs = await outputs_of([completed(spoken[:3], part=1, parts=2), completed(spoken[3:], part=2, parts=2)], llm)
    assert len(summaries(outputs)) == 1
    assert len(llm.asked[0][1].content.splitlines()) == len(spoken)
    assert jobs(outputs)[0].detail == {"revision": 1, "turns": 7}


async def test_a_transcript_with_a_missing_part_is_summarized_as_a_failed_job() -> None:
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


async def test_a_transcript_that_is_given_up_gets_an_empty_summary_and_a_failed_job() -> None:
    processor = SummarizeStage().open(CALL, None)
    await feed(processor, turns()[0], 0)
    await feed(processor, completed(turns()[:3], part=1, parts=2), 1)
    outputs = await feed(processor, completed(turns()[3:], part=2, parts=2), 2, given_up="failed 3 times")
    (summary,) = summaries(outputs)
    assert (summary.kind, summary.revision, summary.text, summary.detail) == ("final", 1, "", "failed 3 times")
    assert [(job.status, job.detail["reason"]) for job in jobs(outputs)] == [("failed", "failed 3 times")]
    assert [output.seq for output in outputs if output.seq is not None] == [0]
    assert processor.finished
    assert processor.checkpoint().released == 3
    assert len(summaries(await feed(processor, completed(turns(), revision=2), 3))) == 1


@pytest.mark.parametrize("record", [turns()[0], completed(turns(), part=1, parts=2)])
async def test_a_turn_or_an_earlier_part_that_is_given_up_is_skipped(record: TranscriptRecord) -> None:
    processor = SummarizeStage().open(CALL, None)
    with pytest.raises(RejectedInput, match="failed 3 times"):
        await feed(processor, record, 0, given_up="failed 3 times")


async def test_a_live_call_is_summarized_whenever_enough_turns_are_new() -> None:
    """It is written in the background and published with the next turn that settles."""
    texts = ["The internet is down.", "A technician comes.", "He comes on Wednesday."]
    rolled = [msgspec.json.encode({"summary": text, "topics": []}).decode() for text in texts]
    stage = SummarizeStage(writer(ScriptedLlm(*rolled, answer())), rolling_turns=2)
    processor = stage.open(CALL, None)
    seen: list[list[Summary]] = []
    records: list[TranscriptRecord] = [*turns(), completed(turns())]
    for seq, record in enumerate(records):
        outputs = await feed(processor, record, seq)
        assert all(output.seq is None for output in outputs if getattr(output.record, "kind", "") == "rolling")
        seen.append(summaries(outputs))
        await asyncio.sleep(0.01)
    assert [[(one.kind, one.revision, one.text) for one in each] for each in seen] == [
        [],
        [],
        [("rolling", 2, "The internet is down.")],
        [],
        [("rolling", 4, "A technician comes.")],
        [],
        [("rolling", 6, "He comes on Wednesday.")],
        [("final", 1, "The customer's internet is down. A technician comes on Wednesday.")],
    ]


async def test_a_recorded_call_or_one_without_a_model_is_not_summarized_on_the_way() -> None:
    recorded = [msgspec.structs.replace(turn, lane="batch") for turn in turns()]
    cases: list[tuple[Sequence[TranscriptRecord], ScriptedLlm | None]] = [
        (recorded, ScriptedLlm()),
        (turns(), None),
        (turns(), ScriptedLlm(missing="away")),
    ]
    for records, llm in cases:
        assert summaries(await outputs_of(records, llm, rolling_turns=1)) == []


async def test_the_final_summary_does_not_wait_for_a_rolling_one() -> None:
    llm = ScriptedLlm(60.0, answer())
    processor = SummarizeStage(writer(llm), rolling_turns=1).open(CALL, None)
    await feed(processor, turns()[0], 0)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        outputs = await feed(processor, completed(turns()), 1)
    assert [summary.kind for summary in summaries(outputs)] == ["final"]
    assert len(llm.asked) == 2


@st.composite
def histories(draw: st.DrawFn) -> list[TranscriptRecord]:
    """Draw the records of a call that is reopened a few times, its transcripts in one or more parts."""
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
