"""The rows of the warehouse, with the names and order of the columns in `migrations`, and how records become rows."""

import uuid
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from schemas.calls import CallRef
from schemas.status import JobStatus, RecordsExpired
from schemas.summaries import Summary
from schemas.transcripts import TranscriptCompleted, Turn


class SessionRow(msgspec.Struct, kw_only=True):
    """A call. Unknown values are None. The only row that is changed in place while a batch is folded."""

    id: uuid.UUID
    filename: str | None = None
    duration: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    uploaded_at: datetime | None = None
    processed_at: datetime | None = None
    status: str = "in_progress"
    tenant: str
    call_id: str
    encoding: str | None = None
    language: str | None = None
    roles: list[str] = []
    revision: int | None = None
    provisional: bool = False
    reason: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def session_id(self) -> uuid.UUID:
        return self.id


class WordValue(msgspec.Struct, frozen=True):
    """One element of `transcript_segments.words`."""

    text: str
    start_time: float
    end_time: float
    probability: float
    interpolated: bool


class TurnRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    speaker: str
    start_time: float
    end_time: float
    text: str
    confidence: float | None
    channel: int
    revision: int
    language: str
    segment_ids: list[str]
    words: list[WordValue]


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    revision: int
    part: int
    parts: int
    turn_ids: list[uuid.UUID]


class SummaryRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    summary_text: str
    key_points: list[dict[str, Any]]
    sentiment: str | None
    created_at: datetime
    kind: str
    revision: int
    method: str
    model: str
    actions: list[str]
    topics: list[str]
    detail: str
    seq: int
    sentiments: list[dict[str, Any]] = []
    action_items: list[dict[str, Any]] = []
    outcome: str | None = None
    doubted: list[dict[str, Any]] = []


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    job_type: str
    status: str
    started_at: datetime | None
    completed_at: datetime | None
    error_message: str | None
    detail: dict[str, Any]
    updated_at: datetime


class CallMetricsRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    duration_s: float
    speech_s: float
    silence_s: float
    longest_silence_s: float
    overlap_s: float
    interruptions: int
    utterances: int


class ChannelMetricsRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    channel: int
    role: str
    talk_s: float
    talk_ratio: float
    turns: int
    words: int
    words_per_minute: float
    interruptions: int
    longest_monologue_s: float
    response_latency_s: float | None
    responses: int


class GapRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    start_time: float
    end_time: float
    events: int


class UnheardRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    session_id: uuid.UUID
    revision: int
    channel: int
    start_time: float
    end_time: float
    level_dbfs: float
    reason: str


