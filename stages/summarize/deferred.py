"""Replaces the stand-ins that were made while the language model could not be used, once it can.

Each input names a completed transcript. It is held, without an acknowledgement, until the model answers; the transcript
is then read from the bus again. After a crash an input may be worked on twice: the summaries differ in their ids.
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
from stages.protocol import CallProcessor, Checkpoint, Event, Output
from stages.summarize.stage import NAME, llm_summary, summary_detail, unnumbered
from stages.summarize.writer import SummaryWriter

ASK_EVERY_S: Final = 10.0

StoredTranscripts = Callable[[SummaryDeferred], AsyncIterator[TranscriptCompleted]]
"""The parts of the call's completed transcripts that the bus holds, in order, from the deferred one's first on."""


class DeferredSummaryStage:
    """Opens the processors of calls. `ask_every_s` is how long to wait, about, until the model is asked for again."""

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
        """However many calls wait, one of them asks."""
        async with self._asking:
            waiting = False
            while True:
                try:
                    await self.writer.available(call_type)
                except LlmUnavailable as error:
                    if not waiting:
                        self._log.info("summaries wait for the language model", reason=str(error))
                    waiting = True
                    await asyncio.sleep(self._ask_every_s * random.uniform(0.8, 1.2))
                else:
                    return


class DeferredSummaryProcessor:
    """One call. It keeps nothing: every input stands alone."""

    finished = True
    idle_position = None

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
                return  # it has a summary of its own
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
        """The deferred transcript, or a newer one; None where parts of it are gone."""
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
