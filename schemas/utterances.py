"""What the separate stage sends on `calls.utterances`.

Every record of a call has a sequence number (`seq`, from 0, without holes): it is the coordinate by which every later
stage drops repeats. `CallProgress`, `CallChanged`, `CallOpened` and `CallClosed` are forwarded by the transcribe stage
behind the segments of the utterances before them, so they reach the merge stage in the same order.

`InterimUtterance` has no number: it may be lost or repeated, and nothing that is kept follows from it.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from schemas.calls import CallRef
from schemas.topics import Lane

Cut = Literal["pause", "soft", "hard", "end"]
"""Why an utterance ends: a pause; a short pause in a long one; no pause in a very long one; the call's end."""

SpeakerSource = Literal["channel", "pyannote", "estimated", "unknown"]
"""How speakers are told apart: each has a channel; pyannote's diarization; voice embeddings; not at all."""


class Channel(msgspec.Struct, frozen=True):
    """One channel of a call and who speaks on it (`agent`, `customer`, …), as the producer said."""

    index: int
    role: str


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Audio that never arrived. Its place was filled with silence, so the times behind it stay right."""

    start_s: float
    end_s: float
    events: int
    """How many events of the producer are missing."""


class CallOpened(msgspec.Struct, frozen=True, kw_only=True, tag="call_opened.1"):
    """The first record of a call. `hotwords` are left out where the producer named none, `lane` for a live call."""

    call: CallRef
    seq: int
    channels: list[Channel]
    sample_rate_hz: int
    encoding: str
    language: str | None
    partials: bool
    metadata: dict[str, Any]
    opened_at: float
    """Unix time in seconds: the bus's time of the producer's start event."""
    hotwords: list[str] | UnsetType = UNSET
    lane: Lane | UnsetType = UNSET


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Where a part of an utterance's audio lies in the call, in samples from its start."""

    first_sample: int
    n_samples: int


class Utterance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="utterance.1"):
    """One channel's speech between two pauses.

    `pcm` is mono signed 16-bit little-endian at `sample_rate_hz` (at most 16 kHz), with a little context before and
    behind the speech. `first_sample` counts from the call's start at the same rate. `voiced` are the stretches of
    detected speech in seconds from the call's start, inside the utterance.

    Where a hard cut divides speech, `before` and `behind` are audio of the same form from beyond it: context, the text
    of which is the neighbour's.

    Of a recorded call several that follow each other may be one, so that each is heard with the others: then `parts`
    says where in the call each of them lies, and `pcm` holds them without the pauses between them.
    """

    call: CallRef
    seq: int
    channel: int
    first_sample: int
    sample_rate_hz: int
    pcm: bytes
    voiced: list[tuple[float, float]]
    cut: Cut
    before: bytes = b""
    behind: bytes = b""
    parts: list[Part] = []

    @property
    def start_s(self) -> float:
        return self.first_sample / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        last = self.places[-1]
        return (last.first_sample + last.n_samples) / self.sample_rate_hz

    @property
    def audio_s(self) -> float:
        """How much audio it holds."""
        return len(self.pcm) // 2 / self.sample_rate_hz

    @property
    def places(self) -> list[Part]:
        """Its parts; one that has none is its own only part."""
        return self.parts or [Part(self.first_sample, len(self.pcm) // 2)]


class CallProgress(msgspec.Struct, frozen=True, kw_only=True, tag="call_progress.1"):
    """How far each channel has been heard: every utterance that starts before `heard_to_s[channel]` was sent."""

    call: CallRef
    seq: int
    heard_to_s: list[float]


class CallChanged(msgspec.Struct, frozen=True, kw_only=True, tag="call_changed.1"):
    """The producer changed what it had said of the call, for utterances whose speech begins at `from_s` or later.

    Utterances that began before may follow, with what was in force then. What did not change is left out; `language`
    is None to detect it anew.
    """

    call: CallRef
    seq: int
    from_s: float
    language: str | UnsetType | None = UNSET
    hotwords: list[str] | UnsetType = UNSET
    partials: bool | UnsetType = UNSET


UNKNOWN_SPEAKER: Final = "unknown"


class SpeakerTurn(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of speech, in seconds from the call's start, of one speaker; `UNKNOWN_SPEAKER` where that is unsure."""

    start_s: float
    end_s: float
    speaker: str


class CallClosed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="call_closed.1"):
    """All audio of the call has been cut into utterances.

    `provisional` says that the call was ended by the idle limit: a later chunk in sequence reopens it, and another
    `CallClosed` with the next `revision` follows.

    The transcribe stage adds who speaks when on a channel that is not one speaker's: `speakers`, in order and without
    overlaps, found as `speaker_source` says.
    """

    call: CallRef
    seq: int
    revision: int
    duration_s: float
    speech_s: float
    utterances: int
    gaps: list[Gap]
    reason: str
    provisional: bool
    speakers: list[SpeakerTurn] = []
    speaker_source: SpeakerSource = "channel"


class InterimUtterance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="interim.1"):
    """An utterance that is still being spoken, from its start; only while its call's partials are wanted.

    `first_sample` is that of the `Utterance` that will follow. `revision` counts the seconds, about, that it has grown
    by. `certain` says that no cut can fall before its end: the utterance will hold all words in it. `before` is that of
    the utterance.
    """

    call: CallRef
    channel: int
    first_sample: int
    sample_rate_hz: int
    pcm: bytes
    voiced: list[tuple[float, float]]
    revision: int
    certain: bool
    before: bytes = b""

    @property
    def start_s(self) -> float:
        return self.first_sample / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        return (self.first_sample + len(self.pcm) // 2) / self.sample_rate_hz


UtteranceRecord = CallOpened | Utterance | CallProgress | CallChanged | CallClosed
