"""A search index in Qdrant, for more windows than one file should hold. Any number of workers may fill it.

A window is a point with its vector, and with its words as a sparse vector of ones. Qdrant weights these by inverse
document frequency over the collection, so the product with a question's words is the weight of their common words, as
in `words.by_weight`. A point without vectors holds the version of each call's newest transcript, so that repeated and
late updates change nothing.

`model` is part of the collection's name: vectors of two models never mix.
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx
import msgspec
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from schemas.calls import CallRef
from stages.adapters.embedding import Vectors
from stages.errors import StageError
from stages.index.ranking import CANDIDATES, Filters, Hit, Update, fused, without_outdated
from stages.index.windows import Window
from stages.index.words import LEAST_COVERED, by_weight, idf, stems

TIMEOUT_S: Final = 60
SEARCH_EF: Final = 128
"""Candidates that a search of the HNSW graph keeps, see `benchmarks.search`."""

_MEANING: Final = "meaning"
_WORDS: Final = "words"
_FIELDS: Final = {
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "call_id": models.PayloadSchemaType.KEYWORD,
    "agent": models.PayloadSchemaType.KEYWORD,
    "started_at": models.PayloadSchemaType.FLOAT,
}


class QdrantIndex:
    """See `SearchIndex`. Thread-safe.

    An update is no single transaction in Qdrant. After an error a part of it may be stored; repeating the update
    completes it.
    """

    def __init__(
        self, url: str, *, model: str, dimensions: int, api_key: str | None = None, client: Any = None
    ) -> None:
        """Connects on first use. `client` is for tests."""
        self.url = url
        self.collection = _collection(model)
        self._dimensions = dimensions
        self._client: Any = client or QdrantClient(
            url=url, api_key=api_key, timeout=TIMEOUT_S, check_compatibility=False
        )
        self._making = threading.Lock()
        self._made = False
        self._seen = False

    def close(self) -> None:
        self._client.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    def update(self, updates: Sequence[Update]) -> None:
        """See `SearchIndex.update`. Raises StageError if Qdrant does not accept it."""
        with self._asking():
            self._make()
            known = self._newest({update.call for update in updates})
            wanted = [one for one in without_outdated(updates) if one.version >= known.get(one.call, one.version)]
            last = {(one.call, one.part): one for one in wanted}
            entries = {
                window.window_id: (window, vector)
                for one in wanted
                if one.part == 0 or one is last[one.call, one.part]
                for window, vector in zip(one.windows, one.vectors, strict=True)
            }
            newest = {one.call: one.version for one in wanted}
            parts: dict[CallRef, set[int]] = {}
            for call, part in last:
                parts.setdefault(call, set()).add(part)
            gone = [_replaced(call, *newest[call], parts=parts[call]) for call in newest if call in known]
            if newest:
                self._write(gone, [*entries.values()])
                self._upsert([_marker(call, *newest[call]) for call in newest])

    def _newest(self, calls: set[CallRef]) -> dict[CallRef, tuple[int, bool]]:
        ids = {_marker_id(call): call for call in calls}
        points = self._client.retrieve(self.collection, ids=list(ids), with_payload=True)
        return {ids[str(point.id)]: (point.payload["newest"], point.payload["complete"]) for point in points}

    def _write(self, gone: Sequence[models.Filter], entries: Sequence[tuple[Window, Any]]) -> None:
        if gone:
            operations = [models.DeleteOperation(delete=models.FilterSelector(filter=one)) for one in gone]
            self._client.batch_update_points(self.collection, update_operations=operations, wait=True)
        self._upsert(
            [
                models.PointStruct(
                    id=window.window_id,
                    vector={_MEANING: vector.tolist(), _WORDS: _sparse(stems(window.text))},
                    payload=_payload(window),
                )
                for window, vector in entries
            ]
        )

    def _upsert(self, points: Sequence[models.PointStruct]) -> None:
        for at in range(0, len(points), 1000):
            self._client.upsert(self.collection, points=list(points[at : at + 1000]), wait=True)

    def forget(self, call: CallRef) -> None:
        """Delete all windows of the call. Raises StageError."""
        with self._asking():
            self._make()
            self._client.delete(
                self.collection,
                points_selector=models.FilterSelector(filter=models.Filter(must=_of_call(call))),
                wait=True,
            )
            self._client.delete(
                self.collection, points_selector=models.PointIdsList(points=[_marker_id(call)]), wait=True
            )

    def is_empty(self) -> bool:
        """Return True if nothing was stored yet. Raises StageError."""
        with self._asking():
            return not (self._exists() and self._client.count(self.collection, exact=False).count)

    def count(self) -> int:
        """Return the number of windows. Raises StageError."""
        with self._asking():
            if not self._exists():
                return 0
            windows = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="call_id"))])
            found: int = self._client.count(self.collection, count_filter=windows, exact=True).count
            return found

    def _make(self) -> None:
        with self._making:
            if self._made:
                return
            if not self._client.collection_exists(self.collection):
                try:
                    self._client.create_collection(
                        self.collection,
                        vectors_config={
                            _MEANING: models.VectorParams(size=self._dimensions, distance=models.Distance.COSINE)
                        },
                        sparse_vectors_config={_WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                    )
                except ApiException:
                    if not self._client.collection_exists(self.collection):  # else another worker was faster
                        raise
            for name, schema in _FIELDS.items():
                self._client.create_payload_index(self.collection, name, field_schema=schema, wait=True)
            self._made = True

    def _exists(self) -> bool:
        self._seen = self._seen or bool(self._client.collection_exists(self.collection))
        return self._seen

    # -- reading -----------------------------------------------------------------------------------------------------

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        """See `Searcher.search`. A collection that does not exist yet is empty. Raises StageError."""
        with self._asking():
            if not self._exists():
                return []
            wanted = _filter(filters)
            asked = stems(words)
            near, *rarest = self._client.query_batch_points(
                self.collection,
                requests=[self._near(vector, wanted), *map(_with_word, asked)],
            )
            # The product of a word with a window that contains it is the word's weight.
            weights = [response.points[0].score if response.points else None for response in rarest]
            rankings = [_ids(near), *self._worded(asked, weights, wanted)]
            best = fused(rankings)[:limit]
            if not best:
                return []
            ids: list[Any] = [window_id for window_id, _ in best]
            found = self._client.query_points(
                self.collection,
                query=vector.tolist(),
                using=_MEANING,
                query_filter=models.Filter(must=[models.HasIdCondition(has_id=ids)]),
                search_params=models.SearchParams(exact=True),
                limit=len(ids),
                with_payload=True,
            )
        points = {str(point.id): point for point in found.points}
        return [
            Hit(window=_window(points[window_id]), score=score, similarity=points[window_id].score)
            for window_id, score in best
            if window_id in points
        ]

    def _near(self, vector: Vectors, wanted: models.Filter | None) -> models.QueryRequest:
        return models.QueryRequest(
            query=vector.tolist(),
            using=_MEANING,
            filter=wanted,
            params=models.SearchParams(hnsw_ef=SEARCH_EF),
            limit=CANDIDATES,
            with_payload=False,
        )

    def _worded(
        self, asked: Sequence[str], weights: Sequence[float | None], wanted: models.Filter | None
    ) -> list[list[str]]:
        known = [weight for weight in weights if weight is not None]
        if not known:
            return []
        whole = sum(known)
        if len(known) < len(weights):
            unknown = idf(self._client.count(self.collection, exact=False).count, 0)
            whole += unknown * (len(weights) - len(known))
        if sum(known) < LEAST_COVERED * whole:
            return []
        found = self._client.query_points(
            self.collection,
            query=_sparse([stem for stem, weight in zip(asked, weights, strict=True) if weight is not None]),
            using=_WORDS,
            query_filter=wanted,
            score_threshold=LEAST_COVERED * whole,
            limit=CANDIDATES,
            with_payload=False,
        )
        return by_weight([(str(point.id), point.score) for point in found.points], whole)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (ApiException, httpx.HTTPError, OSError) as error:
            self._made = self._seen = False  # the operator may have dropped the collection
            said = " ".join(str(error).split()) or type(error).__name__
            raise StageError(f"Qdrant at {self.url} failed: {said[:300]}") from error


def _collection(model: str) -> str:
    """Return the collection's name: valid in Qdrant, and different for each model."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", model)
    return f"callstream-{plain}" if plain == model else f"callstream-{plain}-{_digest(model, 4).hex()}"


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _sparse(words: Sequence[str]) -> models.SparseVector:
    """Return words as a vector of ones, indexed by a 32-bit hash: a collision or so in a hundred thousand words."""
    numbers = sorted({int.from_bytes(_digest(word, 4), "big") for word in words})
    return models.SparseVector(indices=numbers, values=[1.0] * len(numbers))


