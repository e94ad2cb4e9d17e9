import msgspec

from schemas.audio import CallStarted
from stages.separate.admission import Taken
from stages.separate.state import SeparateState


def test_the_encoded_names_of_a_state_are_those_of_the_states_already_kept() -> None:
    state = SeparateState(start=CallStarted(encoding="mulaw", sample_rate_hz=8000, channels=1), opened_at=0.0)
    assert list(msgspec.msgpack.decode(msgspec.msgpack.encode(state))) == [
        "type",
        "start",
        "opened_at",
        "next_seq",
        "highest_seq",
        "next_output",
        "frames",
        "received_frames",
        "output_frame",
        "chunk_frames",
        "utterances",
        "speech_s",
        "gaps",
        "missing",
        "revision",
        "end",
        "lanes",
        "watched_until_s",
    ]


def test_so_are_those_of_what_tells_repeats() -> None:
    assert list(msgspec.msgpack.decode(msgspec.msgpack.encode(Taken()))) == [
        "position",
        "start_seq",
        "start_proof",
        "proofs",
        "refused",
        "unproven_below",
    ]
