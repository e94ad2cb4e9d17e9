"""Deferred summaries: replaces extractive summaries once the language model, which was unavailable, is back.

Each input names a completed transcript. It stays unacknowledged until the model is available; then the transcript is
re-read from the bus. After a crash an input may be processed twice: the two summaries have different ids.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog

from schemas.calls import CallRef
from schemas.status import JobState
from schemas.summaries import SummaryDeferred
from schemas.topics import SUMMARIES
from schemas.transcripts import TranscriptCompleted, joined
from stages.adapters.llm.priority import Urgency
from stages.adapters.llm.protocol import LlmError, LlmUnavailable
from stages.ledger import ledger_entry
from stages.protocol import CallProcessor, Checkpoint, Event, Output, SkipsFailedInputs
from stages.summarize.stage import NAME, llm_summary, summary_detail, unnumbered
from stages.summarize.writer import SummaryWriter

ASK_EVERY_S: Final = 10.0

StoredTranscripts = Callable[[SummaryDeferred], AsyncIterator[TranscriptCompleted]]
"""Yields the parts of the call's completed transcripts that the bus holds, in order, from the deferred one on."""


class DeferredSummaryStage:
    """Opens the processors of calls. The model is checked about every `ask_every_s` seconds while it is unavailable."""

    name = NAME
    topic = SUMMARIES

    def __init__(self, writer: SummaryWriter, stored: StoredTranscripts, *, ask_every_s: float = ASK_EVERY_S) -> None:
        self.writer = writer
        self.stored = stored
        self._ask_every_s = ask_every_s
        self._asking = asyncio.Lock()
        self._log = structlog.get_logger("callstream.summarize")

    def open(self, call: CallRef, state: bytes | None) -> CallProcessor[SummaryDeferred]:
        del state  # there is none
        return DeferredSummaryProcessor(call, self)

    async def until_available(self, call_type: str) -> None:
        """Return once the model is available. However many calls wait, only one of them checks."""
        async with self._asking:
            waiting = False
            while True:
                try:
                    await self.writer.available(call_type)
                except LlmUnavailable as error:
                    if not waiting:
                        self._log.info("summaries deferred until the language model is back", reason=str(error))
                    waiting = True
                    await asyncio.sleep(self._ask_every_s * random.uniform(0.8, 1.2))
                else:
                    return


class DeferredSummaryProcessor(SkipsFailedInputs):
    """One call. It has no state: its inputs are independent of each other."""

    finished = True
    idle_position = None
    waiting = None

    def __init__(self, call: CallRef, stage: DeferredSummaryStage) -> None:
        self._call = call
        self._stage = stage

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=b"", released=0)

    async def submit(self, record: SummaryDeferred, event: Event) -> AsyncIterator[Output]:
        call_type = ""
        while True:
            await self._stage.until_available(call_type)
            transcript = await self._transcript(record)
            if transcript is None:
                reason = "the bus does not hold the transcript any more"
                yield self._job("failed", {"revision": record.revision, "reason": reason}, event)
                return
            if transcript.revision > record.revision:
                return  # the newer transcript gets its own summary
            call_type = transcript.call_type
            try:
                summary = await llm_summary(self._stage.writer, self._call, transcript, urgency=Urgency.DEFERRED)
            except LlmUnavailable:
                continue
            except LlmError as error:
                yield self._job("failed", {"revision": record.revision, "reason": str(error)}, event)
                return
            yield self._job("completed", summary_detail(summary), event)
            yield unnumbered(self._call, summary)
            return

    async def _transcript(self, record: SummaryDeferred) -> TranscriptCompleted | None:
        """Return the deferred transcript, or a newer one; None if the bus no longer holds all parts of it."""
        parts: dict[int, TranscriptCompleted] = {}
        async for part in self._stage.stored(record):
            if part.revision > record.revision:
                return part
            if part.revision == record.revision:
                parts[part.part] = part
        if not parts or len(parts) < next(iter(parts.values())).parts:
            return None
        return joined(list(parts.values()))

    def _job(self, status: JobState, detail: dict[str, Any], event: Event) -> Output:
        event_id = self._call.event_id(NAME, "again", status, detail["revision"])
        return ledger_entry(self._call, NAME, status, detail, at=event.timestamp_s, event_id=event_id)