def _with_word(stem: str) -> models.QueryRequest:
    return models.QueryRequest(query=_sparse([stem]), using=_WORDS, limit=1, with_payload=False)


def _payload(window: Window) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.to_builtins(window)
    del payload["window_id"]
    return payload


def _window(point: Any) -> Window:
    return msgspec.convert({**point.payload, "window_id": str(point.id)}, Window, strict=False)


def _ids(response: Any) -> list[str]:
    return [str(point.id) for point in response.points]


def _marker_id(call: CallRef) -> str:
    return str(call.derived_id("newest"))


def _marker(call: CallRef, revision: int, complete: bool) -> models.PointStruct:
    return models.PointStruct(
        id=_marker_id(call), vector={}, payload={"of": call.key, "newest": revision, "complete": complete}
    )


def _of_call(call: CallRef) -> list[Any]:
    return [_is("tenant", call.tenant), _is("call_id", call.call_id)]


def _replaced(call: CallRef, revision: int, complete: bool, *, parts: set[int]) -> models.Filter:
    """Return a filter for the windows of the call that an update replaces."""
    older = models.FieldCondition(key="revision", range=models.Range(lt=revision))
    gone = sorted({0, *parts}) if complete else []
    same = models.FieldCondition(key="part", match=models.MatchAny(any=gone))
    return models.Filter(must=_of_call(call), should=[older, same] if gone else [older])


def _is(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _filter(filters: Filters) -> models.Filter | None:
    if not filters:
        return None
    given = (("tenant", filters.tenant), ("agent", filters.agent), ("call_id", filters.call_id))
    must: list[Any] = [_is(key, value) for key, value in given if value is not None]
    if filters.since is not None or filters.until is not None:
        must.append(models.FieldCondition(key="started_at", range=models.Range(gte=filters.since, lt=filters.until)))
    return models.Filter(must=must)
