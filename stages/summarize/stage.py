"""The summarize stage: one final summary for each revision of a call's completed transcript.

The number of outputs depends on the inputs alone; the text of a language model may differ after a replay, but the
runner publishes each number once. A call is summarized by the language model if there is one that answers in time,
else from its own sentences; `Summary.detail` says why. Its absence or failure is never an error of the call.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from schemas.calls import CallRef
from schemas.status import JobState
from schemas.summaries import SUMMARY_TYPE, KeyPoint, Summary
from schemas.topics import SUMMARIES
from schemas.transcripts import TranscriptCompleted, TranscriptRecord
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.protocol import CallProcessor, Checkpoint, Event, Output
from stages.summarize.extractive import MODEL, NO_SPEECH, extractive_summary
from stages.summarize.llm import PROMPT, LlmClient, LlmError, llm_summary

LLM_TIMEOUT_S: Final = 120.0


class SummarizeState(msgspec.Struct, array_like=True, tag="summarize.1"):
    """`taken` is the number of the last input that a summary rests on, `numbered` that of the next summary."""

    taken: int = -1
    numbered: int = 0


class SummarizeStage:
    """Opens the processors of calls. They take turns with the language model, each for at most `timeout_s`."""

    def __init__(
        self,
        llm: LlmClient | None = None,
        *,
        timeout_s: float = LLM_TIMEOUT_S,
        name: str = "summarize",
        topic: str = SUMMARIES,
    ) -> None:
        self.name = name
        self.topic = topic
        self._llm = llm
        self._timeout_s = timeout_s
        self._turn_taking = asyncio.Semaphore(1)

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[TranscriptRecord]:
        """Raises msgspec.DecodeError for a state that this stage did not write."""
        kept = msgspec.msgpack.decode(state, type=SummarizeState) if state else SummarizeState()
        return SummarizeProcessor(call, kept, self)

    async def summary(self, call: CallRef, transcript: TranscriptCompleted) -> Summary:
        """The final summary of a whole transcript, by whichever method there is."""
        if not any(turn.text for turn in transcript.turns):
            return self._extractive(call, transcript, NO_SPEECH, [], "nobody speaks in the call")
        reason = "no language model is set up"
        if self._llm is not None:
            try:
                async with self._turn_taking, asyncio.timeout(self._timeout_s):
                    return await self._written(self._llm, call, transcript)
            except TimeoutError:
                reason = f"the language model took longer than {self._timeout_s:g} s"
            except LlmError as error:
                reason = str(error)
        picked = await asyncio.to_thread(extractive_summary, transcript.turns, language=transcript.language)
        return self._extractive(call, transcript, picked.text, picked.key_points, reason)

    async def _written(self, llm: LlmClient, call: CallRef, transcript: TranscriptCompleted) -> Summary:
        draft = await llm_summary(llm, transcript.turns, language=transcript.language)
        dropped = f"; {draft.dropped} key points without a valid citation dropped" if draft.dropped else ""
        return Summary(
            tenant=call.tenant,
            call_id=call.call_id,
            kind="final",
            revision=transcript.revision,
            text=draft.text,
            key_points=draft.key_points,
            sentiment=draft.sentiment,
            actions=draft.actions,
            topics=draft.topics,
            method="llm",
            model=llm.model,
            detail=f"prompt {PROMPT}{dropped}",
        )

    @staticmethod
    def _extractive(
        call: CallRef, transcript: TranscriptCompleted, text: str, key_points: list[KeyPoint], reason: str
    ) -> Summary:
        return Summary(
            tenant=call.tenant,
            call_id=call.call_id,
            kind="final",
            revision=transcript.revision,
            text=text,
            key_points=key_points,
            sentiment=None,
            actions=[],
            topics=[],
            method="extractive",
            model=MODEL,
            detail=reason,
        )


class SummarizeProcessor:
    """Collects the parts of a call's completed transcripts. Turns that settle during the call are not needed."""

    def __init__(self, call: CallRef, state: SummarizeState, stage: SummarizeStage) -> None:
        self._call = call
        self._stage = stage
        self._numbered = state.numbered
        self._taken = state.taken
        self._parts: dict[int, TranscriptCompleted] = {}
        self._checkpoint = _checkpoint(state)

    @property
    def finished(self) -> bool:
        return self._taken >= 0 and self._checkpoint.released == self._taken + 1

    def checkpoint(self) -> Checkpoint:
        """The state at the last summary: the inputs since then are replayed on top of it."""
        return self._checkpoint

    async def submit(self, record: TranscriptRecord, event: Event) -> AsyncIterator[Output]:
        """Raises RejectedInput for a part whose number cannot be."""
        if event.seq <= self._taken:
            return
        if isinstance(record, TranscriptCompleted) and not 1 <= record.part <= record.parts:
            raise RejectedInput(f"part {record.part} of {record.parts}")
        self._taken = event.seq
        if not isinstance(record, TranscriptCompleted):
            return
        if any(part.revision != record.revision for part in self._parts.values()):
            self._parts = {}
        self._parts[record.part] = record
        if record.part < record.parts:
            return
        parts = [self._parts[number] for number in sorted(self._parts)]
        transcript = msgspec.structs.replace(record, turns=[turn for part in parts for turn in part.turns])
        started = {"revision": record.revision, "turns": len(transcript.turns)}
        yield self._job("started", started, event)
        summary = await self._stage.summary(self._call, transcript)
        detail = {
            "revision": summary.revision,
            "method": summary.method,
            "model": summary.model,
            "key_points": len(summary.key_points),
            "detail": summary.detail,
        }
        if len(parts) == record.parts:
            yield self._job("completed", detail, event)
        else:
            reason = f"made of only {len(parts)} of the transcript's {record.parts} parts: the others never arrived"
            yield self._job("failed", {**detail, "reason": reason}, event)
        seq = self._numbered
        self._numbered += 1
        event_id = f"{self._call.tenant}/{self._call.call_id}/summarize.1/{seq}"
        yield Output(topic=self._stage.topic, record=summary, event_id=event_id, event_type=SUMMARY_TYPE, seq=seq)
        self._parts = {}
        self._checkpoint = _checkpoint(SummarizeState(taken=self._taken, numbered=self._numbered))

    def _job(self, status: JobState, detail: dict[str, Any], event: Event) -> Output:
        event_id = f"{self._call.tenant}/{self._call.call_id}/summarize.1/{status}/{event.seq}"
        return ledger_entry(self._call, "summarize", status, detail, at=event.timestamp_s, event_id=event_id)


def _checkpoint(state: SummarizeState) -> Checkpoint:
    if state.taken < 0:
        return Checkpoint(state=b"", released=0)
    return Checkpoint(state=msgspec.msgpack.encode(state), released=state.taken + 1)
