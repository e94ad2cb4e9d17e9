"""Search over calls: quality and speed.

    python -m benchmarks.search [--calls 210] [--windows 100000] [--qdrant URL] [--json FILE]

Quality: calls from our own sentences; 105 of them state one fact that a question asks for in other words. Each fact is
also searched by the three rarest words of its statement, as a user would who remembers them. For vectors alone, words
alone and both fused, the table shows how often the right call is first and among the first five. Then the similarity of
the best window for questions that a call answers, and for questions that none answers.

Speed: an index of many windows, built as in a deployment. The texts are sentences of the same scripts; the vectors are
those of some thousand windows, each moved a little at random, because computing so many takes an hour on two cores.
Searches are timed from the question's vector to the hits; the embedding of a question is timed separately. Recall is
the share of the 10 and of the 50 nearest windows that a search by vectors alone finds.

With `--qdrant` the index is in a Qdrant server and is deleted afterwards. The server's own memory is not measured.

What it does not show: users' own questions, calls as a transcriber writes them.
"""

import argparse
import contextlib
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import httpx
import msgspec
import numpy as np

from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.search.corpus import Asked, corpus
from pipeline.settings import DEFAULT_EMBEDDING_MODEL
from pipeline.wiring.weights import embedding_weights
from schemas.calls import CallRef
from schemas.transcripts import Turn
from stages.adapters.embedding import Embedder, SentenceEmbedder, Vectors
from stages.index import queries
from stages.index.ranking import CANDIDATES, Filters, SearchIndex, Update, fused
from stages.index.store import WindowStore
from stages.index.windows import MAX_WORDS, windows_of

if TYPE_CHECKING:
    from stages.index.qdrant import QdrantIndex

SEED: Final = 1
SEARCHES: Final = 200
PER_CALL: Final = 10
PER_UPDATE: Final = 500
TENANTS: Final = 20
_EVERYTHING: Final = Filters()
_KINDS: Final = ("in other words", "by three of its words")


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("search", __doc__)
    made.add_argument("--calls", type=int, default=210, help="calls for quality; 0 for none (210)")
    made.add_argument("--windows", type=int, default=100_000, help="windows for speed; 0 for none (100000)")
    made.add_argument("--window-words", type=int, default=MAX_WORDS, help="most words of a window")
    made.add_argument("--model", default=DEFAULT_EMBEDDING_MODEL, help=f"embedding model ({DEFAULT_EMBEDDING_MODEL})")
    made.add_argument("--qdrant", metavar="URL", help="Qdrant server to measure instead of DuckDB")
    made.add_argument("--seed", type=int, default=SEED, help=f"seed of calls and windows ({SEED})")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    embedder = SentenceEmbedder(embedding_weights(given.model), name=given.model)
    figures: dict[str, Any] = {"model": given.model, "window_words": given.window_words}
    if given.calls:
        figures["finding"] = finding(
            embedder, *corpus(seed=given.seed, calls=given.calls), given.qdrant, max_words=given.window_words
        )
        _show_finding(figures["finding"])
    if given.windows:
        measured = Corpus(embedder, given.windows, given.seed, max_words=given.window_words)
        figures["speed"] = speed(measured) if given.qdrant is None else speed_of_qdrant(measured, given.qdrant)
        _show_speed(figures["speed"])
    asked = {"calls": given.calls, "windows": given.windows, "seed": given.seed}
    write_report("search", figures, given.json, given=asked, runs=1)
    return 0


def finding(
    embedder: Embedder, calls: dict[CallRef, list[Turn]], asked: Sequence[Asked], url: str | None, *, max_words: int
) -> Any:
    with tempfile.TemporaryDirectory() as folder, _index(embedder, Path(folder), url) as index:
        call_of: dict[str, str] = {}
        for call, turns in calls.items():
            found = windows_of(turns, revision=1, part=1, agent="", started_at=0.0, max_words=max_words)
            call_of |= {window.window_id: call.call_id for window in found}
            index.update([Update(call, 1, 1, found, embedder.passages([window.spoken_text for window in found]))])
        ranks: dict[str, dict[str, list[int]]] = {kind: defaultdict(list) for kind in _KINDS}
        answerable: list[float] = []
        unanswerable: list[float] = []
        for one in asked:
            [vector] = embedder.questions([one.question])
            hits = index.search(vector, one.question, _EVERYTHING, limit=CANDIDATES)
            best = max((hit.similarity for hit in hits), default=0.0)
            if one.call is None:
                unanswerable.append(best)
                continue
            answerable.append(best)
            for kind, text in zip(_KINDS, (one.question, one.words), strict=True):
                for by, ids in _rankings(index, embedder, text).items():
                    ordered = list(dict.fromkeys(call_of[window_id] for window_id in ids))
                    ranks[kind][by].append(_rank(ordered, one.call.call_id))
    return {
        "calls": len(calls),
        "windows": len(call_of),
        "questions": len(answerable),
        "unanswerable": len(unanswerable),
        "found": {kind: {by: _found(found) for by, found in each.items()} for kind, each in ranks.items()},
        "similarity": {
            "answerable": _percentiles(answerable, (1, 5, 10, 50)),
            "unanswerable": _percentiles(unanswerable, (50, 90, 100)),
        },
    }


