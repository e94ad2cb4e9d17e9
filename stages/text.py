"""What several stages need to know of text: sentences, where words stand, stems, words without meaning."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")


def in_order(text: str) -> list[str]:
    """Return the words of a list that is written as text."""
    return text.split()


def word_set(text: str) -> frozenset[str]:
    """Return the same words as a set."""
    return frozenset(text.split())


COMMON_WORDS: Final = word_set(
    """a about after again agent all an and any are as at be because been before being but by caller can could customer
    did do does doing down during each for from had has have having he her here hers him his how i if in into is
    it its just me more most my no nor not now of off on once only or other our out over own said say says she
    should so some such than that the their them then there these they this those through to too under until up
    very was we were what when where which while who whom whose why will with would you your"""
)
"""English words that say nothing of what a call is about, and who speaks in every call. Stages add their own."""


def sentences(text: str) -> list[str]:
    """Split text after `.`, `!`, `?` and `…` before white space, and after the full-width forms of the first three.

    The sentences are stripped; empty ones are left out.
    """
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def word_spans(text: str, words: Iterable[str]) -> list[tuple[int, int]] | None:
    """Find each word in the text, from the end of the word before it on.

    Returns the start and end of each as indexes into `text`; None if a word is not there.
    """
    spans: list[tuple[int, int]] = []
    end = 0
    for word in words:
        start = text.find(word, end)
        if start < 0:
            return None
        end = start + len(word)
        spans.append((start, end))
    return spans


@lru_cache(maxsize=65_536)
def porter_stem(word: str) -> str:
    """Return the stem of a word in lower case by Porter's algorithm; empty for some single letters.

    For 102,000 words it is the one that DuckDB's `stem(word, 'porter')` gives, accents and made-up suffixes included.
    """
    import snowballstemmer

    stem: str = snowballstemmer.stemmer("porter").stemWord(word)  # keeps a state: not to be shared between threads
    return stem
