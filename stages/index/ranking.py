"""The interface of a search index, for indexing and for searching, and the fusion of rankings."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from schemas.calls import CallRef
from stages.adapters.embedding import Vectors
from stages.index.windows import Window

CANDIDATES: Final = 50
"""Windows of each ranking that are fused."""
RRF_K: Final = 60
"""The constant of reciprocal rank fusion, as in Cormack, Clarke and Büttcher, SIGIR 2009."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on windows; None is no condition. `since` and `until` are Unix seconds of the call's start."""

    tenant: str | None = None
    since: float | None = None
    until: float | None = None
    agent: str | None = None
    call_id: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in msgspec.structs.astuple(self))


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A window found by a search. `similarity` is its cosine to the question; hits are ordered by `score`."""

    window: Window
    score: float
    similarity: float


class RecordWindows(msgspec.Struct, frozen=True):
    """The windows of one record: a turn of a call in progress (part 0), or a part of a completed transcript."""

    call: CallRef
    revision: int
    part: int
    windows: list[Window]

    @property
    def version(self) -> tuple[int, bool]:
        """Orders the records of a call: a record replaces all with a lower version."""
        return self.revision, self.part > 0


class Update(RecordWindows, frozen=True):
    """New windows of one call, with their vectors, shape (windows, dimensions).

    They replace the call's windows of older revisions and, of the same revision, those of the same part. A completed
    transcript (part 1 and higher) also replaces part 0.
    """

    vectors: Vectors


AnyRecordWindows = TypeVar("AnyRecordWindows", bound=RecordWindows)


def without_outdated(records: Sequence[AnyRecordWindows]) -> list[AnyRecordWindows]:
    """Return the records without those that another record of the same call replaces."""
    newest: dict[CallRef, tuple[int, bool]] = {}
    for record in records:
        newest[record.call] = max(newest.get(record.call, record.version), record.version)
    return [record for record in records if record.version == newest[record.call]]


class Searcher(Protocol):
    """Searches an index. Blocks."""

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        """Return the best windows for a question.

        Args:
            vector: the question's embedding, shape (dimensions,), unit length.
            words: the question's text.
            filters: applied before windows are ranked.
            limit: most windows to return.
        """
        ...


class SearchIndex(Searcher, Protocol):
    """Stores windows and their vectors. Blocks. One thread at a time may write."""

    def update(self, updates: Sequence[Update]) -> None:
        """Store all updates durably, or raise. Repeating them changes nothing, or completes them after an error."""
        ...

    def count(self) -> int:
        """Return the number of windows."""
        ...

    def close(self) -> None: ...


def fused(rankings: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
    """Fuse rankings by reciprocal rank. Returns (id, score), the best first."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, window_id in enumerate(ranking, start=1):
            scores[window_id] = scores.get(window_id, 0.0) + 1.0 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