@contextlib.contextmanager
def _index(embedder: Embedder, folder: Path, url: str | None) -> "Iterator[WindowStore | QdrantIndex]":
    if url is not None:
        with _in_qdrant(embedder, url) as index:
            yield index
        return
    with contextlib.closing(WindowStore(folder, model=embedder.name, dimensions=embedder.dimensions)) as store:
        yield store


@contextlib.contextmanager
def _in_qdrant(embedder: Embedder, url: str) -> "Iterator[QdrantIndex]":
    """Yield an index in a new collection, which is deleted afterwards."""
    from stages.index.qdrant import QdrantIndex

    name = f"benchmark-{uuid4().hex}"
    with contextlib.closing(QdrantIndex(url, model=name, dimensions=embedder.dimensions)) as index:
        try:
            yield index
        finally:
            httpx.delete(f"{url}/collections/{index.collection}", timeout=600)


def _rankings(index: "WindowStore | QdrantIndex", embedder: Embedder, text: str) -> dict[str, list[str]]:
    [vector] = embedder.questions([text])
    fusions: dict[str, list[str]] = {}
    if isinstance(index, WindowStore):
        connection = index.connection

        def run(sql: str) -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
            return found

        fusions["vectors"] = queries.near(run, queries.literal_vector(vector), _EVERYTHING)
        fusions["words"] = [one for one, _ in fused(queries.worded(run, text, _EVERYTHING))]
    hits = index.search(vector, text, _EVERYTHING, limit=3 * CANDIDATES)
    return {**fusions, "both": [hit.window.window_id for hit in hits]}


def _rank(calls: Sequence[str], right: str) -> int:
    """Return the rank from 1; 0 if the right call was not found."""
    return calls.index(right) + 1 if right in calls else 0


def _found(ranks: Sequence[int]) -> dict[str, float]:
    n = len(ranks)
    return {
        "recall_1": round(sum(rank == 1 for rank in ranks) / n, 3),
        "recall_5": round(sum(1 <= rank <= 5 for rank in ranks) / n, 3),
        "mrr": round(sum(1 / rank for rank in ranks if rank) / n, 3),
    }


