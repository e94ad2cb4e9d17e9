"""Large states of keys on JetStream, beside the outputs that they belong to.

nats-server refuses headers above 64 kB, and a state may hold seconds of audio or all words of a day. So a large one is
stored first, in pieces in one of two slots of its key, and then the output is published. The slot is the output's
number modulo 2: writing the state of output n leaves that of n - 1 alone, to which the last output on the bus points
until output n is stored. Repeated after a crash it overwrites itself. Without this pair a crash between the two writes
would lose the only state.
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
    """Make sure of the stream, and that it keeps at least as long as the outputs are kept. Raises ApiError."""
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
    """Raises ApiError for a refusal."""
    pieces = state_pieces(progress.state)
    headers = {_SEQ_HEADER: str(progress.seq), _PIECES_HEADER: str(len(pieces))}
    for index, piece in enumerate(pieces):
        subject = _subject(topic, partition, token, progress.seq, index)
        check_publish(await session.request(subject, piece, headers=headers))


async def read_state(session: Session, topic: str, partition: int, token: str, seq: int) -> bytes:
    """The state of output `seq`. Raises BusError where it is gone."""
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
    """Both slots: an output whose state is in its headers was stored behind them. Raises ApiError."""
    subjects = _subject(topic, partition, token, 0, 0).rpartition(".")[0] + ".>"
    await session.api(f"STREAM.PURGE.{STREAM}", {"filter": subjects})


def _subject(topic: str, partition: int, token: str, seq: int, piece: int) -> str:
    slot = f"{_ROOT}.{subject_base(topic)}.{partition}.{token}.{seq % _SLOTS}"
    return f"{slot}.{piece}" if piece else slot
