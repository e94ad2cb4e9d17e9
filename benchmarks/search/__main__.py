"""Search over calls: whether it finds what is asked for, and how fast.

    python -m benchmarks.search [--calls 210] [--windows 100000] [--json FILE]

Finding: calls from our own sentences, 105 of which hold one thing that a question asks for in other words, and the
questions; and as often the three rarest words of what was said, as somebody types who remembers them. For vectors
alone, words alone and both fused: how often the right call is first, and among the first five. Then how near the best
window is to questions that a call answers, and to questions that none does.

Speed: an index of many windows, built by what a deployment builds it with. Their texts are sentences of the same
scripts; their vectors are those of some thousand windows, each moved a little at random, because making so many takes
an hour on two cores. Searches are timed from the question's vector to the hits, and apart from that the embedding of a
question.

What it does not show: people's own questions, and calls as a transcriber writes them down.
"""

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.report import write_report
from benchmarks.search.corpus import Asked, corpus
from pipeline.models import embedding_weights
from schemas.calls import CallRef
from schemas.transcripts import Turn
from stages.embedding.embedder import DEFAULT_MODEL, Embedder, SentenceEmbedder, Vectors
from stages.index import queries, windows
from stages.index.ranking import CANDIDATES, Filters, Update, fused
from stages.index.store import WindowStore
from stages.index.windows import Window, windows_of

SEED: Final = 1
SEARCHES: Final = 200
PER_CALL: Final = 10
TENANTS: Final = 20
_EVERYTHING: Final = Filters()
_KINDS: Final = ("in other words", "by three of its words")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=210, help="calls to find something in (210); 0 for none")
    parser.add_argument("--windows", type=int, default=100_000, help="windows to search among (100000); 0 for none")
    parser.add_argument("--window-words", type=int, default=windows.MAX_WORDS, help="the most words of a window")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"of the embeddings ({DEFAULT_MODEL})")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    windows.MAX_WORDS = given.window_words  # type: ignore[misc]
    embedder = SentenceEmbedder(embedding_weights(given.model), name=given.model)
    figures: dict[str, Any] = {"model": given.model, "window_words": given.window_words}
    if given.calls:
        figures["finding"] = finding(embedder, *corpus(seed=given.seed, calls=given.calls))
        _show_finding(figures["finding"])
    if given.windows:
        figures["speed"] = speed(embedder, given.windows, given.seed)
        _show_speed(figures["speed"])
    write_report("search", figures, given.json)


