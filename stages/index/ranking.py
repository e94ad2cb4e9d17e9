"""What a search index is, seen from who fills it and who asks it, and how rankings are fused."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from schemas.calls import CallRef
from stages.adapters.embedding import Vectors
from stages.index.windows import Window

CANDIDATES: Final = 50
"""How many of each ranking go into the fused one."""
RRF_K: Final = 60
"""The constant of reciprocal rank fusion, as in Cormack, Clarke and Büttcher, SIGIR 2009."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a window must be to count at all; None is no condition. Times are Unix seconds of the call's start."""

    tenant: str | None = None
    since: float | None = None
    until: float | None = None
    agent: str | None = None
    call_id: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in msgspec.structs.astuple(self))


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A window that was found. `similarity` is the cosine to the question's vector, `score` what orders the hits."""

    window: Window
    score: float
    similarity: float


class RecordWindows(msgspec.Struct, frozen=True):
    """The windows of one record: of a turn of a call that goes on (part 0), or a part of a completed transcript."""

    call: CallRef
    revision: int
    part: int
    windows: list[Window]

    @property
    def version(self) -> tuple[int, bool]:
        """What orders the records of a call: one that is greater replaces those before it."""
        return self.revision, self.part > 0


class Update(RecordWindows, frozen=True):
    """New windows of one call, with their vectors. They replace what is there of the call from older revisions and,
    of the same one, from the same part; a completed transcript (part 1 and higher) also replaces part 0.
    """

    vectors: Vectors


AnyRecordWindows = TypeVar("AnyRecordWindows", bound=RecordWindows)


def without_outdated(records: Sequence[AnyRecordWindows]) -> list[AnyRecordWindows]:
    """Without those that others among them, of the same call and a greater standing, replace."""
    newest: dict[CallRef, tuple[int, bool]] = {}
    for record in records:
        newest[record.call] = max(newest.get(record.call, record.version), record.version)
    return [record for record in records if record.version == newest[record.call]]


class Searcher(Protocol):
    """What can be asked. Blocks."""

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        """The best windows for a question of shape (dimensions,), unit length, and the words in it.

        Filters apply before anything is ranked.
        """
        ...


class SearchIndex(Searcher, Protocol):
    """Windows of calls and their vectors. Blocks; filled from one thread at a time."""

    def update(self, updates: Sequence[Update]) -> None:
        """All of it durably, or an error. The same updates again change nothing, and mend what an error left."""
        ...

    def count(self) -> int:
        """How many windows there are."""
        ...

    def close(self) -> None: ...


def fused(rankings: Sequence[Sequence[str]]) -> list[tuple[str, float]]:
    """Reciprocal rank fusion: the ids of several rankings, the best first, each with its score."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, window_id in enumerate(ranking, start=1):
            scores[window_id] = scores.get(window_id, 0.0) + 1.0 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
