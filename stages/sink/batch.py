"""Computes what a batch of records changes in the warehouse. Pure: a replay of the same records changes nothing more.

The rules:
- A completed transcript is authoritative. Once all its parts have arrived, the call's other turns are deleted. Turns or
  parts of its or an older revision that arrive again (a replay after a crash) change nothing.
- A summary replaces one of its kind of an older revision. Within a revision, one by a language model replaces one
  without; else the one with the higher record number stays, then the later one.
- A call has failed if its audio cannot be decoded, or if its last transcript could not be merged as a whole. It also
  counts as failed while all its events were rejected, until an event starts it.
- A job's ledger row holds the latest of its entries by their own time, in whatever order they are read. The sink's own
  entries are written in the same transaction as the rows that they are about.
"""

import uuid
from datetime import datetime
from typing import Any

import msgspec

from schemas.calls import CallRef
from schemas.status import JOB_TYPE, JobStatus, RecordsExpired
from schemas.summaries import Summary
from schemas.topics import STATUS
from schemas.transcripts import TranscriptCompleted, Turn
from stages.protocol import Output
from stages.sink import rows
from stages.sink.rows import (
    CallMetricsRow,
    ChannelMetricsRow,
    ExpiredRow,
    GapRow,
    JobRow,
    PartRow,
    SessionRow,
    SummaryRow,
    TurnRow,
    UnheardRow,
)


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A record as read by the sink. `at_s` is the bus's Unix time of it: the only clock that a replay repeats."""

    call: CallRef
    record: Turn | TranscriptCompleted | Summary | JobStatus
    seq: int
    at_s: float

    @property
    def at(self) -> datetime:
        return rows.utc(self.at_s)


class Stored(msgspec.Struct):
    """The rows of the batch's calls that the warehouse holds before it, by id."""

    sessions: dict[uuid.UUID, SessionRow] = {}
    parts: dict[uuid.UUID, PartRow] = {}
    summaries: dict[uuid.UUID, SummaryRow] = {}
    jobs: dict[uuid.UUID, JobRow] = {}


class Kept(msgspec.Struct, frozen=True):
    """The ids that stay of a call whose transcript was completed. Its other rows in these tables are deleted.

    Of its unheard speech those of the revision stay.
    """

    turns: set[uuid.UUID]
    parts: set[uuid.UUID]
    channels: set[uuid.UUID]
    gaps: set[uuid.UUID]
    unheard_of: int


class Changes(msgspec.Struct):
    """Rows to write, by id. For the sessions in `kept`, all rows but those are deleted first."""

    sessions: dict[uuid.UUID, SessionRow] = {}
    turns: dict[uuid.UUID, TurnRow] = {}
    parts: dict[uuid.UUID, PartRow] = {}
    summaries: dict[uuid.UUID, SummaryRow] = {}
    jobs: dict[uuid.UUID, JobRow] = {}
    call_metrics: dict[uuid.UUID, CallMetricsRow] = {}
    channel_metrics: dict[uuid.UUID, ChannelMetricsRow] = {}
    gaps: dict[uuid.UUID, GapRow] = {}
    unheard: dict[uuid.UUID, UnheardRow] = {}
    expired: dict[uuid.UUID, ExpiredRow] = {}
    kept: dict[uuid.UUID, Kept] = {}


