"""The part of an open utterance's text that will not change any more.

LocalAgreement-2: two hypotheses in a row agree on their common beginning (Macháček, Dabre, Bojar 2023, "Turning Whisper
into Real-Time Transcription System"). Committed text is the prefix of every later decode, so all later hypotheses and
the final text begin with it.
"""

import re
from itertools import takewhile
from typing import Final

import msgspec

_SPACE_FOLLOWS: Final = re.compile(r"[^\w\s]*\s")
_SPACE_OR_END_FOLLOWS: Final = re.compile(r"[^\w\s]*(?:\s|$)")
_HELD_BACK: Final = 2
"""In text without spaces, so many last characters may belong to a word that is not complete."""


class CommittedText(msgspec.Struct, frozen=True, omit_defaults=True):
    """The committed text of a channel's utterance that begins at `first_sample`, for which an interim arrived."""

    first_sample: int = -1
    text: str = ""
    language: str = ""


NOTHING_COMMITTED: Final = CommittedText()


def agreed(committed: str, older: str, newer: str, *, spaced: bool) -> str:
    """Return the text that two hypotheses agree on: the longest common beginning in whole words, at least `committed`.

    The last word of `newer` is never part of it, for it may not be complete. `spaced`: the language puts spaces between
    words.
    """
    if not (older.startswith(committed) and newer.startswith(committed)):
        return committed
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(older, newer, strict=False)))
    if not spaced:
        return newer[: max(len(committed), min(common, len(newer) - _HELD_BACK))].rstrip() or committed
    for end in range(common, len(committed), -1):
        if (
            not newer[end - 1].isspace()
            and _SPACE_FOLLOWS.match(newer, end)
            and _SPACE_OR_END_FOLLOWS.match(older, end)
        ):
            return newer[:end]
    return committed
