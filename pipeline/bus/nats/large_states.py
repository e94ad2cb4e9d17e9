"""Large states of keys on JetStream, in a stream of their own.

nats-server refuses headers above 64 kB, and a state may hold seconds of audio or all words of a day. So a large state
is stored first, in pieces, and then its output is published, whose headers name the state's place. A worker has two
places for a key, and names of its own for them. It writes the state of an output to the place that the last output on
the bus does not use, so that a crash between the two writes loses no state, and no worker replaces the state of
another. A write that is repeated overwrites itself.

Earlier versions named no place: the state of output n is in slot n modulo 2 of its key.
"""

from typing import Any, Final, NamedTuple

from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Session, check_publish
from pipeline.bus.nats.subjects import KeyLocation, subject_base
from pipeline.bus.protocol import Progress, state_pieces

STREAM: Final = "callstream-state"
_ROOT: Final = "callstream.state"
_SLOTS: Final = 2
_SEQ_HEADER: Final = "callstream-seq"
_PIECES_HEADER: Final = "callstream-pieces"


class StoredState(NamedTuple):
    content: bytes
    position: int
    """That of its last piece in the stream."""


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


async def write_state(session: Session, location: KeyLocation, place: str, progress: Progress) -> tuple[int, int]:
    """Store the state of an output in pieces; return the positions of the first and the last.

    Raises ApiError if the server refuses.
    """
    pieces = state_pieces(progress.state)
    headers = {_SEQ_HEADER: str(progress.seq), _PIECES_HEADER: str(len(pieces))}
    positions = [
        check_publish(await session.request(_subject(location, place, index), piece, headers=headers))
        for index, piece in enumerate(pieces)
    ]
    return positions[0], positions[-1]


async def read_state(session: Session, location: KeyLocation, place: str | None, seq: int) -> StoredState | None:
    """Return the state of output `seq`, None if it is gone. `place`: None for an output of an earlier version."""
    pieces: list[bytes] = []
    count, position = 1, 0
    while len(pieces) < count:
        subject = _subject(location, str(seq % _SLOTS) if place is None else place, len(pieces))
        message = await session.request(f"$JS.API.DIRECT.GET.{STREAM}.{subject}")
        headers = message.headers or {}
        if headers.get(_SEQ_HEADER) != str(seq):
            return None
        count, position = int(headers.get(_PIECES_HEADER, "1")), int(headers["Nats-Sequence"])
        pieces.append(message.data)
    return StoredState(b"".join(pieces), position)


async def drop_states(session: Session, location: KeyLocation, *, before: int) -> None:
    """Delete the key's states that were stored before position `before`. Raises ApiError.

    Those are states of outputs before the last one. A worker that comes later stores its states after them.
    """
    body = {"filter": f"{_key_subject(location)}.>", "seq": before}
    await session.api(f"STREAM.PURGE.{STREAM}", body)


def _key_subject(location: KeyLocation) -> str:
    return f"{_ROOT}.{subject_base(location.topic)}.{location.partition}.{location.token}"


def _subject(location: KeyLocation, place: str, piece: int) -> str:
    subject = f"{_key_subject(location)}.{place}"
    return f"{subject}.{piece}" if piece else subject
