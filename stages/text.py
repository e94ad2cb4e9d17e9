"""Text tools that several stages share: word lists, sentences, positions of words, stems."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")


def in_order(text: str) -> list[str]:
    """Return the words of a list written as text, in order."""
    return text.split()


def word_set(text: str) -> frozenset[str]:
    """Return the words of a list written as text, as a set."""
    return frozenset(text.split())


COMMON_WORDS: Final = word_set(
    """a about after again agent all an and any are as at be because been before being but by caller can could customer
    did do does doing down during each for from had has have having he her here hers him his how i if in into is
    it its just me more most my no nor not now of off on once only or other our out over own said say says she
    should so some such than that the their them then there these they this those through to too under until up
    very was we were what when where which while who whom whose why will with would you your"""
)
"""English words that do not tell calls apart: function words, and the speakers of every call. Stages add their own."""


def sentences(text: str) -> list[str]:
    """Split text after `.`, `!`, `?` or `…` followed by white space, and after the full-width `。`, `！` and `？`.

    Sentences are stripped; empty ones are left out.
    """
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def word_spans(text: str, words: Iterable[str]) -> list[tuple[int, int]] | None:
    """Find each word in the text, searching from the end of the previous one.

    Returns the start and end of each as indexes into `text`; None if any word is missing.
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
    """Return the stem of a lower-case word by Porter's algorithm; it is empty for some single letters.

    Equal to DuckDB's `stem(word, 'porter')` for all of 102,000 words tried, accents and made-up suffixes included.
    """
    import snowballstemmer

    stem: str = snowballstemmer.stemmer("porter").stemWord(word)  # a stemmer has state: threads cannot share one
    return stem
