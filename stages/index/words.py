"""Which words of a question count in search, how much, and how windows are ranked by them."""

import math
import re
from collections.abc import Iterable
from typing import Final
from unicodedata import category, normalize

from stages.index.ranking import CANDIDATES
from stages.text import COMMON_WORDS, porter_stem, word_set

WORD: Final = r"[\p{L}\p{N}]+"
"""As a regular expression of RE2, which DuckDB has."""

STOPWORDS: Final = COMMON_WORDS | word_set("call called calls same")
"""Words that are neither searched for nor indexed."""
STOPWORDS_SQL: Final = ", ".join(f"'{word}'" for word in sorted(STOPWORDS))

LEAST_COVERED: Final = 0.6
"""Of what the words that are asked for weigh."""
_ALL: Final = 0.999


def idf(n_windows: int, df: int) -> float:
    """Inverse document frequency as in BM25: what a word weighs that `df` of the windows have."""
    return math.log(1 + (n_windows - df + 0.5) / (df + 0.5))


def by_weight(covered: Iterable[tuple[str, float]], whole: float) -> list[list[str]]:
    """Two rankings: the windows with all words that are asked for, and those with most of their weight.

    `covered` says how much of `whole` each window's words weigh. A window with less than `LEAST_COVERED` of it only
    shares common words with the question: in the fused ranking it would push away what is meant. Windows are about
    equally long, so how often a word comes in one says little, and BM25 would ask ten times as long for it
    (`benchmarks.search`).
    """
    ranked = sorted(covered, key=lambda found: -found[1])
    return [
        [window_id for window_id, weight in ranked if weight >= least * whole][:CANDIDATES]
        for least in (_ALL, LEAST_COVERED)
    ]


def stems(text: str) -> list[str]:
    """Return the stems of the words that say something, sorted, each once; as DuckDB's text index makes them."""
    words = (word for word in re.findall(r"[^\W_]+", text.lower()) if word not in STOPWORDS)
    return sorted({stem for word in words if (stem := porter_stem(_without_accents(word)))})


def _without_accents(word: str) -> str:
    """Return what DuckDB's `strip_accents` does."""
    return "".join(char for char in normalize("NFD", word) if not category(char).startswith("M"))