class ExpiredRow(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    stage: str
    reader: str
    topic: str
    partition_number: int
    first_position: int
    last_position: int
    calls: int
    found_at: datetime


Row = (
    SessionRow
    | TurnRow
    | PartRow
    | SummaryRow
    | JobRow
    | CallMetricsRow
    | ChannelMetricsRow
    | GapRow
    | UnheardRow
    | ExpiredRow
)

_EXPIRED: Final = uuid.UUID("6f9f3e0c-2f0a-5d55-8d0a-5b8a7f6c1d4e")
"""The namespace of the ids of `ExpiredRow`."""


def utc(unix_s: float) -> datetime:
    """Return a TIMESTAMP value: UTC without a zone. Raises ValueError or OverflowError if out of range."""
    return datetime.fromtimestamp(unix_s, UTC).replace(tzinfo=None)


def turn_row(call: CallRef, turn: Turn) -> TurnRow:
    """Return the row of a turn. Raises ValueError if its id is not a UUID."""
    words = [WordValue(w.text, w.start_s, w.end_s, w.probability, w.interpolated) for w in turn.words]
    return TurnRow(
        id=uuid.UUID(turn.turn_id),
        session_id=call.session_id,
        speaker=turn.speaker,
        start_time=turn.start_s,
        end_time=turn.end_s,
        text=turn.text,
        confidence=sum(word.probability for word in words) / len(words) if words else None,
        channel=turn.channel,
        revision=turn.revision,
        language=turn.language,
        segment_ids=turn.segment_ids,
        words=words,
    )


def part_row(call: CallRef, completed: TranscriptCompleted) -> PartRow:
    return PartRow(
        id=call.derived_id("part", completed.revision, completed.part),
        session_id=call.session_id,
        revision=completed.revision,
        part=completed.part,
        parts=completed.parts,
        turn_ids=[uuid.UUID(turn.turn_id) for turn in completed.turns],
    )


def summary_row(call: CallRef, summary: Summary, seq: int, at: datetime) -> SummaryRow:
    return SummaryRow(
        id=call.derived_id("summary", summary.kind),
        session_id=call.session_id,
        summary_text=summary.text,
        key_points=list(map(msgspec.structs.asdict, summary.key_points)),
        sentiment=summary.sentiment,
        created_at=at,
        kind=summary.kind,
        revision=summary.revision,
        method=summary.method,
        model=summary.model,
        actions=summary.actions,
        topics=summary.topics,
        detail=summary.detail,
        seq=seq,
        sentiments=list(map(msgspec.structs.asdict, summary.sentiments)),
        action_items=list(map(msgspec.structs.asdict, summary.action_items)),
        outcome=summary.outcome,
        doubted=list(map(msgspec.structs.asdict, summary.doubted)),
    )


def metrics_rows(call: CallRef, completed: TranscriptCompleted) -> tuple[CallMetricsRow, list[ChannelMetricsRow]]:
    metrics = completed.metrics
    whole = CallMetricsRow(
        id=call.session_id,
        session_id=call.session_id,
        duration_s=metrics.duration_s,
        speech_s=metrics.speech_s,
        silence_s=metrics.silence_s,
        longest_silence_s=metrics.longest_silence_s,
        overlap_s=metrics.overlap_s,
        interruptions=metrics.interruptions,
        utterances=completed.utterances,
    )
    channels = [
        ChannelMetricsRow(
            id=call.derived_id("channel-metrics", channel.channel),
            session_id=call.session_id,
            **msgspec.structs.asdict(channel),
        )
        for channel in metrics.channels
    ]
    return whole, channels


def gap_rows(call: CallRef, completed: TranscriptCompleted) -> list[GapRow]:
    return [
        GapRow(
            id=call.derived_id("gap", index),
            session_id=call.session_id,
            start_time=gap.start_s,
            end_time=gap.end_s,
            events=gap.events,
        )
        for index, gap in enumerate(completed.gaps)
    ]


def unheard_rows(call: CallRef, completed: TranscriptCompleted) -> list[UnheardRow]:
    """Return the rows of one part of a transcript."""
    return [
        UnheardRow(
            id=call.derived_id("unheard", completed.revision, one.channel, round(one.start_s * 1000)),
            session_id=call.session_id,
            revision=completed.revision,
            channel=one.channel,
            start_time=one.start_s,
            end_time=one.end_s,
            level_dbfs=one.level_dbfs,
            reason=one.reason,
        )
        for one in completed.unheard
    ]


def expired_row(expired: RecordsExpired) -> ExpiredRow:
    """Return the row. What is told again, with more that has expired since, has the same id."""
    name = f"{expired.group}/{expired.topic}/{expired.partition}/{expired.first}"
    return ExpiredRow(
        id=uuid.uuid5(_EXPIRED, name),
        stage=expired.stage,
        reader=expired.group,
        topic=expired.topic,
        partition_number=expired.partition,
        first_position=expired.first,
        last_position=expired.last,
        calls=expired.calls,
        found_at=utc(expired.at),
    )


def job_id(call: CallRef, job: str, stored: str = "") -> uuid.UUID:
    """Return the id of a job's row; `stored` tells the sink's jobs apart."""
    return call.derived_id("job", job, stored)


def job_row(call: CallRef, status: JobStatus) -> JobRow:
    """Return the row of a ledger entry. A call has a row for each job (the sink one for each kind of record stored),
    and one for each gap, rejection and update, and for each first number that expired.
    """
    at = utc(status.at)
    if status.status in ("gap", "rejected", "retrying", "updated"):
        canonical = msgspec.json.encode(status.detail, order="sorted").decode()
        row_id = call.derived_id("job", status.job, status.status, repr(status.at), canonical)
    elif status.status == "expired":
        place = (str(status.detail.get("topic")), str(status.detail.get("first_number")))
        row_id = call.derived_id("job", status.job, status.status, *place)
    else:
        row_id = job_id(call, status.job, str(status.detail.get("stored", "")))
    error = next((status.detail[name] for name in ("error", "message", "reason") if name in status.detail), None)
    return JobRow(
        id=row_id,
        session_id=call.session_id,
        job_type=status.job,
        status=status.status,
        started_at=at if status.status == "started" else None,
        completed_at=at if status.status in ("completed", "failed") else None,
        error_message=str(error) if error is not None and status.status in _WITH_ERROR else None,
        detail=status.detail,
        updated_at=at,
    )


_WITH_ERROR: Final = ("failed", "rejected", "retrying", "expired")
_JOB_ORDER: Final = {
    "started": 0,
    "gap": 1,
    "rejected": 1,
    "retrying": 1,
    "updated": 1,
    "expired": 1,
    "completed": 2,
    "failed": 2,
}


def merged_job(stored: JobRow, arrived: JobRow) -> JobRow:
    """Merge two entries of a job, whichever arrived first: the status of the later one, the details of both."""
    first, last = sorted((stored, arrived), key=lambda row: (row.updated_at, _JOB_ORDER[row.status]))
    return msgspec.structs.replace(
        last,
        started_at=last.started_at or first.started_at,
        completed_at=None if last.status == "started" else last.completed_at,
        detail={**first.detail, **last.detail},
    )
