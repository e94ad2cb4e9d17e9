"""Records on `calls.utterances`, which the separate stage publishes.

Every record of a call has a sequence number (`seq`, from 0, without holes), by which later stages drop repeats. The
transcribe stage forwards `CallOpened`, `CallProgress`, `CallChanged` and `CallClosed` after the segments of the
utterances before them, so the merge stage reads them in the same order.

`InterimUtterance` is unnumbered: it may be lost or repeated, and no stored result depends on it.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from schemas.calls import CallRef
from schemas.topics import Lane

Cut = Literal["pause", "soft", "hard", "end"]
"""Why an utterance ends: a pause; a short pause in a long one; no pause in a very long one; the end of the call."""

SpeakerSource = Literal["channel", "pyannote", "estimated", "unknown"]
"""How speakers are told apart: by channel; by pyannote's diarization; by voice embeddings; not at all."""


MAX_TIME_S: Final = 2.0**31
"""Times in a call are below this, 68 years: milliseconds and samples up to it fit in 64 bits."""


def is_time(seconds: float) -> bool:
    """Return whether a number can be a time in a call. What is not finite cannot."""
    return abs(seconds) < MAX_TIME_S


class Channel(msgspec.Struct, frozen=True):
    """A channel of a call and the role of its speaker (`agent`, `customer`, …), as named by the producer."""

    index: int
    role: str


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Missing audio. It was replaced by silence, so later times stay right.

    Of a `container`, audio that could not be decoded. How much that is is unknown, but for the end of some files: the
    gap has no length then, and no silence took its place.

    In a transcript also speech that could not be merged into it; the ledger says why.
    """

    start_s: float
    end_s: float
    events: int
    """Number of missing events; 0 where the events came and could not be used."""


class CallOpened(msgspec.Struct, frozen=True, kw_only=True, tag="call_opened.1"):
    """The first record of a call. `hotwords` is absent if the producer named none, `lane` for a live call."""

    call: CallRef
    seq: int
    channels: list[Channel]
    sample_rate_hz: int
    encoding: str
    language: str | None
    partials: bool
    metadata: dict[str, Any]
    opened_at: float
    """The bus's time of the producer's start event, in Unix seconds."""
    hotwords: list[str] | UnsetType = UNSET
    lane: Lane | UnsetType = UNSET


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Position of a part of an utterance's audio, in samples from the start of the call."""

    first_sample: int
    n_samples: int


class Crosstalk(msgspec.Struct, frozen=True, array_like=True):
    """How much of an utterance is on another `channel` too, in consecutive windows of `step_s` from `start_s` on.

    For each window: the normalised cross-correlation at the best delay, in percent, negative if one channel is the
    other inverted, and 0 if they have nothing in common; the utterance's level above the other channel's; by how much
    it comes after the other channel. The windows are those of the channel with the lower index: in the other one the
    same speech comes earlier or later by the delay.
    """

    channel: int
    start_s: float
    step_s: float
    coherence: list[int]
    level_db: list[int]
    delay_ms: list[int]


class Utterance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="utterance.1"):
    """The speech of one channel between two pauses.

    `pcm` is mono signed 16-bit little-endian at `sample_rate_hz` (at most 16 kHz), with a little context before and
    after the speech. `first_sample` counts from the start of the call at the same rate. `voiced` are the detected
    stretches of speech inside the utterance, in seconds from the start of the call.

    Where a hard cut divides speech, `before` and `after` hold audio of the same form from beyond it: context whose
    text belongs to the neighbour.

    In a recorded call, consecutive utterances may be joined to one, so that each is transcribed with more context. Then
    `parts` are their positions in the call, and `pcm` holds them without the pauses in between.

    `crosstalk` has entries for the other channels that carry some of the same audio, of each part.
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
    after: bytes = msgspec.field(default=b"", name="behind")
    parts: list[Part] = []
    crosstalk: list[Crosstalk] = []

    @property
    def start_s(self) -> float:
        return self.first_sample / self.sample_rate_hz

    @property
    def end_s(self) -> float:
        last = self.places[-1]
        return (last.first_sample + last.n_samples) / self.sample_rate_hz

    @property
    def audio_s(self) -> float:
        """Duration of `pcm`."""
        return len(self.pcm) // 2 / self.sample_rate_hz

    @property
    def places(self) -> list[Part]:
        """Its parts; an utterance without parts is its own only part."""
        return self.parts or [Part(self.first_sample, len(self.pcm) // 2)]


class CallProgress(msgspec.Struct, frozen=True, kw_only=True, tag="call_progress.1"):
    """Progress of the channels: every utterance of a channel that starts before `heard_to_s[channel]` was sent."""

    call: CallRef
    seq: int
    heard_to_s: list[float]


class CallChanged(msgspec.Struct, frozen=True, kw_only=True, tag="call_changed.1"):
    """The producer changed settings of the call, for utterances whose speech begins at `from_s` or later.

    Utterances that began earlier may follow, under the previous settings. Unchanged settings are absent. `language`
    None starts a new detection.
    """

    call: CallRef
    seq: int
    from_s: float
    language: str | UnsetType | None = UNSET
    hotwords: list[str] | UnsetType = UNSET
    partials: bool | UnsetType = UNSET


UNKNOWN_SPEAKER: Final = "unknown"


class SpeakerTurn(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of one speaker's speech, in seconds from the start of the call; `UNKNOWN_SPEAKER` if uncertain."""

    start_s: float
    end_s: float
    speaker: str


class CallClosed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="call_closed.1"):
    """All audio of the call was cut into utterances.

    `provisional` says that the idle limit ended the call: a later chunk in sequence reopens it, and another
    `CallClosed` with the next `revision` follows.

    For a channel with several speakers, the transcribe stage adds `speakers`: their stretches of speech, in order and
    without overlaps, with `speaker_source` as the method.

    If all channels carry the same audio, it adds the one that is used, as the channel of a mono call: `one_channel`.
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
    one_channel: int | None = None


class InterimUtterance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="interim.1"):
    """An utterance in progress, from its start. Published only while partials of the call are wanted.

    `first_sample` and `before` are those of the `Utterance` that will follow. `revision` is about its length in
    seconds. `certain` says that no cut can fall before its end: the utterance will contain all of its words.
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
