"""Words that a text holds several times in a row: whether the audio holds them so often.

After little speech the decoder may write the last word or phrase again ("4 4" for one "four", a group of six digits
twice). People repeat themselves too. The word times tell: the aligner must place each copy somewhere, and for one that
nobody said it finds no speech, or cuts the time of the first in two.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.segments import Word
from stages.text import word_spans

Span = tuple[float, float]

MOST_WORDS: Final = 8
"""The longest phrase whose copies are noticed. A longer one twice is noticed by its compression (`guards.repeats`)."""

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
_CHARACTER: Final = re.compile(r"\w")
_CLOSING: Final = ".,!?:;…)]}\"'。，！？：、"
_LEAST_CHARACTERS: Final = 2
"""In text without spaces; there many words are a doubled character."""

_SURE_S: Final = (0.2, 0.3)
"""Speech that a copy has if it was said, whatever stands around it: so much, and so much more for each of its words.

Of digits and words said two to four times in a row with pauses of 0.1 s each had 0.54 s or more, from its start to the
next one's. Words and phrases said once and written twice left 0.55 s to a copy of two words, 0.47 s to one of one."""
_APART_S: Final = 0.15
"""Speech for each word of a copy that a pause divides from the copies around it."""
_ROOM_S: Final = 0.08
"""Speech for each word of a copy, without which nobody said it: four frames of Whisper."""


class Copy(msgspec.Struct, frozen=True):
    """One of several equal phrases in a row.

    - `start`, `end`: its place in the text, of `n_words` words.
    - `middle_s`: the middle of its time.
    - `speech_s`: how much speech lies between its start and that of the next word.
    - `measured`: each of its words has a time of its own.
    """

    start: int
    end: int
    n_words: int
    middle_s: float
    speech_s: float
    measured: bool


def repeated(text: str, *, spaced: bool) -> list[list[tuple[int, int]]]:
    """Return the places in the text of the copies of each phrase that it repeats at once, without case or punctuation.

    `spaced`: the language puts spaces between words.
    """
    found = list((_WORD if spaced else _CHARACTER).finditer(text))
    tokens = [match[0].casefold() for match in found]
    least = 1 if spaced else _LEAST_CHARACTERS
    groups: list[list[tuple[int, int]]] = []
    first = 0
    while first < len(tokens):
        size = _repeated_size(tokens, first, least)
        if not size:
            first += 1
            continue
        copies = [first]
        while tokens[copies[-1] + size : copies[-1] + 2 * size] == tokens[first : first + size]:
            copies.append(copies[-1] + size)
        groups.append([(found[copy].start(), found[copy + size - 1].end()) for copy in copies])
        first = copies[-1] + size
    return groups


def believed(text: str, words: Sequence[Word], voiced: Sequence[Span], *, prefix: str = "", spaced: bool) -> bool:
    """Return whether the audio surely holds every word of the text as often as the text does.

    Args:
        words: the text's words, with times.
        voiced: the stretches of speech.
        prefix: the known beginning of the text. It is not doubted.
    """
    return all(
        _is_sure(index, copies, voiced)
        for copies in _timed_copies(text, words, voiced, prefix, spaced)
        for index, copy in enumerate(copies)
        if copy.end > len(prefix)
    )


def _is_sure(index: int, copies: Sequence[Copy], voiced: Sequence[Span]) -> bool:
    """Return whether a copy has speech that no other word can have."""
    copy = copies[index]
    base_s, word_s = _SURE_S
    if not copy.measured:
        return False
    if copy.speech_s >= base_s + word_s * copy.n_words:
        return True
    return copy.speech_s >= _APART_S * copy.n_words and _stands_apart(index, copies, voiced)


