"""Read-only SQL for searches of a DuckDB index, run by its owner, or for other processes through Quack."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from stages.adapters.embedding import Vectors
from stages.index.ranking import CANDIDATES, Filters, Hit, fused
from stages.index.windows import Window
from stages.index.words import LEAST_COVERED, STOPWORDS, WORD, by_weight, idf

Run = Callable[[str], list[tuple[Any, ...]]]

EXACT_BELOW: Final = 20_000
"""Below this number every window is compared: that is fast enough without the graph."""

_COLUMNS: Final = (
    "window_id::VARCHAR, tenant, call_id, revision, part, agent, started_at, start_s, end_s, "
    "speakers::VARCHAR, turn_ids::VARCHAR, text"
)
_STEM_CHARACTERS: Final = 5
_SCANNED_AT_ONCE: Final = 2048
"""Rows of one DuckDB vector: the unit of a table scan."""

QUESTION_VECTOR: Final = "question_vector"
"""SQL function that embeds a question, in the process that owns and serves the index."""


class AskedWindows:
    """An index that another process owns. Questions are embedded there too: loading a model here would take seconds.

    See `Searcher` and `QuestionEmbedder`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def questions(self, texts: Sequence[str]) -> Vectors:
        return np.array([self._run(f"SELECT {QUESTION_VECTOR}({_literal(text)})")[0][0] for text in texts], np.float32)

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        return search(self._run, vector, words, filters, limit=limit)


