"""Records on `calls.transcripts`, which the merge stage publishes as JSON."""

from collections.abc import Sequence

import msgspec

from schemas.segments import Unheard, Word
from schemas.topics import Lane
from schemas.utterances import Channel, Gap, SpeakerSource

TURN_TYPE = "callstream.turn"
COMPLETED_TYPE = "callstream.transcript.completed"


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The speech of one speaker until another takes over. Published once it can no longer change.

    The exception is a channel with several speakers, or channels that all carry the same audio: at the end of the call
    the turns are published again, cut by speaker. A turn that begins with the same word keeps its `turn_id`.
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
    """Metrics of one channel, defined in `stages.merge.metrics`."""

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
    """Median over this channel's responses; None if it never responded to another channel."""
    responses: int


class CallMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of a call from speech activity, in seconds, defined in `stages.merge.metrics`."""

    duration_s: float
    speech_s: float
    silence_s: float
    longest_silence_s: float
    overlap_s: float
    interruptions: int
    channels: list[ChannelMetrics]


class ChannelUnheard(Unheard, frozen=True, kw_only=True):
    """Speech of a channel that no words account for."""

    channel: int


class TranscriptCompleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A complete transcript. If it exceeds one record, its `turns` and `unheard` are split over `parts` records.

    These are numbered from 1. `unheard` is the speech without words, in order of `start_s`.
    """

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
    """`call_type` of the producer's metadata."""
    agent: str = ""
    """`agent` of the producer's metadata: a name or number."""
    unheard: list[ChannelUnheard] = []
    one_channel: int | None = None
    """The channel that was used, if all carry the same audio: its turns are those of a mono call."""


def joined(parts: Sequence[TranscriptCompleted]) -> TranscriptCompleted:
    """Join the parts of a transcript, in any order, to one record of any size, for use in memory.

    Parts differ only in their turns and unheard speech. `parts` must not be empty.
    """
    in_order = sorted(parts, key=lambda part: part.part)
    turns = [turn for part in in_order for turn in part.turns]
    unheard = [one for part in in_order for one in part.unheard]
    return msgspec.structs.replace(in_order[0], part=1, parts=1, turns=turns, unheard=unheard)


TranscriptRecord = Turn | TranscriptCompleted
