"""The words of a question that count in search, their weights, and rankings of windows by them."""

import math
import re
from collections.abc import Iterable
from typing import Final
from unicodedata import category, normalize

from stages.index.ranking import CANDIDATES
from stages.text import COMMON_WORDS, porter_stem, word_set

WORD: Final = r"[\p{L}\p{N}]+"
"""A word, as a regular expression of RE2, which DuckDB uses."""

STOPWORDS: Final = COMMON_WORDS | word_set("call called calls same")
"""Words that are neither indexed nor searched."""
STOPWORDS_SQL: Final = ", ".join(f"'{word}'" for word in sorted(STOPWORDS))

LEAST_COVERED: Final = 0.6
"""Least share of the question's weight that the words of a window must have."""
_ALL: Final = 0.999


def idf(n_windows: int, df: int) -> float:
    """Return the inverse document frequency, as in BM25, of a word that occurs in `df` windows."""
    return math.log(1 + (n_windows - df + 0.5) / (df + 0.5))


def by_weight(covered: Iterable[tuple[str, float]], whole: float) -> list[list[str]]:
    """Return two rankings: the windows with all words of the question, and those with most of their weight.

    `covered` has the weight of each window's words, `whole` that of the question's. A window with less than
    `LEAST_COVERED` of it shares only common words with the question; in the fused ranking it would displace better
    ones. Windows have about equal length, so the frequency of a word within one says little, and BM25 would take ten
    times as long for it (`benchmarks.search`).
    """
    ranked = sorted(covered, key=lambda found: -found[1])
    return [
        [window_id for window_id, weight in ranked if weight >= least * whole][:CANDIDATES]
        for least in (_ALL, LEAST_COVERED)
    ]


def stems(text: str) -> list[str]:
    """Return the stems of the words that count, sorted, each once; equal to those of DuckDB's text index."""
    words = (word for word in re.findall(r"[^\W_]+", text.lower()) if word not in STOPWORDS)
    return sorted({stem for word in words if (stem := porter_stem(_without_accents(word)))})


def _without_accents(word: str) -> str:
    """Return the same as DuckDB's `strip_accents`."""
    return "".join(char for char in normalize("NFD", word) if not category(char).startswith("M"))
