"""Splits a completed transcript into records that every bus takes."""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from schemas.transcripts import ChannelUnheard, TranscriptCompleted, Turn

PART_BYTES: Final = 700_000
"""The most JSON in one part of a completed transcript: brokers take records up to 1 MB by default."""

Item = TypeVar("Item", Turn, ChannelUnheard)


def split(transcript: TranscriptCompleted, *, part_bytes: int = PART_BYTES) -> list[TranscriptCompleted]:
    """Return the parts, numbered from 1: first those with the turns, in order, then the unheard speech.

    A turn is never divided; `TurnBuilder` keeps it far below the limit.
    """
    empty = msgspec.structs.replace(transcript, turns=[], unheard=[])
    room = part_bytes - len(msgspec.json.encode(empty))
    turns, used = _filled(transcript.turns, room, 0)
    unheard, _ = _filled(transcript.unheard, room, used)
    parts = [
        msgspec.structs.replace(empty, turns=batch, unheard=unheard[0] if number == len(turns) else [])
        for number, batch in enumerate(turns, start=1)
    ]
    parts += [msgspec.structs.replace(empty, unheard=batch) for batch in unheard[1:]]
    return [msgspec.structs.replace(part, part=number, parts=len(parts)) for number, part in enumerate(parts, start=1)]


def _filled(items: Sequence[Item], room: int, used: int) -> tuple[list[list[Item]], int]:
    """Return the items in batches, the first of which may be empty, and the bytes of the last one.

    `used`: bytes that the first batch's record holds already.
    """
    batches: list[list[Item]] = [[]]
    for item in items:
        size = len(msgspec.json.encode(item)) + 1
        if (batches[-1] or used) and used + size > room:
            batches.append([])
            used = 0
        batches[-1].append(item)
        used += size
    return batches, used
