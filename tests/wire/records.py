"""One record of every kind, with every field set."""

import msgspec

from schemas.audio import (
    ENDED_TYPE,
    STARTED_TYPE,
    UPDATED_TYPE,
    WATCHED_TYPE,
    CallEnded,
    CallStarted,
    CallUpdated,
    CallWatched,
)
from schemas.calls import CallRef
from schemas.envelope import StageRecord
from schemas.partials import PARTIAL_TYPE, Commitment, Partial
from schemas.segments import SEGMENT_TYPE, LiveSegment, Segment, Word
from schemas.status import DEAD_LETTER_TYPE, JOB_TYPE, RESOLVED_TYPE, DeadLetter, JobStatus, LetterResolved
from schemas.summaries import SUMMARY_TYPE, KeyPoint, Summary
from schemas.transcripts import (
    COMPLETED_TYPE,
    TURN_TYPE,
    CallMetrics,
    ChannelMetrics,
    TranscriptCompleted,
    Turn,
)
from schemas.utterances import (
    CallChanged,
    CallClosed,
    CallOpened,
    CallProgress,
    Channel,
    Gap,
    InterimUtterance,
    SpeakerTurn,
    Utterance,
)

CALL = CallRef("acme", "call-1")

_TURN = Turn(
    tenant="acme",
    call_id="call-1",
    turn_id="0c9b5a8e-7b1e-5d0e-8f0d-1f0b1c9d2e3f",
    revision=1,
    speaker="agent",
    channel=0,
    start_s=0.5,
    end_s=1.25,
    text="Good morning",
    words=[
        Word(text="Good", start_s=0.5, end_s=0.75, probability=0.875),
        Word(text="morning", start_s=0.75, end_s=1.25, probability=0.5, interpolated=True),
    ],
    segment_ids=["5d0e8f0d-0c9b-5a8e-7b1e-1f0b1c9d2e3f"],
    language="en",
)
_GAP = Gap(start_s=3.0, end_s=3.5, events=2)

STAGE_RECORDS: dict[str, StageRecord] = {
    "call_opened.1": CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=8000,
        encoding="mulaw",
        language="en",
        partials=True,
        metadata={"filename": "call.wav", "queue": 7},
        opened_at=1767225600.5,
    ),
    "utterance.1": Utterance(
        call=CALL,
        seq=1,
        channel=1,
        first_sample=16000,
        sample_rate_hz=8000,
        pcm=bytes(range(8)),
        voiced=[(2.0, 2.5)],
        cut="pause",
    ),
    "interim.1": InterimUtterance(
        call=CALL,
        channel=1,
        first_sample=16000,
        sample_rate_hz=8000,
        pcm=bytes(range(8)),
        voiced=[(2.0, 2.5)],
        revision=3,
        certain=True,
    ),
    "commitment.1": Commitment(
        call=CALL,
        channel=1,
        first_sample=16000,
        revision=3,
        committed="Good morning",
        tail=", this is",
        start_s=2.0,
        end_s=4.875,
        language="en",
    ),
    "call_progress.1": CallProgress(call=CALL, seq=2, heard_to_s=[4.0, 3.5]),
    "call_changed.1": CallChanged(
        call=CALL, seq=3, from_s=30.5, language="es", hotwords=["Iberdrola", "Móstoles"], partials=True
    ),
    "call_changed.1-language": CallChanged(call=CALL, seq=3, from_s=30.5, language=None),
    "call_closed.1": CallClosed(
        call=CALL,
        seq=4,
        revision=1,
        duration_s=60.5,
        speech_s=41.25,
        utterances=2,
        gaps=[_GAP],
        reason="hangup",
        provisional=False,
    ),
    "call_closed.1-speakers": CallClosed(
        call=CALL,
        seq=4,
        revision=1,
        duration_s=60.5,
        speech_s=41.25,
        utterances=2,
        gaps=[_GAP],
        reason="hangup",
        provisional=False,
        speakers=[SpeakerTurn(0.5, 1.25, "speaker_1"), SpeakerTurn(1.25, 2.0, "unknown")],
        speaker_source="estimated",
    ),
    "segment.1": Segment(
        call=CALL,
        seq=1,
        segment_id="5d0e8f0d-0c9b-5a8e-7b1e-1f0b1c9d2e3f",
        channel=0,
        start_s=0.5,
        end_s=1.25,
        text="Good morning",
        words=_TURN.words,
        voiced=[(0.5, 1.25)],
        language="en",
        model="base",
        word_source="attention",
        probability=0.75,
        no_speech_probability=0.125,
        guard="no_speech",
        dropped_text="Thank you.",
        flags=["low_probability"],
    ),
}

