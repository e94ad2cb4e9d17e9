"""The questions that a DuckDB search index is asked, as SQL that reads: run by its owner, or for others by Quack."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from stages.embedding.embedder import Vectors
from stages.search.index import CANDIDATES, Filters, Hit, fused
from stages.search.windows import Window

Run = Callable[[str], list[tuple[Any, ...]]]

EXACT_BELOW: Final = 20_000
"""Of fewer windows each is compared: that takes less than a look into the graph is worth."""

_COLUMNS: Final = (
    "window_id::VARCHAR, tenant, call_id, revision, part, agent, started_at, start_s, end_s, "
    "speakers::VARCHAR, turn_ids::VARCHAR, text"
)
_STEM_CHARACTERS: Final = 5


def search(run: Run, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
    """See `SearchIndex.search`."""
    asked = literal_vector(vector)
    nearest = near(run, asked, filters)
    worded = [*fresh_words(run, words, filters), *indexed_words(run, words, filters)]
    best = fused([nearest, list(dict.fromkeys(worded))])[:limit]
    if not best:
        return []
    ids = ", ".join(_literal(window_id) + "::UUID" for window_id, _ in best)
    rows = run(f"SELECT {_COLUMNS}, 1 - array_cosine_distance(vector, {asked}) FROM windows WHERE window_id IN ({ids})")
    found = {row[0]: row for row in rows}
    return [
        Hit(window=_window(found[window_id]), score=score, similarity=float(found[window_id][-1]))
        for window_id, score in best
        if window_id in found
    ]


def literal_vector(vector: Vectors) -> str:
    """As SQL."""
    return f"[{','.join(f'{value:.6g}' for value in vector.tolist())}]::FLOAT[{len(vector)}]"


def near(run: Run, asked: str, filters: Filters) -> list[str]:
    """The ids of the nearest windows. An HNSW graph is only asked where every window counts: filtered afterwards it may
    give nothing of what there is.
    """
    table = "windows"
    if not filters:
        named = run("SELECT name FROM graph.newest")
        if named:
            table = f"graph.{named[0][0]}"
    return _ids(
        run(
            f"SELECT window_id::VARCHAR FROM {table} {_where(filters)} "
            f"ORDER BY array_cosine_distance(vector, {asked}) LIMIT {CANDIDATES}"
        )
    )


def indexed_words(run: Run, words: str, filters: Filters) -> list[str]:
    """The ids of the windows with the words, by BM25, of those that the text index knows."""
    if not words.strip() or not run("SELECT 1 FROM text_index WHERE upto >= 0"):
        return []
    scored = f"SELECT *, fts_main_windows.match_bm25(window_id, {_literal(words)}) AS bm25 FROM windows"
    conditions = _where(filters, "bm25 IS NOT NULL")
    return _ids(
        run(f"SELECT window_id::VARCHAR FROM ({scored}) {conditions} ORDER BY bm25 DESC, window_id LIMIT {CANDIDATES}")
    )


def fresh_words(run: Run, words: str, filters: Filters) -> list[str]:
    """The same of the windows that came since: by how many of the words, cut to a few letters, each has."""
    stems = sorted({word[:_STEM_CHARACTERS] for word in re.findall(r"\w{3,}", words.lower())})
    if not stems:
        return []
    score = " + ".join(f"contains(lower(text), {_literal(stem)})::INTEGER * {len(stem)}" for stem in stems)
    conditions = _where(filters, "number > (SELECT max(upto) FROM text_index)")
    return _ids(
        run(
            f"SELECT window_id::VARCHAR FROM (SELECT *, {score} AS matching FROM windows {conditions}) "
            f"WHERE matching >= {max(map(len, stems))} ORDER BY matching DESC, window_id LIMIT {CANDIDATES}"
        )
    )


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