def search(run: Run, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
    """See `Searcher.search`."""
    asked = literal_vector(vector)
    best = fused([near(run, asked, filters), *worded(run, words, filters)])[:limit]
    if not best:
        return []
    ids = _among(window_id for window_id, _ in best)
    rows = run(f"SELECT {_COLUMNS}, 1 - array_cosine_distance(vector, {asked}) FROM windows WHERE window_id IN ({ids})")
    found = {row[0]: row for row in rows}
    return [
        Hit(window=_window(found[window_id]), score=score, similarity=float(found[window_id][-1]))
        for window_id, score in best
        if window_id in found
    ]


def literal_vector(vector: Vectors) -> str:
    """Return a vector as SQL text: DuckDB parses a list of 384 numbers in 8 ms, its text in less than 1 ms."""
    return f"'[{','.join(f'{value:.6g}' for value in vector.tolist())}]'::FLOAT[{len(vector)}]"


def near(run: Run, asked: str, filters: Filters) -> list[str]:
    """Return the ids of the nearest windows. The HNSW graph is used only without filters: its results would be filtered
    afterwards, and possibly none be left.
    """
    graphs = [] if filters else run("SELECT name FROM graph.newest")
    if graphs:
        return _ids(
            run(
                f"SELECT window_id::VARCHAR FROM graph.{graphs[0][0]} "
                f"ORDER BY array_cosine_distance(vector, {asked}) LIMIT {CANDIDATES}"
            )
        )
    # In two halves, for two cores: DuckDB gives each thread at least a row group, which is 122,880 windows. All vectors
    # have unit length, so the inner product orders them as the cosine does.
    halves = " UNION ALL ".join(
        f"SELECT window_id, array_negative_inner_product(vector, {asked}) AS distance FROM windows "
        f"{_where(filters, f'number // {_SCANNED_AT_ONCE} % 2 = {half}')}"
        for half in (0, 1)
    )
    return _ids(run(f"SELECT window_id::VARCHAR FROM ({halves}) ORDER BY distance LIMIT {CANDIDATES}"))


def worded(run: Run, words: str, filters: Filters) -> list[list[str]]:
    """Return rankings of the windows by the words of the question, see `by_weight`."""
    terms = _terms(run, words)
    if not terms:
        return [[], []]
    n_windows = run("SELECT count(*) FROM windows")[0][0]
    weights = {term.stem: idf(n_windows, term.df) for term in terms}
    whole = sum(weights.values())
    known = {term.term_id: weights[term.stem] for term in terms if term.term_id is not None}
    covered = _fresh(run, weights, filters) + _indexed(run, known, LEAST_COVERED * whole, filters)
    return by_weight(covered, whole)


class _Term(msgspec.Struct, frozen=True):
    """A word of the question that carries meaning: its stem, and its id and document frequency in the text index."""

    stem: str
    term_id: int | None
    df: int


def _terms(run: Run, words: str) -> list[_Term]:
    asked = [word for word in re.findall(r"\w+", words.lower()) if word not in STOPWORDS]
    if not asked:
        return []
    listed = ", ".join(map(_literal, dict.fromkeys(asked)))
    stems = _ids(run(f"SELECT DISTINCT stem(strip_accents(unnest([{listed}])), 'porter')"))
    known = {}
    if run("SELECT 1 FROM text_index WHERE upto >= 0"):
        among = ", ".join(map(_literal, stems))
        rows = run(f"SELECT term, termid, df FROM fts_main_windows.dict WHERE term IN ({among})")
        known = {term: _Term(term, term_id, df) for term, term_id, df in rows}
    return [known.get(stem, _Term(stem, None, 0)) for stem in sorted(stems)]


def _indexed(run: Run, weights: Mapping[int, float], least: float, filters: Filters) -> list[tuple[str, float]]:
    """Return the windows in the text index whose words weigh at least `least`, with their weight."""
    if sum(weights.values()) < least:
        return []
    weighed = ", ".join(f"({term_id}, {weight!r}::DOUBLE)" for term_id, weight in weights.items())
    among = ", ".join(map(str, weights))
    rows = run(
        f"SELECT window_id::VARCHAR, covered FROM (SELECT docid, sum(weight) AS covered "
        f"FROM (SELECT DISTINCT docid, termid FROM fts_main_windows.terms WHERE termid IN ({among})) "
        f"JOIN (VALUES {weighed}) AS weighed(termid, weight) USING (termid) GROUP BY docid "
        f"HAVING covered >= {least!r}) "
        f"JOIN fts_main_windows.docs USING (docid) JOIN windows ON window_id = docs.name {_where(filters)} "
        f"ORDER BY covered DESC, docs.len, window_id LIMIT {CANDIDATES}"
    )
    return list(map(tuple, rows))


def _fresh(run: Run, weights: Mapping[str, float], filters: Filters) -> list[tuple[str, float]]:
    """Return the windows added since the text index was built, with their weight. Each is scanned."""
    # A word need not begin with its whole stem: the stem of money is monei.
    stems = [stem[: min(_STEM_CHARACTERS, max(1, len(stem) - 1))] for stem in weights]
    score = " + ".join(f"contains(lower(strip_accents(text)), {_literal(stem)})::INTEGER" for stem in stems)
    conditions = _where(filters, "number > (SELECT max(upto) FROM text_index)")
    rows = run(
        f"SELECT window_id::VARCHAR, list_transform(regexp_extract_all(lower(strip_accents(text)), '{WORD}'), "
        f"lambda word: stem(word, 'porter')) FROM (SELECT *, {score} AS matching FROM windows {conditions}) "
        f"WHERE matching > 0 ORDER BY matching DESC, window_id LIMIT {CANDIDATES}"
    )
    return [(window_id, sum(weights[stem] for stem in weights if stem in said)) for window_id, said in rows]


def _where(filters: Filters, *more: str) -> str:
    conditions = [*more]
    for column, value in (("tenant", filters.tenant), ("agent", filters.agent), ("call_id", filters.call_id)):
        if value is not None:
            conditions.append(f"{column} = {_literal(value)}")
    if filters.since is not None:
        conditions.append(f"started_at >= {float(filters.since)!r}")
    if filters.until is not None:
        conditions.append(f"started_at < {float(filters.until)!r}")
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _among(window_ids: Iterable[str]) -> str:
    return ", ".join(f"{_literal(window_id)}::UUID" for window_id in window_ids)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''").replace("\0", "") + "'"


def _ids(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    return [row[0] for row in rows]


def _window(row: tuple[Any, ...]) -> Window:
    return Window(
        window_id=row[0],
        tenant=row[1],
        call_id=row[2],
        revision=row[3],
        part=row[4],
        agent=row[5],
        started_at=row[6],
        start_s=row[7],
        end_s=row[8],
        speakers=msgspec.json.decode(row[9], type=list[str]),
        turn_ids=msgspec.json.decode(row[10], type=list[str]),
        text=row[11],
    )
