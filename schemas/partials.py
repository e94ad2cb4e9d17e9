"""Live text of utterances that are still being spoken: what viewers read on `calls.partials`."""

from typing import Final

import msgspec

from schemas.calls import CallRef

PARTIAL_TYPE: Final = "callstream.partial"

FINAL_REVISION: Final = 1_000
"""Of an utterance's last partial; those before it count the seconds of the utterance that had been heard."""


class Partial(msgspec.Struct, frozen=True, kw_only=True):
    """What an utterance says so far, as JSON: `committed` and `tail`, one behind the other.

    `committed` only grows: it begins every later partial of the utterance, and its segment's text. `tail` may change.
    `utterance_id` is the id that the segment will have. A partial whose `revision` is not above the last one's is a
    repeat. `final` says that the utterance is over: `committed` is all of the segment's text then. Times are seconds
    from the call's start; `end_s` is how far the audio had been heard.
    """

    tenant: str
    call_id: str
    channel: int
    speaker: str
    utterance_id: str
    revision: int
    committed: str
    tail: str
    start_s: float
    end_s: float
    language: str
    final: bool = False


class Commitment(msgspec.Struct, frozen=True, kw_only=True, tag="commitment.1"):
    """Text of an open utterance that the transcriber is about to show as settled, on the topic of its own input.

    That hypotheses agreed depends on which of them there was time for, and a replay could not repeat it. So the
    decision is only put on `calls.utterances`, and taken where it is read: text counts as committed, and is shown, once
    it lies before its utterance in what every replay reads. One that comes behind its utterance changes nothing.
    """

    call: CallRef
    channel: int
    first_sample: int
    revision: int
    committed: str
    tail: str
    start_s: float
    end_s: float
    language: str