def without_unspoken(
    text: str, words: Sequence[Word], voiced: Sequence[Span], *, prefix: str = "", spaced: bool
) -> tuple[str, list[Word]]:
    """Return the text and its words without the copies for which the audio has no speech. See `believed`.

    Of copies without speech the first stays. The word before a copy that goes takes over its time.
    """
    gone = [
        (max(before.end, len(prefix)), copy.end)
        for copies in _timed_copies(text, words, voiced, prefix, spaced)
        for before, copy in itertools.pairwise(copies)
        if copy.start >= len(prefix) and (not copy.measured or copy.speech_s < _ROOM_S * copy.n_words)
    ]
    spans = word_spans(text, [word.text for word in words]) if gone else None
    if spans is None:
        return text, list(words)
    kept: list[Word] = []
    for word, span in zip(words, spans, strict=True):
        rest = _outside(text, span, gone)
        if kept and not any(letter.isalnum() for letter in rest):
            before = kept.pop()
            kept.append(msgspec.structs.replace(before, text=before.text + rest, end_s=word.end_s))
        else:
            kept.append(msgspec.structs.replace(word, text=rest))
    return _outside(text, (0, len(text)), gone), kept


def _repeated_size(tokens: Sequence[str], first: int, least: int) -> int:
    """Return how many tokens from `first` on follow once more at once; 0 if none do."""
    most = min(MOST_WORDS, (len(tokens) - first) // 2)
    for size in range(least, most + 1):
        if tokens[first : first + size] == tokens[first + size : first + 2 * size]:
            return size
    return 0


def _timed_copies(
    text: str, words: Sequence[Word], voiced: Sequence[Span], prefix: str, spaced: bool
) -> list[list[Copy]]:
    groups = [places for places in repeated(text, spaced=spaced) if places[-1][1] > len(prefix)]
    spans = word_spans(text, [word.text for word in words]) if groups else []
    if spans is None:
        return []
    return [[_timed(place, text, words, spans, voiced) for place in places] for places in groups]


def _timed(
    place: tuple[int, int],
    text: str,
    words: Sequence[Word],
    spans: Sequence[tuple[int, int]],
    voiced: Sequence[Span],
) -> Copy:
    start, end = place
    n_words = len(_WORD.findall(text[start:end]))
    inside = [index for index, (first, last) in enumerate(spans) if first < end and start < last]
    if not inside:
        return Copy(start, end, n_words, 0.0, 0.0, measured=False)
    first, last = inside[0], inside[-1]
    start_s, end_s = _at(start, words[first], spans[first]), _at(end, words[last], spans[last])
    middle_s = (start_s + end_s) / 2
    if end_s == words[last].end_s:
        following_s = words[last + 1].start_s if last + 1 < len(words) else max((stop for _, stop in voiced), default=0)
        end_s = max(end_s, following_s)
    speech_s = sum(max(0.0, min(end_s, stop) - max(start_s, begin)) for begin, stop in voiced)
    measured = not any(words[index].interpolated for index in inside)
    return Copy(start, end, n_words, middle_s, speech_s, measured=measured)


def _at(place: int, word: Word, span: tuple[int, int]) -> float:
    """Return when a word with this span of the text is heard as far as `place`. Closing punctuation takes no time."""
    n_letters = len(word.text.rstrip(_CLOSING))
    share = min(1.0, max(0.0, (place - span[0]) / max(1, n_letters)))
    return word.end_s if share == 1.0 else word.start_s + share * (word.end_s - word.start_s)


def _stands_apart(index: int, copies: Sequence[Copy], voiced: Sequence[Span]) -> bool:
    """Return whether a pause lies between the middles of a copy and of each neighbour."""
    middles = [copies[other].middle_s for other in (index - 1, index, index + 1) if 0 <= other < len(copies)]
    pauses = [(stop, begin) for (_, stop), (begin, _) in itertools.pairwise(voiced)]
    return all(
        any(before < stop and begin < after for stop, begin in pauses) for before, after in itertools.pairwise(middles)
    )


def _outside(text: str, span: tuple[int, int], gone: Sequence[tuple[int, int]]) -> str:
    return "".join(text[place] for place in range(*span) if not any(start <= place < end for start, end in gone))
