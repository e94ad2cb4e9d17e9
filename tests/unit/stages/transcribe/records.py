"""Records of a call that several of these tests send."""

from schemas.calls import CallRef
from schemas.utterances import CallClosed

CALL = CallRef("default", "call-1")


def closed(seq: int, *, call: CallRef = CALL, revision: int = 0, provisional: bool = False) -> CallClosed:
    return CallClosed(
        call=call,
        seq=seq,
        revision=revision,
        duration_s=60.0,
        speech_s=8.0,
        utterances=4,
        gaps=[],
        reason="hangup",
        provisional=provisional,
    )
