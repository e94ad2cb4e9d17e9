"""Words laid over the detected speech: which of it no word accounts for.

Cross-attention gives the time of speech that the decoder skipped to the word before or after it, so a word can be
measured longer than anybody speaks. It accounts for as much of the speech as it can fill, from its start on.

All times are whole milliseconds, so that lengths add up exactly.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from schemas.segments import Word

MIN_UNHEARD_MS: Final = 300
"""A shorter stretch without a word is a breath, a click, or an error of the times."""

REACH_MS: Final = 250
"""Words are measured up to so much too short at either end: they account for the speech around them, no further. (The
last word ends up to 0.4 s before the end of speech: 24 monologues of `benchmarks.speech cuts`.)"""

_WORD_MS: Final = 700
_LETTER_MS: Final = 100
_SINGLE_MS: Final = 600
"""The longest that a word is spoken: a part for itself, and one for each further letter, or sign that is said alone."""

SpanMs = tuple[int, int]


class Coverage(msgspec.Struct, frozen=True):
    """Speech by what accounts for it; in order, without overlaps. Together they are all of it.

    - `worded`: a word, or a word beside a stretch too short to count.
    - `unheard`: nothing, in a stretch of at least `MIN_UNHEARD_MS`.
    - `brief`: nothing, in a shorter stretch of speech between two pauses.
    """

    worded: list[SpanMs]
    unheard: list[SpanMs]
    brief: list[SpanMs]


def to_ms(span: tuple[float, float]) -> SpanMs:
    return round(span[0] * 1000), round(span[1] * 1000)


def length_ms(spans: Iterable[SpanMs]) -> int:
    return sum(end - start for start, end in spans)


def longest_ms(text: str) -> int:
    """Return how long the word can take. Digits and capitals may be said one by one: `2018`, `L-L-E`."""
    singles = sum(character.isdigit() or character.isupper() for character in text)
    letters = sum(character.isalpha() and not character.isupper() for character in text)
    return _WORD_MS + _LETTER_MS * letters + _SINGLE_MS * max(0, singles - 1)


def stretches(voiced: Iterable[tuple[float, float]]) -> list[SpanMs]:
    """Return the stretches of speech between pauses, in order: those that touch or overlap are one."""
    joined: list[SpanMs] = []
    for start, end in sorted(map(to_ms, voiced)):
        if end <= start:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def coverage(voiced: Iterable[tuple[float, float]], words: Sequence[Word]) -> Coverage:
    """Lay words over speech. Both in seconds on the same scale; the words in rising order of their starts."""
    found = Coverage([], [], [])
    spoken = [_spoken(word) for word in words]
    for stretch in stretches(voiced):
        reached = [_reach(span, stretch) for span in spoken if _meet(span, stretch)]
        left = without([stretch], reached)
        if not reached:
            short = stretch[1] - stretch[0] < MIN_UNHEARD_MS
            (found.brief if short else found.unheard).append(stretch)
            continue
        unheard = [span for span in left if span[1] - span[0] >= MIN_UNHEARD_MS]
        found.unheard.extend(unheard)
        found.worded.extend(without([stretch], unheard))
    return found


def without(spans: Iterable[SpanMs], taken: Iterable[SpanMs]) -> list[SpanMs]:
    """Return what is left of `spans`, in order and without overlaps. `taken`: in any order."""
    taken = sorted(taken)
    left: list[SpanMs] = []
    for start, end in spans:
        for first, last in taken:
            if last <= start or first >= end:
                continue
            if first > start:
                left.append((start, first))
            start = max(start, last)
        if start < end:
            left.append((start, end))
    return left


def clipped(spans: Iterable[SpanMs], to: SpanMs) -> list[SpanMs]:
    """Return the parts of the spans inside another one."""
    inside = ((max(start, to[0]), min(end, to[1])) for start, end in spans)
    return [(start, end) for start, end in inside if start < end]


def is_stretched(word: Word) -> bool:
    """Return whether the word was measured longer than it can be spoken: speech may be hidden in it."""
    start, end = to_ms((word.start_s, word.end_s))
    return end - start > longest_ms(word.text) + MIN_UNHEARD_MS


def _spoken(word: Word) -> SpanMs:
    start, end = to_ms((word.start_s, word.end_s))
    return start, min(end, start + longest_ms(word.text))


def _meet(span: SpanMs, stretch: SpanMs) -> bool:
    return span[0] < stretch[1] and span[1] > stretch[0]


def _reach(span: SpanMs, stretch: SpanMs) -> SpanMs:
    return max(stretch[0], span[0] - REACH_MS), min(stretch[1], span[1] + REACH_MS)