class Batch:
    """Folds arrivals, in the order of their topics, into `changes`. Collects the outputs to publish after the commit.

    `stored` must hold the rows of every call in the batch. It is not changed.
    """

    def __init__(self, stored: Stored) -> None:
        self.changes = Changes()
        self.outputs: list[Output] = []
        self._stored = stored

    def add(self, arrival: Arrival | RecordsExpired) -> None:
        if isinstance(arrival, RecordsExpired):
            row = rows.expired_row(arrival)
            self.changes.expired[row.id] = row
            return
        session = self._session(arrival.call)
        match arrival.record:
            case Turn() as turn:
                self._turn(session, arrival.call, turn)
            case TranscriptCompleted() as completed:
                self._part(session, arrival, completed)
            case Summary() as summary:
                self._summary(session, arrival, summary)
            case JobStatus() as status:
                self._job(session, arrival.call, status)

    def _session(self, call: CallRef) -> SessionRow:
        session = self.changes.sessions.get(call.session_id)
        if session is None:
            stored = self._stored.sessions.get(call.session_id)
            session = (
                msgspec.structs.replace(stored)
                if stored is not None
                else SessionRow(id=call.session_id, tenant=call.tenant, call_id=call.call_id)
            )
            self.changes.sessions[call.session_id] = session
        return session

    def _turn(self, session: SessionRow, call: CallRef, turn: Turn) -> None:
        if session.revision is not None and turn.revision <= session.revision:
            return
        row = rows.turn_row(call, turn)
        self.changes.turns[row.id] = row
        session.language = session.language or turn.language
        session.status = "in_progress"

    def _part(self, session: SessionRow, arrival: Arrival, completed: TranscriptCompleted) -> None:
        if session.revision is not None and completed.revision < session.revision:
            return
        call = arrival.call
        part = rows.part_row(call, completed)
        self.changes.parts[part.id] = part
        if session.revision is None or completed.revision > session.revision:
            for turn in completed.turns:
                row = rows.turn_row(call, turn)
                self.changes.turns[row.id] = row
            self.changes.unheard.update((one.id, one) for one in rows.unheard_rows(call, completed))
        parts = self._parts(call, completed)
        if len(parts) < completed.parts:
            return
        kept = {turn_id for one in parts for turn_id in one.turn_ids}
        newly_complete = completed.revision != session.revision
        if newly_complete:
            self._complete(session, arrival, completed, parts, kept)
        if newly_complete or completed.part == completed.parts:
            figures = {"turns": len(kept), "parts": completed.parts}
            self._say_stored(session, arrival, "transcript", completed.revision, figures)

    def _parts(self, call: CallRef, completed: TranscriptCompleted) -> list[PartRow]:
        """Return the parts of the revision that have arrived, those of this batch included."""
        found = []
        for number in range(1, completed.parts + 1):
            part_id = call.derived_id("part", completed.revision, number)
            part = self.changes.parts.get(part_id) or self._stored.parts.get(part_id)
            if part is None:
                break
            found.append(part)
        return found

    def _complete(
        self,
        session: SessionRow,
        arrival: Arrival,
        completed: TranscriptCompleted,
        parts: list[PartRow],
        kept: set[uuid.UUID],
    ) -> None:
        call, changes = arrival.call, self.changes
        whole, channels = rows.metrics_rows(call, completed)
        gaps = rows.gap_rows(call, completed)
        for part_id in [one.id for one in changes.parts.values() if one.session_id == session.id]:
            if changes.parts[part_id].revision < completed.revision:
                del changes.parts[part_id]
        for turn_id in [one.id for one in changes.turns.values() if one.session_id == session.id]:
            if turn_id not in kept:
                del changes.turns[turn_id]
        changes.call_metrics[whole.id] = whole
        changes.channel_metrics.update((row.id, row) for row in channels)
        for gap_id in [one.id for one in changes.gaps.values() if one.session_id == session.id]:
            del changes.gaps[gap_id]
        changes.gaps.update((row.id, row) for row in gaps)
        for unheard_id in [one.id for one in changes.unheard.values() if one.session_id == session.id]:
            if changes.unheard[unheard_id].revision != completed.revision:
                del changes.unheard[unheard_id]
        changes.kept[session.id] = Kept(
            turns=kept,
            parts={one.id for one in parts},
            channels={row.id for row in channels},
            gaps={row.id for row in gaps},
            unheard_of=completed.revision,
        )
        session.status = "failed" if self._has_failed(call, completed.revision) else "completed"
        session.revision = completed.revision
        session.duration = completed.duration_s
        session.language = completed.language or session.language
        session.provisional = completed.provisional
        session.processed_at = arrival.at
        session.channels = len(completed.channels)
        session.roles = [channel.role for channel in sorted(completed.channels, key=lambda channel: channel.index)]

    def _summary(self, session: SessionRow, arrival: Arrival, summary: Summary) -> None:
        row = rows.summary_row(arrival.call, summary, arrival.seq, arrival.at)
        stored = self.changes.summaries.get(row.id) or self._stored.summaries.get(row.id)
        if stored is not None and _rank(row) < _rank(stored):
            return
        if stored is None or _rank(row) > _rank(stored):
            self.changes.summaries[row.id] = row
        if summary.kind == "final":
            figures = {"method": summary.method, "seq": arrival.seq}
            self._say_stored(session, arrival, "summary", summary.revision, figures)

    def _job(self, session: SessionRow, call: CallRef, status: JobStatus) -> None:
        row = rows.job_row(call, status)
        stored = self.changes.jobs.get(row.id) or self._stored.jobs.get(row.id)
        self.changes.jobs[row.id] = row if stored is None else rows.merged_job(stored, row)
        if status.status == "failed" and status.job in ("transcribe", "merge"):
            of_transcript = status.job == "merge" and status.detail.get("revision") == session.revision
            if session.revision is None or of_transcript:
                session.status = "failed"
        if status.job == "separate" and status.status not in ("gap", "retrying", "updated", "expired"):
            _describe(session, status)

    def _has_failed(self, call: CallRef, revision: int) -> bool:
        """Return True if the call's audio could not be decoded, or this revision of its transcript is not whole."""
        separate, merge = (
            self.changes.jobs.get(job_id) or self._stored.jobs.get(job_id)
            for job_id in (rows.job_id(call, "separate"), rows.job_id(call, "merge"))
        )
        if separate is not None and separate.status == "failed":
            return True
        return merge is not None and merge.status == "failed" and merge.detail.get("revision") == revision

    def _say_stored(
        self, session: SessionRow, arrival: Arrival, what: str, revision: int, figures: dict[str, Any]
    ) -> None:
        call = arrival.call
        record = JobStatus(
            tenant=call.tenant,
            call_id=call.call_id,
            job="sink",
            status="completed",
            detail={"stored": what, "revision": revision, **figures},
            at=arrival.at_s,
        )
        # Written with the rows, so that readers of a completed call find it. Reading it from the topic changes nothing.
        self._job(session, call, record)
        event_id = f"sink/{call.tenant}/{call.call_id}/{what}/{revision}/{arrival.seq}"
        self.outputs.append(Output(topic=STATUS, record=record, event_id=event_id, event_type=JOB_TYPE))


