"""Large states of keys on JetStream, in a stream of their own.

nats-server refuses headers above 64 kB, and a state may hold seconds of audio or all words of a day. So a large state
is stored first, in pieces in one of two slots of its key, and then its output is published. The slot is the output's
number modulo 2. Writing the state of output n leaves that of output n - 1 alone, which is the last one on the bus until
output n is stored. A write that is repeated after a crash overwrites itself. With one slot, a crash between the two
writes would lose the only state.
"""

from typing import Any, Final

from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Session, check_publish
from pipeline.bus.nats.subjects import subject_base
from pipeline.bus.protocol import Progress, state_pieces
from pipeline.errors import BusError

STREAM: Final = "callstream-state"
_ROOT: Final = "callstream.state"
_SLOTS: Final = 2
_SEQ_HEADER: Final = "callstream-seq"
_PIECES_HEADER: Final = "callstream-pieces"


async def ensure_states(session: Session, *, retention_s: float) -> None:
    """Create the stream if it is missing, and let it keep states for at least `retention_s`. Raises ApiError."""
    wanted: dict[str, Any] = {
        "name": STREAM,
        "subjects": [f"{_ROOT}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_age": int(retention_s * NANOSECONDS),
        "duplicate_window": int(min(1.0, retention_s) * NANOSECONDS),
        "allow_direct": True,
    }
    try:
        kept = (await session.api(f"STREAM.INFO.{STREAM}"))["config"]
    except ApiError:
        await session.api(f"STREAM.CREATE.{STREAM}", wanted)
    else:
        if kept["max_age"] < wanted["max_age"]:
            await session.api(f"STREAM.UPDATE.{STREAM}", kept | {"max_age": wanted["max_age"]})


async def write_state(session: Session, topic: str, partition: int, token: str, progress: Progress) -> None:
    """Store the state of an output in pieces. Raises ApiError if the server refuses."""
    pieces = state_pieces(progress.state)
    headers = {_SEQ_HEADER: str(progress.seq), _PIECES_HEADER: str(len(pieces))}
    for index, piece in enumerate(pieces):
        subject = _subject(topic, partition, token, progress.seq, index)
        check_publish(await session.request(subject, piece, headers=headers))


async def read_state(session: Session, topic: str, partition: int, token: str, seq: int) -> bytes:
    """Return the state of output `seq`. Raises BusError if it is gone."""
    pieces: list[bytes] = []
    count = 1
    while len(pieces) < count:
        subject = _subject(topic, partition, token, seq, len(pieces))
        message = await session.request(f"$JS.API.DIRECT.GET.{STREAM}.{subject}")
        headers = message.headers or {}
        if headers.get(_SEQ_HEADER) != str(seq):
            raise BusError(f"the state of output {seq} of key token {token} on {topic} is gone")
        count = int(headers.get(_PIECES_HEADER, "1"))
        pieces.append(message.data)
    return b"".join(pieces)


async def drop_states(session: Session, topic: str, partition: int, token: str) -> None:
    """Delete both slots, after an output whose state is in its headers. Raises ApiError."""
    subjects = _subject(topic, partition, token, 0, 0).rpartition(".")[0] + ".>"
    await session.api(f"STREAM.PURGE.{STREAM}", {"filter": subjects})


def _subject(topic: str, partition: int, token: str, seq: int, piece: int) -> str:
    slot = f"{_ROOT}.{subject_base(topic)}.{partition}.{token}.{seq % _SLOTS}"
    return f"{slot}.{piece}" if piece else slot
