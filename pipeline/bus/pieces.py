"""Large states in pieces: a call of a day has more to remember than one record may hold."""

from typing import Final

PIECE_BYTES: Final = 500_000
"""Kafka, and a nats-server that is not ours, take records of up to 1 MB by default."""


def pieces_of(state: bytes) -> list[bytes]:
    """At least one, none larger than `PIECE_BYTES`."""
    return [state[at : at + PIECE_BYTES] for at in range(0, max(1, len(state)), PIECE_BYTES)]
