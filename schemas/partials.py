"""Records on `calls.partials`: live text of utterances that are still being spoken."""

from typing import Final

import msgspec

from schemas.calls import CallRef

PARTIAL_TYPE: Final = "callstream.partial"

FINAL_REVISION: Final = 1_000
"""Revision of an utterance's last partial. Earlier revisions are about the seconds of audio transcribed so far."""


class Partial(msgspec.Struct, frozen=True, kw_only=True):
    """The text of an utterance so far: `committed`, followed by `tail`.

    `committed` only grows: every later partial of the utterance, and the text of its segment, begins with it. `tail`
    may change. `utterance_id` is the id that the segment will have. A partial whose `revision` is not above the last
    one's is a repeat. `final` says that the utterance is over: `committed` is then the whole text of the segment. Times
    are seconds from the call's start; the audio was transcribed up to `end_s`.
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
    """Text of an open utterance that the transcriber proposes to commit, published on the topic of its own input.

    Which hypotheses agree depends on those for which there was time, and a replay could not repeat that. So the
    decision is only published on `calls.utterances`, and made when it is read: text is committed, and shown, once it
    precedes its utterance in what every replay reads. A commitment that follows its utterance has no effect.
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