def _rank(row: SummaryRow) -> tuple[int, bool, int, datetime]:
    return row.revision, row.method == "llm", row.seq, row.created_at


def _describe(session: SessionRow, status: JobStatus) -> None:
    """Copy the call's properties from the separate stage; those of the completed transcript have precedence."""
    detail = status.detail
    if status.status in ("completed", "failed"):
        session.reason = _text(detail.get("reason")) or session.reason
        if status.status == "failed":
            session.status = "failed"
        if session.revision is None and isinstance(detail.get("duration_s"), int | float):
            session.duration = float(detail["duration_s"])
        return
    if status.status == "rejected":
        if session.uploaded_at is None:
            session.status, session.reason = "failed", _text(detail.get("error"))
        return
    at = rows.utc(status.at)
    if session.uploaded_at is None and session.status == "failed" and session.revision is None:
        session.status, session.reason = "in_progress", None
    session.uploaded_at = min(session.uploaded_at or at, at)
    metadata = detail.get("metadata")
    if isinstance(metadata, dict):
        session.metadata = metadata
        session.filename = _text(metadata.get("filename")) or session.filename
    session.encoding = _text(detail.get("encoding")) or session.encoding
    session.language = session.language or _text(detail.get("language"))
    if isinstance(detail.get("sample_rate_hz"), int):
        session.sample_rate = detail["sample_rate_hz"]
    if session.revision is None:
        channels, roles = detail.get("channels"), detail.get("roles")
        if isinstance(channels, int):
            session.channels = channels
        if isinstance(roles, list):
            session.roles = [str(role) for role in roles]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