class Corpus:
    """Many windows, and questions about them."""

    def __init__(self, embedder: Embedder, n_windows: int, seed: int, *, max_words: int) -> None:
        calls, asked = corpus(seed=seed, calls=210)
        self.embedder = embedder
        self.n_windows = n_windows
        self.questions = [one.question for one in asked]
        self._chance = np.random.default_rng(seed)
        self._real = [
            window
            for turns in calls.values()
            for window in windows_of(turns, revision=1, part=1, agent="", started_at=0.0, max_words=max_words)
        ]
        self._real_vectors = embedder.passages([window.spoken_text for window in self._real])
        self._made: list[Vectors] = []
        self._ids: list[str] = []

    def fill(self, index: SearchIndex) -> float:
        """Store all windows. Returns the seconds that the index took."""
        stored_s, told = 0.0, 0
        for first in range(0, self.n_windows, PER_UPDATE):
            updates = [
                self._call(number)
                for number in range(first // PER_CALL, min(self.n_windows, first + PER_UPDATE) // PER_CALL)
            ]
            began = time.monotonic()
            index.update(updates)
            stored_s += time.monotonic() - began
            if (done := first + PER_UPDATE) // 50_000 > told:
                told = done // 50_000
                print(f"{done} of {self.n_windows} windows stored in {stored_s:.0f} s", file=sys.stderr, flush=True)
        return stored_s

    def _call(self, number: int) -> Update:
        """Return a call of `PER_CALL` windows drawn from the real ones."""
        call = CallRef(f"tenant-{number % TENANTS}", f"call-{number}")
        drawn = self._chance.integers(len(self._real), size=PER_CALL)
        noise = self._chance.normal(0, 0.02, (PER_CALL, self._real_vectors.shape[1])).astype(np.float32)
        moved = self._real_vectors[drawn] + noise
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        made = [
            msgspec.structs.replace(
                self._real[index],
                window_id=str(call.derived_id("window", position)),
                tenant=call.tenant,
                call_id=call.call_id,
                started_at=float(number),
                text=f"{self._real[index].text}\ncustomer: My number is {number * PER_CALL + position}.",
            )
            for position, index in enumerate(drawn.tolist())
        ]
        self._made.append(moved.astype(np.float16))
        self._ids += [window.window_id for window in made]
        return Update(call, 1, 1, made, moved)

    def searched(self, index: SearchIndex) -> dict[str, Any]:
        """Return the times of searches and their recall."""
        half = Filters(since=self.n_windows / PER_CALL / 2)
        kinds: dict[str, Callable[[int], Filters]] = {
            "everything": lambda _n: _EVERYTHING,
            "of one tenant": lambda n: Filters(tenant=f"tenant-{n % TENANTS}"),
            "of half of the time": lambda _n: half,
            "of one call": lambda n: Filters(tenant=f"tenant-{n % TENANTS}", call_id=f"call-{n}"),
        }
        vectors = self.embedder.questions(self.questions)
        timed = {name: self._timed(index, vectors, filters) for name, filters in kinds.items()}
        began = time.monotonic()
        for question in self.questions[:20]:
            self.embedder.questions([question])
        question_ms = 1000 * (time.monotonic() - began) / 20
        return {"searches": timed, "recall": self._recall(index, vectors[:50]), "question_ms": round(question_ms, 1)}

    def _timed(self, index: SearchIndex, vectors: Vectors, filters: Callable[[int], Filters]) -> dict[str, float]:
        times_ms: list[float] = []
        for number in range(SEARCHES):
            asked = number % len(self.questions)
            began = time.perf_counter()
            index.search(vectors[asked], self.questions[asked], filters(number), limit=10)
            times_ms.append(1000 * (time.perf_counter() - began))
        return _percentiles(times_ms, (50, 95, 99))

    def _recall(self, index: SearchIndex, vectors: Vectors) -> dict[str, float]:
        similarities = np.concatenate([vectors @ made.astype(np.float32).T for made in _joined(self._made)], axis=1)
        found: dict[int, list[float]] = {10: [], CANDIDATES: []}
        for vector, each in zip(vectors, similarities, strict=True):
            hits = [hit.window.window_id for hit in index.search(vector, "", _EVERYTHING, limit=CANDIDATES)]
            nearest = [self._ids[at] for at in np.argsort(-each)[:CANDIDATES]]
            for n, recalls in found.items():
                recalls.append(len({*hits[:n]} & {*nearest[:n]}) / n)
        return {f"at_{n}": round(float(np.mean(recalls)), 3) for n, recalls in found.items()}


def _joined(parts: Sequence[Vectors], n: int = 1000) -> Iterator[Vectors]:
    for at in range(0, len(parts), n):
        yield np.concatenate(parts[at : at + n])


def speed(measured: Corpus) -> dict[str, Any]:
    embedder = measured.embedder
    with tempfile.TemporaryDirectory() as folder:
        store = WindowStore(Path(folder), model=embedder.name, dimensions=embedder.dimensions)
        stored_s = measured.fill(store)
        store.close()
        began = time.monotonic()
        store = WindowStore(Path(folder), model=embedder.name, dimensions=embedder.dimensions)
        opened_s = time.monotonic() - began
        store.until_built()
        graph_s = time.monotonic() - began
        searched = measured.searched(store)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        store.close()
    return {
        "index": "DuckDB",
        "windows": measured.n_windows,
        "stored_s": round(stored_s, 1),
        "text_index_s": round(opened_s, 1),
        "graph_s": round(graph_s - opened_s, 1),
        "file_mb": round(size / 1e6),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        **searched,
    }


def speed_of_qdrant(measured: Corpus, url: str) -> dict[str, Any]:
    with _in_qdrant(measured.embedder, url) as index:
        began = time.monotonic()
        stored_s = measured.fill(index)
        collection = f"{url}/collections/{index.collection}"
        while _json(collection)["result"]["status"] != "green":
            time.sleep(1)
        built_s = time.monotonic() - began
        return {
            "index": f"Qdrant {_json(url)['version']}",
            "windows": measured.n_windows,
            "stored_s": round(stored_s, 1),
            "graph_s": round(built_s - stored_s, 1),
            **measured.searched(index),
        }


def _json(url: str) -> dict[str, Any]:
    answered: dict[str, Any] = httpx.get(url, timeout=60).json()
    return answered


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
    searches = figures["searches"]
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items() if name != "searches"))
    print("| search | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|")
    for name, times in searches.items():
        print(f"| {name} | {times['p50']:.1f} | {times['p95']:.1f} | {times['p99']:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
