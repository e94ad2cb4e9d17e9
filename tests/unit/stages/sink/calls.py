"""Synthetic calls as the sink reads them: records in the order of the bus, encoded as published."""

import random
from typing import Any

import msgspec

from schemas.calls import CallRef
from schemas.segments import Word
from schemas.status import JOB_TYPE, Job, JobState, JobStatus
from schemas.summaries import SUMMARY_TYPE, KeyPoint, Summary
from schemas.topics import STATUS, SUMMARIES, TRANSCRIPTS
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, CallMetrics, ChannelMetrics, TranscriptCompleted, Turn
from schemas.utterances import Channel, Gap
from stages.sink.batch import Arrival
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables

START_S = 1_790_000_000.0

_TYPES = {
    Turn: (TRANSCRIPTS, TURN_TYPE),
    TranscriptCompleted: (TRANSCRIPTS, COMPLETED_TYPE),
    Summary: (SUMMARIES, SUMMARY_TYPE),
    JobStatus: (STATUS, JOB_TYPE),
}


class CallScript:
    """Writes the records of one call, numbered per topic, a second apart."""

    def __init__(self, call_id: str, *, tenant: str = "default", seed: int = 1) -> None:
        self.call = CallRef(tenant, call_id)
        self.rng = random.Random(seed)
        self._numbers: dict[str, int] = {}
        self._clock_s = START_S

    def turns(self, count: int, *, revision: int = 0, first: int = 0, words: int = 5) -> list[Turn]:
        return [self._turn(number, revision, words) for number in range(first, first + count)]

    def _turn(self, number: int, revision: int, words: int) -> Turn:
        start_s = number * 3.0
        spoken = [
            Word(
                text=f"word{number}-{index}",
                start_s=start_s + index * 0.5,
                end_s=start_s + index * 0.5 + 0.4,
                probability=round(self.rng.random(), 6),
                interpolated=index == 1,
            )
            for index in range(words)
        ]
        return Turn(
            tenant=self.call.tenant,
            call_id=self.call.call_id,
            turn_id=str(self.call.derived_id("turn", number)),
            revision=revision,
            speaker=("agent", "customer")[number % 2],
            channel=number % 2,
            start_s=start_s,
            end_s=start_s + words * 0.5,
            text=" ".join(word.text for word in spoken),
            words=spoken,
            segment_ids=[str(self.call.derived_id("segment", number))],
            language="en",
        )

    def completed(
        self, turns: list[Turn], *, revision: int = 0, parts: int = 1, gaps: int = 1, provisional: bool = False
    ) -> list[TranscriptCompleted]:
        share = -(-len(turns) // parts) or 1
        return [
            TranscriptCompleted(
                tenant=self.call.tenant,
                call_id=self.call.call_id,
                revision=revision,
                part=part + 1,
                parts=parts,
                duration_s=len(turns) * 3.0,
                channels=[Channel(0, "agent"), Channel(1, "customer")],
                turns=turns[part * share : (part + 1) * share],
                metrics=self._metrics(len(turns)),
                gaps=[Gap(start_s=10.0 * n, end_s=10.0 * n + 1, events=2) for n in range(gaps)],
                language="en",
                utterances=len(turns),
                provisional=provisional,
            )
            for part in range(parts)
        ]

    def _metrics(self, turns: int) -> CallMetrics:
        return CallMetrics(
            duration_s=turns * 3.0,
            speech_s=turns * 2.5,
            silence_s=turns * 0.5,
            longest_silence_s=0.5,
            overlap_s=0.0,
            interruptions=1,
            channels=[
                ChannelMetrics(
                    channel=index,
                    role=role,
                    talk_s=turns * 1.25,
                    talk_ratio=0.5,
                    turns=turns // 2,
                    words=turns * 2,
                    words_per_minute=120.5,
                    interruptions=index,
                    longest_monologue_s=2.5,
                    response_latency_s=None if index else 0.25,
                    responses=1 - index,
                )
                for index, role in enumerate(("agent", "customer"))
            ],
        )

    def summary(
        self, *, kind: str = "final", revision: int = 0, text: str = "They talked.", llm: bool = False
    ) -> Summary:
        return Summary(
            tenant=self.call.tenant,
            call_id=self.call.call_id,
            kind="final" if kind == "final" else "rolling",
            revision=revision,
            text=text,
            key_points=[KeyPoint(text="a point", segment_ids=[str(self.call.derived_id("segment", 0))])],
            sentiment="neutral" if llm else None,
            actions=["call back"],
            topics=["billing"],
            method="llm" if llm else "extractive",
            model="llama" if llm else "textrank",
            detail="" if llm else "no language model answers",
        )

    def job(
        self, job: Job, status: JobState, detail: dict[str, object] | None = None, at: float | None = None
    ) -> JobStatus:
        self._clock_s += 1
        return JobStatus(
            tenant=self.call.tenant,
            call_id=self.call.call_id,
            job=job,
            status=status,
            detail=detail or {},
            at=self._clock_s if at is None else at,
        )

    def started(self) -> JobStatus:
        return self.job(
            "separate",
            "started",
            {
                "channels": 2,
                "roles": ["agent", "customer"],
                "sample_rate_hz": 8000,
                "encoding": "mulaw",
                "language": None,
                "metadata": {"filename": "call.wav", "queue": "billing"},
            },
        )

    def arrival(self, record: Turn | TranscriptCompleted | Summary | JobStatus) -> Arrival:
        """Return the record after encoding and the stage's decoding, as the bus would deliver it next."""
        topic, record_type = _TYPES[type(record)]
        number = self._numbers.get(topic, -1) + 1
        self._numbers[topic] = number
        self._clock_s += 1
        headers = {"ce_type": record_type, "ce_callseq": str(number)}
        arrival = stage_without_store().decode(topic, headers, msgspec.json.encode(record), self._clock_s)
        assert isinstance(arrival, Arrival)
        return arrival

    def whole(self, turns: int = 4, *, parts: int = 1, words: int = 5) -> list[Arrival]:
        """Return a call from start to final summary."""
        said = self.turns(turns, words=words)
        records: list[Turn | TranscriptCompleted | Summary | JobStatus] = [
            self.started(),
            self.job("transcribe", "started"),
            *said,
            self.job("separate", "gap", {"start_s": 0.0, "end_s": 1.0, "events": 2}),
            self.summary(kind="rolling", text="So far."),
            self.job("separate", "completed", {"reason": "hangup", "duration_s": turns * 3.0}),
            self.job("transcribe", "completed", {"utterances": turns}),
            *self.completed(said, parts=parts),
            self.job("merge", "completed"),
            self.summary(),
            self.job("summarize", "completed"),
        ]
        return [self.arrival(record) for record in records]


def stage_without_store() -> SinkStage:
    """For decoding only."""
    return SinkStage(None)  # type: ignore[arg-type]


TABLES = (
    "audio_sessions",
    "transcript_segments",
    "transcript_parts",
    "summaries",
    "processing_jobs",
    "call_metrics",
    "channel_metrics",
    "gaps",
    "unheard",
    "words",
    "turns",
    "calls",
)


def read(tables: Tables, sql: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = tables.connection.execute(sql).fetchall()
    return rows


def dump(tables: Tables) -> dict[str, list[str]]:
    """Return every table and view as sorted JSON texts: equal dumps mean byte-equal tables."""
    return {
        name: [text for (text,) in read(tables, f'SELECT to_json(t)::VARCHAR AS j FROM "{name}" AS t ORDER BY j')]
        for name in TABLES
    }
