"""What the merge stage publishes on `calls.transcripts`, as JSON for anyone to read."""

from collections.abc import Sequence

import msgspec

from schemas.segments import Word
from schemas.topics import Lane
from schemas.utterances import Channel, Gap, SpeakerSource

TURN_TYPE = "callstream.turn"
COMPLETED_TYPE = "callstream.transcript.completed"


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one speaker says until another takes over. Published once it can no longer change.

    Only where several speak on one channel it may: at the call's end its turns are published again, cut by who speaks,
    and those that begin with the same word have the same `turn_id`.
    """

    tenant: str
    call_id: str
    turn_id: str
    revision: int
    speaker: str
    channel: int
    start_s: float
    end_s: float
    text: str
    words: list[Word]
    segment_ids: list[str]
    language: str
    speaker_source: SpeakerSource = "channel"
    lane: Lane = "live"


class ChannelMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's share of the call. See `stages.merge.metrics` for each figure's definition."""

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
    """Median over this channel's responses; None where it never answered another channel."""
    responses: int


class CallMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures from speech activity, in seconds. See `stages.merge.metrics` for each figure's definition."""

    duration_s: float
    speech_s: float
    silence_s: float
    longest_silence_s: float
    overlap_s: float
    interruptions: int
    channels: list[ChannelMetrics]


class TranscriptCompleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole call. Longer than a record it comes in `parts`, numbered from 1: `turns` is then split over them."""

    tenant: str
    call_id: str
    revision: int
    part: int
    parts: int
    duration_s: float
    channels: list[Channel]
    turns: list[Turn]
    metrics: CallMetrics
    gaps: list[Gap]
    language: str
    utterances: int
    provisional: bool
    speaker_source: SpeakerSource = "channel"
    lane: Lane = "live"
    call_type: str = ""
    """What the producer's metadata say under `call_type`."""
    agent: str = ""
    """What they say under `agent`: a name or number."""


def joined(parts: Sequence[TranscriptCompleted]) -> TranscriptCompleted:
    """One record of the parts of a transcript, in whatever order they are given; for use in memory, whatever its size.

    All parts say the same but for their turns. `parts` must not be empty.
    """
    in_order = sorted(parts, key=lambda part: part.part)
    turns = [turn for part in in_order for turn in part.turns]
    return msgspec.structs.replace(in_order[0], part=1, parts=1, turns=turns)


TranscriptRecord = Turn | TranscriptCompleted
