"""What is sent on `calls.audio`: call started, audio chunks, call updated, call ended; and that a call is watched.

On the wire these are CloudEvents (see `schemas.cloudevents`); the structs here are their decoded form.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Encoding = Literal["pcm_s16le", "mulaw", "alaw", "f32le", "container"]

MAX_CHANNELS = 8
MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 192_000
MAX_CHUNK_BYTES = 900_000
"""Kafka's and aiokafka's default record limit is 1 MB, headers included."""

MAX_JSON_BYTES = 256_000
"""Of a start, an update or an end. A start travels in every checkpoint of its call."""
MAX_METADATA_DEPTH = 32
MAX_HOTWORDS = 100
MAX_HOTWORD_CHARACTERS = 100
MAX_WATCH_S = 3_600.0

STARTED_TYPE = "callstream.call.started"
CHUNK_TYPE = "callstream.audio.chunk"
UPDATED_TYPE = "callstream.call.updated"
ENDED_TYPE = "callstream.call.ended"
WATCHED_TYPE = "callstream.call.watched"
IDLE_TYPE = "callstream.call.idle"


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call begins, and what its chunks hold. Always the call's event 0.

    `roles` names the speaker of each channel; where it is shorter than `channels` the rest are called
    `channel-<index>`. `language` is an ISO 639-1 code, or None to detect it. `hotwords` are names and words that the
    call is likely to hold and a model is likely to miss, the most important first.
    """

    encoding: Encoding
    sample_rate_hz: int
    channels: int
    roles: list[str] = []
    language: str | None = None
    partials: bool = False
    hotwords: list[str] = []
    metadata: dict[str, Any] = {}


class AudioChunk(msgspec.Struct, frozen=True, kw_only=True):
    """At most 1 s of audio, channels interleaved, in the encoding of the call's start."""

    data: bytes


class CallUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """What the call's start says is another from here on; what is left out stays as it is.

    One of the call's numbered events: it holds for utterances whose speech begins behind the audio before it, in a
    `container`, whose audio has no such place, for all of them. `language` is None to detect it anew.
    """

    language: str | UnsetType | None = UNSET
    hotwords: list[str] | UnsetType = UNSET
    partials: bool | UnsetType = UNSET


class UnusableUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A `CallUpdated` whose value cannot be used, and why. It keeps its number, so that no audio is taken for lost."""

    value: bytes
    error: str


class CallEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The producer has sent everything. `events` counts the call's events, this one included."""

    events: int
    reason: str = "hangup"


class CallIdle(msgspec.Struct, frozen=True, kw_only=True):
    """Written by the separate stage itself when a call has been silent on the bus for too long.

    Ending a call by a timer is a decision that a replay could not repeat, so the timer only puts this record on the
    call's own topic, and the decision is taken where it is read: `next_seq` says how far the call was when the timer
    fired, and a call that has moved on since ignores it.
    """

    next_seq: int


class CallWatched(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody reads along: a live call gets partials for `seconds` from when the bus stored this.

    Anybody may send it, as often as they like, so it has no number among the call's events. One for a call that has
    not begun, or that is over, does nothing.
    """

    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_WATCH_S)] = 60.0


AudioEvent = CallStarted | AudioChunk | CallUpdated | UnusableUpdate | CallEnded | CallIdle
"""What has a number in its call."""

AudioRecord = AudioEvent | CallWatched
