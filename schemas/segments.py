"""Records on `calls.segments`: a segment for every utterance, and the records that transcribe forwards."""

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from schemas.calls import CallRef
from schemas.utterances import CallChanged, CallClosed, CallOpened, CallProgress

WordSource = Literal["alignment", "attention"]
"""Source of word times: wav2vec2 forced alignment, or Whisper's own cross-attention."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word with its times in seconds from the call's start. `interpolated` marks times that were not measured."""

    text: str
    start_s: float
    end_s: float
    probability: float
    interpolated: bool = False


class Segment(msgspec.Struct, frozen=True, kw_only=True, tag="segment.1"):
    """The text of one utterance, with its `seq`. An utterance without words has an empty `text`.

    `guard` names the guard that dropped the text (`no_speech`, `short`, `phrase`, `error`, …), `dropped_text` is the
    dropped text. `flags` are doubts that did not drop it (`low_probability`, `repeat`, …).

    If the utterance has several `parts`, these are their start and end in seconds from the call's start. Each word lies
    in one of them.
    """

    call: CallRef
    seq: int
    segment_id: str
    channel: int
    start_s: float
    end_s: float
    text: str
    words: list[Word]
    voiced: list[tuple[float, float]]
    language: str
    model: str
    word_source: WordSource
    probability: float
    no_speech_probability: float
    guard: str | None = None
    dropped_text: str = ""
    flags: list[str] = []
    parts: list[tuple[float, float]] | UnsetType = UNSET


SEGMENT_TYPE: Final = "callstream.segment"


class LiveSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment with words as viewers are shown it, as JSON, before its turn has settled."""

    tenant: str
    call_id: str
    segment_id: str
    channel: int
    start_s: float
    end_s: float
    text: str
    words: list[Word]
    language: str
    word_source: WordSource
    probability: float


def live_segment(segment: Segment) -> LiveSegment:
    return LiveSegment(
        tenant=segment.call.tenant,
        call_id=segment.call.call_id,
        segment_id=segment.segment_id,
        channel=segment.channel,
        start_s=segment.start_s,
        end_s=segment.end_s,
        text=segment.text,
        words=segment.words,
        language=segment.language,
        word_source=segment.word_source,
        probability=segment.probability,
    )


SegmentRecord = CallOpened | Segment | CallProgress | CallChanged | CallClosed