def finding(embedder: Embedder, calls: dict[CallRef, list[Turn]], asked: Sequence[Asked]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        store = WindowStore(Path(folder), model=embedder.name, dimensions=embedder.dimensions)
        n_windows = 0
        for call, turns in calls.items():
            found = windows_of(turns, revision=1, part=1, agent="", started_at=0.0)
            n_windows += len(found)
            store.update([Update(call, 1, 1, found, embedder.passages([window.said for window in found]))])
        ranks: dict[str, dict[str, list[int]]] = {kind: defaultdict(list) for kind in _KINDS}
        answerable: list[float] = []
        unanswerable: list[float] = []
        for one in asked:
            [vector] = embedder.questions([one.question])
            hits = store.search(vector, one.question, _EVERYTHING, limit=CANDIDATES)
            best = max((hit.similarity for hit in hits), default=0.0)
            if one.call is None:
                unanswerable.append(best)
                continue
            answerable.append(best)
            for kind, text in zip(_KINDS, (one.question, one.words), strict=True):
                for by, ids in _rankings(store, embedder, text).items():
                    ranks[kind][by].append(_rank(_calls(store, ids), one.call.call_id))
        store.close()
    return {
        "calls": len(calls),
        "windows": n_windows,
        "questions": len(answerable),
        "unanswerable": len(unanswerable),
        "found": {kind: {by: _found(found) for by, found in each.items()} for kind, each in ranks.items()},
        "similarity": {
            "answerable": _percentiles(answerable, (1, 5, 10, 50)),
            "unanswerable": _percentiles(unanswerable, (50, 90, 100)),
        },
    }


def _rankings(store: WindowStore, embedder: Embedder, text: str) -> dict[str, list[str]]:
    def run(sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = store.connection.execute(sql).fetchall()
        return found

    near = queries.near(run, queries.literal_vector(embedder.questions([text])[0]), _EVERYTHING)
    worded = queries.worded(run, text, _EVERYTHING)
    fusions = {"vectors": [near], "words": worded, "both": [near, *worded]}
    return {by: [one for one, _ in fused(rankings)] for by, rankings in fusions.items()}


def _calls(store: WindowStore, ids: Sequence[str]) -> list[str]:
    """The calls of windows, each once, in the order of the windows."""
    rows = store.connection.execute(
        "SELECT window_id::VARCHAR, call_id FROM windows WHERE window_id IN (SELECT unnest(?::UUID[]))", [list(ids)]
    ).fetchall()
    call_of = dict(rows)
    return list(dict.fromkeys(call_of[window_id] for window_id in ids))


def _rank(calls: Sequence[str], right: str) -> int:
    """From 1; 0 where the right call was not found."""
    return calls.index(right) + 1 if right in calls else 0


def _found(ranks: Sequence[int]) -> dict[str, float]:
    n = len(ranks)
    return {
        "recall_1": round(sum(rank == 1 for rank in ranks) / n, 3),
        "recall_5": round(sum(1 <= rank <= 5 for rank in ranks) / n, 3),
        "mrr": round(sum(1 / rank for rank in ranks if rank) / n, 3),
    }


def speed(embedder: Embedder, n_windows: int, seed: int) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    calls, asked = corpus(seed=seed, calls=210)
    real = [
        window for turns in calls.values() for window in windows_of(turns, revision=1, part=1, agent="", started_at=0.0)
    ]
    vectors = embedder.passages([window.said for window in real])
    with tempfile.TemporaryDirectory() as folder:
        store = WindowStore(Path(folder), model=embedder.name, dimensions=embedder.dimensions)
        began = time.monotonic()
        for first in range(0, n_windows, 50 * PER_CALL):
            store.update(
                [
                    _made(number, real, vectors, chance)
                    for number in range(first // PER_CALL, min(n_windows, first + 50 * PER_CALL) // PER_CALL)
                ]
            )
        stored_s = time.monotonic() - began
        store.close()
        began = time.monotonic()
        store = WindowStore(Path(folder), model=embedder.name, dimensions=embedder.dimensions)
        opened_s = time.monotonic() - began
        store.until_built()
        graph_s = time.monotonic() - began
        questions = [one.question for one in asked]
        timed = {
            "everything": _timed(store, embedder, questions, lambda _n: _EVERYTHING),
            "of one tenant": _timed(store, embedder, questions, lambda n: Filters(tenant=f"tenant-{n % TENANTS}")),
            "of half of the time": _timed(
                store, embedder, questions, lambda _n: Filters(since=n_windows / PER_CALL / 2)
            ),
            "of one call": _timed(store, embedder, questions, lambda n: Filters(call_id=f"call-{n}")),
        }
        began = time.monotonic()
        for question in questions[:20]:
            embedder.questions([question])
        question_ms = 1000 * (time.monotonic() - began) / 20
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        store.close()
    return {
        "windows": n_windows,
        "stored_s": round(stored_s, 1),
        "text_index_s": round(opened_s, 1),
        "graph_s": round(graph_s - opened_s, 1),
        "file_mb": round(size / 1e6),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "searches": timed,
        "question_ms": round(question_ms, 1),
    }


def _made(number: int, real: Sequence[Window], vectors: Vectors, chance: np.random.Generator) -> Update:
    """A call of `PER_CALL` windows drawn from the real ones."""
    call = CallRef(f"tenant-{number % TENANTS}", f"call-{number}")
    drawn = chance.integers(len(real), size=PER_CALL)
    moved = vectors[drawn] + chance.normal(0, 0.02, (PER_CALL, vectors.shape[1])).astype(np.float32)
    made = [
        msgspec.structs.replace(
            real[index],
            window_id=str(call.derived_id("window", position)),
            tenant=call.tenant,
            call_id=call.call_id,
            started_at=float(number),
            text=f"{real[index].text}\ncustomer: My number is {number * PER_CALL + position}.",
        )
        for position, index in enumerate(drawn.tolist())
    ]
    return Update(call, 1, 1, made, moved / np.linalg.norm(moved, axis=1, keepdims=True))


def _timed(
    store: WindowStore, embedder: Embedder, questions: Sequence[str], filters: Callable[[int], Filters]
) -> dict[str, float]:
    vectors = embedder.questions(questions)
    times_ms: list[float] = []
    for number in range(SEARCHES):
        index = number % len(questions)
        began = time.perf_counter()
        store.search(vectors[index], questions[index], filters(number), limit=10)
        times_ms.append(1000 * (time.perf_counter() - began))
    return _percentiles(times_ms, (50, 95, 99))


def _percentiles(values: Sequence[float], which: Sequence[int]) -> dict[str, float]:
    return {f"p{one}": round(float(np.percentile(values, one)), 3) for one in which}


def _show_finding(figures: dict[str, Any]) -> None:
    print(f"{figures['questions']} questions about {figures['calls']} calls ({figures['windows']} windows)")
    print("| asked | ranked by | the right call is first | among the first five | mean reciprocal rank |")
    print("|---|---|---|---|---|")
    for kind, each in figures["found"].items():
        for by, found in each.items():
            print(f"| {kind} | {by} | {found['recall_1']:.1%} | {found['recall_5']:.1%} | {found['mrr']:.3f} |")
    print(f"similarity of the best window: {figures['similarity']}")


def _show_speed(figures: dict[str, Any]) -> None:
    print(
        f"{figures['windows']} windows: stored in {figures['stored_s']} s, text index {figures['text_index_s']} s, "
        f"graph {figures['graph_s']} s, file {figures['file_mb']} MB, peak memory {figures['peak_memory_mb']} MB, "
        f"a question embedded in {figures['question_ms']} ms"
    )
    print("| search | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|")
    for name, times in figures["searches"].items():
        print(f"| {name} | {times['p50']:.1f} | {times['p95']:.1f} | {times['p99']:.1f} |")


if __name__ == "__main__":
    main()
