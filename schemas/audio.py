"""Records on `calls.audio`: call started, audio chunks, call updated, call ended; and requests to watch a call.

On the wire these are CloudEvents (see `schemas.cloudevents`); these structs are their decoded form.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Encoding = Literal["pcm_s16le", "mulaw", "alaw", "f32le", "container"]

MAX_CHANNELS = 8
MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 192_000
MAX_CHUNK_BYTES = 900_000
"""The default record limit of Kafka and aiokafka is 1 MB, headers included."""

MAX_JSON_BYTES = 256_000
"""Largest start, update or end. A start is part of every checkpoint of its call."""
MAX_METADATA_DEPTH = 32
MAX_HOTWORDS = 100
MAX_HOTWORD_CHARACTERS = 100
MAX_ROLE_CHARACTERS = 64
MAX_WATCH_S = 3_600.0

STARTED_TYPE = "callstream.call.started"
CHUNK_TYPE = "callstream.audio.chunk"
UPDATED_TYPE = "callstream.call.updated"
ENDED_TYPE = "callstream.call.ended"
WATCHED_TYPE = "callstream.call.watched"
IDLE_TYPE = "callstream.call.idle"
OVERDUE_TYPE = "callstream.call.overdue"


class CallStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A call begins; describes its audio. Always event 0 of the call, or of its epoch (see `schemas.event_numbers`).

    `roles` names the speaker of each channel; channels without one are called `channel-<index>`. `language` is an ISO
    639-1 code, or None to detect it. `hotwords` are names and words that the call is likely to contain and a model is
    likely to miss, the most important first.
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
    """Changes settings of the call's start from here on. Fields that are left out keep their value.

    This is a numbered event of the call: it applies to utterances whose speech begins after the audio before it. In a
    `container`, whose audio has no such position, it applies to the whole call. `language` None starts a new detection.
    """

    language: str | UnsetType | None = UNSET
    hotwords: list[str] | UnsetType = UNSET
    partials: bool | UnsetType = UNSET


class UnusableUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A `CallUpdated` with an unusable value, and the reason. It keeps its number, so that no audio seems missing."""

    value: bytes
    error: str


class CallEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The producer has sent everything. `events` is the number of events of the call or epoch, this one included."""

    events: int
    reason: str = "hangup"


class CallIdle(msgspec.Struct, frozen=True, kw_only=True):
    """Published by the separate stage itself when no event of a call has arrived for too long.

    A replay could not repeat a timer's decision to end a call. So the timer only puts this record on the call's own
    topic, and the decision is made when it is read: `next_seq` is the position of the call when the timer fired, and a
    call that has progressed since ignores it.
    """

    next_seq: int


class CallOverdue(msgspec.Struct, frozen=True, kw_only=True):
    """Published by the separate stage itself when a call has waited too long for missing events.

    Events numbered below `below` that are missing when this is read are given up. As with `CallIdle`, the decision is
    made where a replay repeats it, and a call that has progressed since ignores this.
    """

    below: int


class CallWatched(msgspec.Struct, frozen=True, kw_only=True):
    """A viewer watches the call: a live call gets partials for `seconds` from the time at which the bus stored this.

    Any client may send it at any time, so it has no number among the call's events. It has no effect on a call that has
    not started or is over.
    """

    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_WATCH_S)] = 60.0


AudioEvent = CallStarted | AudioChunk | CallUpdated | UnusableUpdate | CallEnded | CallIdle | CallOverdue
"""Numbered events of a call."""

AudioRecord = AudioEvent | CallWatched
