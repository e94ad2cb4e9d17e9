"""What several stages need to know of text: words of a list, sentences, and where words stand."""

import re
from collections.abc import Iterable
from typing import Final

_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")


def in_order(text: str) -> list[str]:
    """Return the words of a list that is written as text."""
    return text.split()


def word_set(text: str) -> frozenset[str]:
    """Return the same words as a set."""
    return frozenset(text.split())


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
