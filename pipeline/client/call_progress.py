"""Progress of one call through the pipeline, read from the records on the bus: for `callstream transcribe`."""

import contextlib

import msgspec

from pipeline.bus.protocol import Record
from schemas import envelope, topics
from schemas.segments import Segment
from schemas.status import JOB_TYPE, JobStatus
from schemas.summaries import SUMMARY_TYPE, Summary
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, CallMetrics, TranscriptCompleted, Turn
from schemas.utterances import CallClosed, CallProgress, Utterance

FOLLOWED = (
    topics.UTTERANCES,
    topics.UTTERANCES_BATCH,
    topics.SEGMENTS,
    topics.TRANSCRIPTS,
    topics.SUMMARIES,
    topics.STATUS,
)


class CallWatch:
    """Counts of one call. Repeated records (after a restart of a stage) are dropped by their ids."""

    def __init__(self) -> None:
        self.audio_s = 0.0
        self.heard_s = 0.0
        self.speech_s = 0.0
        self.utterances = 0
        self.transcribed = 0
        self.transcribed_s = 0.0
        self.new_turns: list[Turn] = []
        self.metrics: CallMetrics | None = None
        self.summary: Summary | None = None
        self.closed: CallClosed | None = None
        self.failure: str | None = None
        self._stored: set[str] = set()
        self._seen: set[str] = set()

    @property
    def stored(self) -> bool:
        """True once the warehouse holds the completed transcript and its summary."""
        return {"transcript", "summary"} <= self._stored

    def apply(self, record: Record) -> None:
        event_id = record.headers.get("ce_id", "")
        if event_id in self._seen:
            return
        self._seen.add(event_id)
        with contextlib.suppress(ValueError, RecursionError):  # an outsider's: the stage that reads it rejects it
            self._take(record)

    def _take(self, record: Record) -> None:
        event_type = record.headers.get("ce_type")
        if event_type == TURN_TYPE:
            self.new_turns.append(msgspec.json.decode(record.value, type=Turn))
        elif event_type == COMPLETED_TYPE:
            self.metrics = msgspec.json.decode(record.value, type=TranscriptCompleted).metrics
        elif event_type == SUMMARY_TYPE:
            self.summary = msgspec.json.decode(record.value, type=Summary)
        elif event_type == JOB_TYPE:
            self._apply_status(msgspec.json.decode(record.value, type=JobStatus))
        else:
            self._apply_stage_record(record)

    def _apply_status(self, status: JobStatus) -> None:
        if status.job == "sink" and status.status == "completed":
            self._stored.add(str(status.detail.get("stored")))
        elif status.status == "failed" and status.job in ("merge", "separate"):
            self.failure = str(status.detail.get("reason") or status.detail.get("error") or "unknown reason")

    def _apply_stage_record(self, record: Record) -> None:
        content = envelope.decode(record.value)
        from_separate = record.topic in (topics.UTTERANCES, topics.UTTERANCES_BATCH)
        if isinstance(content, Utterance):
            self.utterances += 1
            self.speech_s += sum(end - start for start, end in content.voiced)
        elif isinstance(content, Segment):
            self.transcribed += 1
            self.transcribed_s += content.end_s - content.start_s
        elif isinstance(content, CallProgress) and from_separate:
            self.heard_s = max(self.heard_s, min(content.heard_to_s))
        elif isinstance(content, CallClosed) and from_separate:
            self.closed = content
            self.heard_s = content.duration_s
