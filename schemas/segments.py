"""Records on `calls.segments`: a segment for every utterance, and the records that transcribe forwards."""

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from schemas.calls import CallRef
from schemas.utterances import CallChanged, CallClosed, CallOpened, CallProgress, Crosstalk

WordSource = Literal["alignment", "attention"]
"""Source of word times: wav2vec2 forced alignment, or Whisper's own cross-attention."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word with its times in seconds from the call's start. `interpolated` marks times that were not measured."""

    text: str
    start_s: float
    end_s: float
    probability: float
    interpolated: bool = False


class Unheard(msgspec.Struct, frozen=True, kw_only=True):
    """Speech that was detected and that no words account for, in seconds from the call's start.

    `level_dbfs` is its RMS level; a full-scale square wave is 0. `reason` is the outcome of hearing it
    again: `no_words` (the decoder wrote nothing that is not its neighbours'), the guard or doubt about the text
    (`improbable`, `no_speech`, `repeat`, …), `error` (the engine failed), `limit` (so much of the utterance was left
    out that this stretch was not tried).
    """

    start_s: float
    end_s: float
    level_dbfs: float
    reason: str


class ApartText(msgspec.Struct, frozen=True, kw_only=True):
    """Words that a second hearing found inside text that viewers had been shown, which does not change.

    In the transcript they are a segment of their own, with this id, between the words before and after them.
    """

    segment_id: str
    text: str
    words: list[Word]


class Segment(msgspec.Struct, frozen=True, kw_only=True, tag="segment.1"):
    """The text of one utterance, with its `seq`. An utterance without words has an empty `text`.

    `guard` names the guard that dropped the text (`no_speech`, `short`, `phrase`, `error`, …), `dropped_text` is the
    dropped text. `flags` are doubts that did not drop it (`low_probability`, `repeat`, …).

    If the utterance has several `parts`, these are their start and end in seconds from the call's start. Each word lies
    in one of them. `crosstalk` is the utterance's, absent without any.

    `unheard` are the stretches of `voiced` that no word accounts for, in order, each at least 0.3 s long; absent if
    there are none. A segment whose text a guard dropped has none: the guard accounts for all of its speech.
    `apart` is text that is not part of `text`; absent if there is none.
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
    unheard: list[Unheard] | UnsetType = UNSET
    apart: list[ApartText] | UnsetType = UNSET
    crosstalk: list[Crosstalk] | UnsetType = UNSET


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
