"""Which words of a question count in search, how much, and how windows are ranked by them."""

import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

import duckdb

from stages.adapters.duckdb_file.files import load_extensions
from stages.index.ranking import CANDIDATES
from stages.text import word_set

WORD: Final = r"[\p{L}\p{N}]+"
"""As a regular expression of RE2, which DuckDB has."""

STOPWORDS: Final = word_set(
    """a about after again all an and any are as at be because been before being but by call called caller calls can
    could customer agent did do does doing down during each for from had has have having he her here hers him his how
    i if in into is it its just me more most my no nor not now of off on once only or other our out over own said same
    say says she should so some such than that the their them then there these they this those through to too under
    until up very was we were what when where which while who whom whose why will with would you your"""
)
"""English words that say nothing of what is asked for, and who speaks in every call: neither asked for nor indexed."""
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


class Stemmer:
    """The stems of words by Porter's algorithm, as DuckDB's text index makes them. Safe in several threads."""

    def __init__(self) -> None:
        """Raises StageError where DuckDB's `fts` is not installed."""
        self._connection: Any = duckdb.connect()
        load_extensions(self._connection, ("fts",))
        self._lock = threading.Lock()

    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        """Of each text the stems of the words that say something, each once."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT list_sort(list_distinct(list_transform(list_filter("
                f"regexp_extract_all(lower(text), '{WORD}'), lambda word: word NOT IN ({STOPWORDS_SQL})), "
                "lambda word: stem(strip_accents(word), 'porter')))) FROM (SELECT unnest(?::VARCHAR[]) AS text)",
                [list(texts)],
            ).fetchall()
        return [[stem for stem in stems if stem] for (stems,) in rows]

    def close(self) -> None:
        self._connection.close()
