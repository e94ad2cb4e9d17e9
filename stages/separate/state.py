"""The checkpoint of the separate stage. The tag is the version of its layout; old versions stay readable."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from schemas.audio import CallStarted
from schemas.utterances import Gap
from stages.separate.admission import Taken
from stages.separate.channels import ChannelResume
from stages.separate.crosstalk import CrosstalkState
from stages.separate.event_order import Missing

End = Literal["open", "provisional", "final"]


class SeparateState(msgspec.Struct, kw_only=True, tag="separate.1"):
    """A call after event `next_seq - 1`. Frames are counted at the source's rate, silence in gaps included.

    `output_frame` is the frame at which the last numbered output was published, `chunk_frames` the length of the last
    chunk. `start.partials` follows updates. The call is watched until `watched_until_s`, in the bus's time.

    `taken` is absent in a state of a version that told repeats by number alone, `crosstalk` in one of a version that
    did not compare channels, and for a single channel.
    """

    start: CallStarted
    opened_at: float
    next_seq: int = 0
    highest_seq: int = -1
    next_output: int = 0
    frames: int = 0
    received_frames: int = 0
    output_frame: int = 0
    chunk_frames: int = 0
    utterances: int = 0
    speech_s: float = 0.0
    gaps: list[Gap] = []
    missing: list[Missing] = []
    revision: int = 0
    end: End = "open"
    channels: list[ChannelResume] = msgspec.field(default_factory=list, name="lanes")
    watched_until_s: float = 0.0
    taken: Taken | UnsetType = UNSET
    crosstalk: CrosstalkState | UnsetType = UNSET
