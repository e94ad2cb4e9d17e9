"""Which of the text of an utterance that is still being spoken will not change any more.

LocalAgreement-2: what two hypotheses in a row agree on, from the beginning on (Macháček, Dabre, Bojar 2023, "Turning
Whisper into Real-Time Transcription System"). Hypotheses and the final text are decoded behind what is committed, so
the committed text is the beginning of them all.
"""

import re
from itertools import takewhile
from typing import Final

_WORD_BEHIND: Final = re.compile(r"[^\w\s]*\s")
_WORD_OR_END_BEHIND: Final = re.compile(r"[^\w\s]*(?:\s|$)")
_HELD_BACK: Final = 2
"""Of a text without spaces, so many last characters may belong to a word that is not over."""


def agreed(committed: str, older: str, newer: str, *, spaced: bool) -> str:
    """The longest beginning of both hypotheses, whole words long, behind which `newer` has another word; at least
    `committed`. `spaced`: the language puts spaces between words.
    """
    if not (older.startswith(committed) and newer.startswith(committed)):
        return committed
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(older, newer, strict=False)))
    if not spaced:
        return newer[: max(len(committed), min(common, len(newer) - _HELD_BACK))].rstrip() or committed
    for end in range(common, len(committed), -1):
        if not newer[end - 1].isspace() and _WORD_BEHIND.match(newer, end) and _WORD_OR_END_BEHIND.match(older, end):
            return newer[:end]
    return committed
