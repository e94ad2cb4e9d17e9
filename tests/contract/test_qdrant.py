"""Qdrant while it is away, killed, or filled by two workers at once."""

import contextlib
import threading
from pathlib import Path

import httpx
import pytest

from stages.adapters.duckdb_file.quack import free_port
from stages.errors import StageError
from stages.index.qdrant import QdrantIndex
from stages.index.ranking import Filters
from tests.support.processes.qdrant import QdrantServer
from tests.unit.stages.index.windows import DIMENSIONS, call, unit, update, window

pytestmark = pytest.mark.qdrant

EVERYTHING = Filters()


def opened(url: str, model: str = "made up") -> "contextlib.closing[QdrantIndex]":
    return contextlib.closing(QdrantIndex(url, model=model, dimensions=DIMENSIONS))


def test_a_server_that_is_away_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with opened(url) as index:
        for asking in (
            lambda: index.search(unit(1), "bill", EVERYTHING, limit=1),
            lambda: index.update([update([window(call(1), "bill")], [unit(1)])]),
            index.count,
        ):
            with pytest.raises(StageError, match=f"Qdrant at {url}"):
                asking()


def test_accepted_windows_survive_a_kill(tmp_path: Path) -> None:
    with QdrantServer(tmp_path) as server, opened(server.url) as index:
        for number in range(300):
            index.update([update([window(call(number), f"call number {number}")], [unit(number + 1, 1)])])
        server.stop()
        with pytest.raises(StageError):
            index.update([update([window(call(300), "call number 300")], [unit(1)])])
        server.start()
        index.update([update([window(call(300), "call number 300")], [unit(1)])])
        assert index.count() == 301
        for number in range(301):
            [hit] = index.search(unit(1), f"number {number}", Filters(call_id=f"call-{number}"), limit=1)
            assert hit.window.text == f"call number {number}"


def test_a_deleted_collection_is_recreated(qdrant_server: QdrantServer) -> None:
    with opened(qdrant_server.url, "thrown away") as index:
        index.update([update([window(call(1), "before")], [unit(1)])])
        assert not index.is_empty()
        httpx.delete(f"{qdrant_server.url}/collections/{index.collection}")
        with pytest.raises(StageError, match="404"):
            index.search(unit(1), "before", EVERYTHING, limit=1)
        assert index.search(unit(1), "before", EVERYTHING, limit=1) == []
        assert index.is_empty()
        index.update([update([window(call(1), "behind")], [unit(1)])])
        assert [hit.window.text for hit in index.search(unit(1), "", EVERYTHING, limit=9)] == ["behind"]


def test_two_workers_create_and_fill_the_collection(qdrant_server: QdrantServer) -> None:
    failed: list[Exception] = []

    def fill(first: int) -> None:
        try:
            with opened(qdrant_server.url, "two at once") as index:
                for number in range(first, first + 20):
                    index.update([update([window(call(number), f"call {number}")], [unit(1)])])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with opened(qdrant_server.url, "two at once") as index:
        assert index.count() == 40


def test_two_models_never_meet_and_a_call_is_forgotten(qdrant_server: QdrantServer) -> None:
    with opened(qdrant_server.url, "/models/one") as one, opened(qdrant_server.url, "_models_one") as other:
        one.update([update([window(call(n), f"call {n}")], [unit(1)]) for n in range(2)])
        assert (one.count(), other.count()) == (2, 0)
        one.forget(call(0))
        assert [hit.window.text for hit in one.search(unit(1), "call", EVERYTHING, limit=9)] == ["call 1"]
        one.update([update([window(call(0), "call 0")], [unit(1)])])
        assert one.count() == 2