PUBLISHED: dict[str, msgspec.Struct] = {
    STARTED_TYPE: CallStarted(
        encoding="mulaw", sample_rate_hz=8000, channels=2, roles=["agent", "customer"], metadata={"queue": 7}
    ),
    UPDATED_TYPE: CallUpdated(language="es", hotwords=["Iberdrola"], partials=True),
    ENDED_TYPE: CallEnded(events=12),
    WATCHED_TYPE: CallWatched(seconds=30.0),
    PARTIAL_TYPE: Partial(
        tenant="acme",
        call_id="call-1",
        channel=1,
        speaker="customer",
        utterance_id="5d0e8f0d-0c9b-5a8e-7b1e-1f0b1c9d2e3f",
        revision=3,
        committed="Good morning",
        tail=", this is",
        start_s=2.0,
        end_s=4.875,
        language="en",
        final=True,
    ),
    SEGMENT_TYPE: LiveSegment(
        tenant="acme",
        call_id="call-1",
        segment_id="5d0e8f0d-0c9b-5a8e-7b1e-1f0b1c9d2e3f",
        channel=0,
        start_s=0.5,
        end_s=1.25,
        text="Good morning",
        words=_TURN.words,
        language="en",
        word_source="attention",
        probability=0.75,
    ),
    TURN_TYPE: _TURN,
    COMPLETED_TYPE: TranscriptCompleted(
        tenant="acme",
        call_id="call-1",
        revision=1,
        part=1,
        parts=1,
        duration_s=60.5,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        turns=[_TURN],
        metrics=CallMetrics(
            duration_s=60.5,
            speech_s=41.25,
            silence_s=20.0,
            longest_silence_s=6.0,
            overlap_s=0.75,
            interruptions=1,
            channels=[
                ChannelMetrics(
                    channel=0,
                    role="agent",
                    talk_s=0.75,
                    talk_ratio=1.0,
                    turns=1,
                    words=2,
                    words_per_minute=160.0,
                    interruptions=0,
                    longest_monologue_s=0.75,
                    response_latency_s=None,
                    responses=0,
                )
            ],
        ),
        gaps=[_GAP],
        language="en",
        utterances=2,
        provisional=False,
    ),
    SUMMARY_TYPE: Summary(
        tenant="acme",
        call_id="call-1",
        kind="final",
        revision=1,
        text="A greeting.",
        key_points=[KeyPoint(text="They greet.", segment_ids=["5d0e8f0d-0c9b-5a8e-7b1e-1f0b1c9d2e3f"])],
        sentiment="neutral",
        actions=["call back"],
        topics=["greeting"],
        method="llm",
        model="llama3.2:1b",
        detail="prompt summary-1",
    ),
    JOB_TYPE: JobStatus(
        tenant="acme", call_id="call-1", job="merge", status="completed", detail={"turns": 1}, at=1767225600.5
    ),
    DEAD_LETTER_TYPE: DeadLetter(
        stage="separate",
        topic="calls.audio",
        partition=3,
        position=17,
        key=b"call-1",
        value=b"\x00\x01",
        value_bytes=2,
        headers={"ce_id": "x"},
        error="RejectedInput",
        message="callseq '-1' is not a whole number",
        attempts=1,
        at=1767225600.5,
    ),
    RESOLVED_TYPE: LetterResolved(
        letter_id="separate/calls.audio/3/17", position=5, action="replayed", at=1767225600.5
    ),
}
