"""The summarize stage: a final summary of each revision of a call's transcript, and rolling summaries during the call.

The number of final summaries depends on the inputs alone. A language model may write another text in a replay, but the
runner publishes each number once. If no language model can be used, the summary is made of the call's own sentences;
`Summary.detail` says why. If the model may be back later, the summary is deferred as well: `stages.summarize.deferred`
replaces it. A missing or failing model is never an error of the call.

Rolling summaries are unnumbered: no other output depends on them, and a replay may write others. A summary is published
with the first turn that settles after it was written.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import structlog

from schemas.calls import CallRef
from schemas.status import JobState
from schemas.summaries import SUMMARY_TYPE, Summary, SummaryDeferred
from schemas.topics import DEFERRED, SUMMARIES
from schemas.transcripts import TranscriptCompleted, TranscriptRecord, Turn, joined
from stages.adapters.llm.priority import Urgency
from stages.adapters.llm.protocol import LlmError, LlmUnavailable
from stages.errors import RejectedInput
from stages.ledger import ledger_entry
from stages.protocol import CallProcessor, Checkpoint, Event, Origin, Output
from stages.summarize.extractive import MODEL, NO_SPEECH, ExtractiveSummary, extractive_summary
from stages.summarize.writer import RolledSummary, SummaryWriter

NAME: Final = "summarize"


class SummarizeState(msgspec.Struct, array_like=True, tag="summarize.1"):
    """The state of a call after its last summary, which contains the inputs up to `last_input_seq`."""

    last_input_seq: int = -1
    next_output_seq: int = 0


class SummarizeStage:
    """Opens the processors of calls; all share the writer.

    A live call gets a rolling summary for every `rolling_turns` new turns; None for no rolling summaries.
    """

    name = NAME
    topic = SUMMARIES

    def __init__(self, writer: SummaryWriter | None = None, *, rolling_turns: int | None = None) -> None:
        self.writer = writer
        self.rolling_turns = rolling_turns

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[TranscriptRecord]:
        """Raises msgspec.DecodeError for a state that this stage did not write."""
        kept = msgspec.msgpack.decode(state, type=SummarizeState) if state else SummarizeState()
        return SummarizeProcessor(call, kept, self)


async def llm_summary(
    writer: SummaryWriter, call: CallRef, transcript: TranscriptCompleted, *, urgency: Urgency | None = None
) -> Summary:
    """Return the final summary of a whole transcript by the language model. Raises LlmError."""
    usual = Urgency.LIVE if transcript.lane == "live" else Urgency.BATCH
    written = await writer.write(
        transcript.turns,
        language=transcript.language,
        call_type=transcript.call_type,
        urgency=usual if urgency is None else urgency,
    )
    details = [f"prompt {written.prompt}"]
    if written.windows > 1:
        details.append(f"read in {written.windows} parts")
    if written.doubted:
        details.append(f"{len(written.doubted)} claims left out")
    return Summary(
        tenant=call.tenant,
        call_id=call.call_id,
        kind="final",
        revision=transcript.revision,
        text=written.text,
        key_points=written.key_points,
        sentiment=written.sentiment,
        actions=[item.text for item in written.action_items],
        topics=written.topics,
        method="llm",
        model=written.model,
        detail="; ".join(details),
        sentiments=written.sentiments,
        action_items=written.action_items,
        outcome=written.outcome,
        doubted=written.doubted,
    )


def summary_detail(summary: Summary) -> dict[str, Any]:
    """Return the properties of a summary that the ledger holds."""
    return {
        "revision": summary.revision,
        "method": summary.method,
        "model": summary.model,
        "key_points": len(summary.key_points),
        "doubted": len(summary.doubted),
        "detail": summary.detail,
    }


class SummarizeProcessor:
    """Summarizes one call: collects the parts of its completed transcripts, and its turns for rolling summaries."""

    def __init__(self, call: CallRef, state: SummarizeState, stage: SummarizeStage) -> None:
        self._call = call
        self._stage = stage
        self._next_output_seq = state.next_output_seq
        self._last_input_seq = state.last_input_seq
        self._parts: dict[int, TranscriptCompleted] = {}
        self._first: Origin | None = None
        self._rolling = _Rolling(call, stage)
        self._checkpoint = _checkpoint(state)

    @property
    def idle_position(self) -> None:
        return None

    @property
    def waiting(self) -> None:
        return None

    @property
    def finished(self) -> bool:
        return self._last_input_seq >= 0 and self._checkpoint.released == self._last_input_seq + 1

    def checkpoint(self) -> Checkpoint:
        """Return the state at the last summary. Inputs since then are replayed on top of it."""
        return self._checkpoint

    async def submit(self, record: TranscriptRecord, event: Event) -> AsyncIterator[Output]:
        """See `stages.protocol`. Raises RejectedInput for a part whose number is impossible."""
        if event.seq <= self._last_input_seq:
            return
        if isinstance(record, TranscriptCompleted) and not 1 <= record.part <= record.parts:
            raise RejectedInput(f"part {record.part} of {record.parts}")
        self._last_input_seq = event.seq
        if not isinstance(record, TranscriptCompleted):
            rolled = self._rolling.take(record)
            if rolled is not None:
                yield rolled
            return
        self._rolling.stop()
        if any(part.revision != record.revision for part in self._parts.values()):
            self._parts = {}
        if record.part == 1:
            self._first = event.origin
        self._parts[record.part] = record
        if record.part < record.parts:
            return
        async for output in self._final(joined(list(self._parts.values())), record.parts, event):
            yield output
        self._settle()

    def give_up(self, record: TranscriptRecord, event: Event, *, reason: str) -> AsyncIterator[Output]:
        """End a transcript that cannot be summarized with an empty summary and a failed job.

        Raises RejectedInput for a turn or an earlier part: the final summary says that the part is missing.
        """
        is_repeat = event.seq <= self._last_input_seq
        if is_repeat or not isinstance(record, TranscriptCompleted) or record.part < record.parts:
            raise RejectedInput(reason)
        return self._fail(record, event, reason)

    async def _fail(self, transcript: TranscriptCompleted, event: Event, reason: str) -> AsyncIterator[Output]:
        self._rolling.stop()
        self._last_input_seq = event.seq
        summary = self._extractive(transcript, ExtractiveSummary(text="", key_points=[]), reason)
        yield self._job("failed", {**summary_detail(summary), "reason": reason}, event)
        yield self._numbered(summary)
        self._settle()

    def _settle(self) -> None:
        """Note that the transcript has its summary, which the checkpoint contains."""
        self._parts = {}
        self._checkpoint = _checkpoint(
            SummarizeState(last_input_seq=self._last_input_seq, next_output_seq=self._next_output_seq)
        )

    async def _final(self, transcript: TranscriptCompleted, n_parts: int, event: Event) -> AsyncIterator[Output]:
        """Yield the outputs for a transcript of `n_parts` parts, of which some may be missing."""
        yield self._job("started", {"revision": transcript.revision, "turns": len(transcript.turns)}, event)
        summary, failure = None, ""
        missing = n_parts - len(self._parts)
        if missing:
            there = f"{len(self._parts)} of the transcript's {n_parts} parts"
            failure = f"made of only {there}: the others never arrived"
        if not any(turn.text for turn in transcript.turns):
            nothing = ExtractiveSummary(text=NO_SPEECH, key_points=[])
            summary = self._extractive(transcript, nothing, "nobody speaks in the call")
        elif self._stage.writer is None:
            summary = await self._picked(transcript, "no language model is set up")
        else:
            try:
                summary = await llm_summary(self._stage.writer, self._call, transcript)
            except LlmUnavailable as error:
                summary = await self._picked(transcript, str(error))
                if not missing:
                    yield self._deferred(transcript, str(error))
            except LlmError as error:
                summary = await self._picked(transcript, str(error))
                failure = failure or str(error)
        detail = summary_detail(summary)
        if failure:
            yield self._job("failed", {**detail, "reason": failure}, event)
        else:
            yield self._job("completed", detail, event)
        yield self._numbered(summary)

    def _numbered(self, summary: Summary) -> Output:
        seq = self._next_output_seq
        self._next_output_seq += 1
        event_id = self._call.event_id(NAME, seq)
        return Output(topic=self._stage.topic, record=summary, event_id=event_id, event_type=SUMMARY_TYPE, seq=seq)

    async def _picked(self, transcript: TranscriptCompleted, reason: str) -> Summary:
        picked = await asyncio.to_thread(extractive_summary, transcript.turns, language=transcript.language)
        return self._extractive(transcript, picked, reason)

    def _extractive(self, transcript: TranscriptCompleted, picked: ExtractiveSummary, reason: str) -> Summary:
        return Summary(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            kind="final",
            revision=transcript.revision,
            text=picked.text,
            key_points=picked.key_points,
            sentiment=None,
            actions=[],
            topics=[],
            method="extractive",
            model=MODEL,
            detail=reason,
        )

    def _deferred(self, transcript: TranscriptCompleted, reason: str) -> Output:
        assert self._first is not None
        record = SummaryDeferred(
            call=self._call,
            revision=transcript.revision,
            partition=self._first.partition,
            position=self._first.position,
            reason=reason,
        )
        event_id = self._call.event_id(NAME, "deferred", transcript.revision)
        return Output(topic=DEFERRED, record=record, event_id=event_id, same_partition=True)

    def _job(self, status: JobState, detail: dict[str, Any], event: Event) -> Output:
        event_id = self._call.event_id(NAME, status, event.seq)
        return ledger_entry(self._call, NAME, status, detail, at=event.timestamp_s, event_id=event_id)


class _Rolling:
    """Rolling summaries of a call in progress. Each is written in the background; turns that settle meanwhile go into
    the next one.
    """

    def __init__(self, call: CallRef, stage: SummarizeStage) -> None:
        self._call = call
        self._stage = stage
        self._summary = ""
        self._covered = 0
        self._new: list[Turn] = []
        self._writing: asyncio.Task[RolledSummary] | None = None

    def take(self, turn: Turn) -> Output | None:
        """Take a settled turn. Returns the summary that was completed since the last turn, if any."""
        writer, least = self._stage.writer, self._stage.rolling_turns
        if writer is None or least is None or turn.lane != "live" or not turn.text:
            return None
        self._new.append(turn)
        output = self._written() if self._writing is not None and self._writing.done() else None
        if self._writing is None and len(self._new) >= least:
            new = list(self._new)
            self._writing = asyncio.create_task(writer.roll(self._summary, new, language=turn.language))
        return output

    def stop(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._summary, self._covered, self._new, self._writing = "", 0, [], None

    def _written(self) -> Output | None:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        try:
            rolled = writing.result()
        except LlmError as error:  # retried with the next turns; the final summary says why there is none
            structlog.get_logger("callstream.summarize").info("rolling summary failed", reason=str(error))
            return None
        self._summary = rolled.text
        self._covered += rolled.n_turns
        del self._new[: rolled.n_turns]
        summary = Summary(
            tenant=self._call.tenant,
            call_id=self._call.call_id,
            kind="rolling",
            revision=self._covered,
            text=rolled.text,
            key_points=[],
            sentiment=None,
            actions=[],
            topics=rolled.topics,
            method="llm",
            model=rolled.model,
            detail=f"the first {self._covered} turns",
        )
        return unnumbered(self._call, summary)


def unnumbered(call: CallRef, summary: Summary) -> Output:
    """Return an unnumbered summary. Its id contains a checksum: after a crash a model may write another one."""
    version = zlib.crc32(msgspec.json.encode(summary))
    event_id = call.event_id(NAME, summary.kind, summary.revision, f"{version:08x}")
    return Output(topic=SUMMARIES, record=summary, event_id=event_id, event_type=SUMMARY_TYPE, same_partition=True)


def _checkpoint(state: SummarizeState) -> Checkpoint:
    if state.last_input_seq < 0:
        return Checkpoint(state=b"", released=0)
    return Checkpoint(state=msgspec.msgpack.encode(state), released=state.last_input_seq + 1)
