"""The DuckDB search index beyond the common contract (tests/contract): real files, real `vss` and `fts`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.client.warehouse import remote_reader
from pipeline.errors import InputError
from stages.adapters.duckdb_file.quack import free_port
from stages.errors import MachineFailure, StageError
from stages.index import queries
from stages.index.ranking import Filters, Hit, fused
from stages.index.store import WindowStore
from tests.support.processes.disks import files_may_not_grow
from tests.unit.stages.index.windows import DIMENSIONS, call, crowded, unit, update, window

EVERYTHING = Filters()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WindowStore]:
    opened = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    yield opened
    opened.close()


def texts(hits: list[Hit]) -> list[str]:
    return [hit.window.text for hit in hits]


def test_filters_apply_before_anything_is_ranked_where_there_is_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "EXACT_BELOW", 1_000)
    store = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    store.update(crowded(unit(-1), unit(1)))
    store.until_built()
    assert {hit.window.tenant for hit in store.search(unit(1), "", Filters(tenant="small"), limit=40)} == {"small"}
    assert {hit.window.tenant for hit in store.search(unit(1), "", EVERYTHING, limit=40)} == {"other"}
    store.close()


def test_words_that_came_after_the_text_index_was_built_are_found_at_once(store: WindowStore) -> None:
    store.update([update([window(call(number), f"old text {number}")], [unit(1)]) for number in range(300)])
    store.update([update([window(call(900), "a kangaroo in the garden")], [unit(-1)])])
    upto = store.connection.execute("SELECT upto FROM text_index").fetchone()[0]
    newest = store.connection.execute("SELECT max(number) FROM windows").fetchone()[0]
    assert 0 < upto < newest
    assert texts(store.search(unit(0, 1), "kangaroos", EVERYTHING, limit=60))[0] == "a kangaroo in the garden"


def test_an_index_that_is_served_takes_as_many_windows_as_come(store: WindowStore) -> None:
    """The text index is rebuilt on the way, and searched by other processes."""
    url = store.serve("0" * 32, free_port())
    for number in range(3):
        windows = [window(call(number), f"bill number {n}", number=n) for n in range(300)]
        store.update([update(windows, [unit(1)] * 300)])
        [(upto,)] = store.connection.execute("SELECT max(upto) FROM text_index").fetchall()
        assert upto >= number * 300
    with contextlib.closing(remote_reader(url, "0" * 32)) as reader:
        found = queries.search(
            lambda sql: reader.query(sql)[1], unit(1), "number 299", Filters(call_id="call-2"), limit=1
        )
        assert texts(found) == ["bill number 299"]
        with pytest.raises(InputError):
            reader.query("SET threads = 1")


def test_an_index_recovers_from_a_full_disk_at_a_checkpoint(
    store: WindowStore,
) -> None:
    store.connection.execute("SET wal_autocheckpoint = '1KB'")
    token, port = "0" * 32, free_port()
    url = store.serve(token, port)
    store.update([update([window(call(1), "before")], [unit(1)])])
    many = [update([window(call(n), f"call {n} " + "word " * 50)], [unit(n)]) for n in range(2, 150)]
    with files_may_not_grow(store.path), pytest.raises(MachineFailure):
        store.update(many)
    store.update([*many, update([window(call(200), "behind")], [unit(1)])])
    assert store.count() == 150
    with contextlib.closing(remote_reader(url, token)) as reader:
        assert reader.query("SELECT count(*) FROM windows")[1] == [(150,)]


@pytest.mark.parametrize("word", ["money", "reply", "delay", "carry", "happy", "fifty", "rating", "invoice", "tea"])
def test_a_fresh_word_that_does_not_begin_with_its_stem_is_found(word: str, store: WindowStore) -> None:
    store.update([update([window(call(1), f"customer: about the {word} again")], [unit(1)])])
    store.update([update([window(call(2), "agent: good morning")], [unit(1)])])
    [hit, other] = store.search(unit(1), word, EVERYTHING, limit=2)
    assert word in hit.window.text
    assert hit.score > other.score + 0.01  # found by the words too, not only by the vectors


def test_stored_windows_survive_reopening_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "EXACT_BELOW", 100)
    store = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    store.update([update([window(call(n), f"call {n}")], [unit(n + 1, 1)]) for n in range(150)])
    before = store.search(unit(3, 1), "call", EVERYTHING, limit=5)
    store.close()
    again = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    again.until_built()
    assert again.connection.execute("SELECT count(*) FROM graph.newest").fetchone() == (1,)
    assert {hit.window.text for hit in again.search(unit(3, 1), "call", EVERYTHING, limit=5)} == {
        hit.window.text for hit in before
    }
    again.close()


def test_the_graph_follows_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "EXACT_BELOW", 100)
    store = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    store.update([update([window(call(n), f"call {n}")], [unit(1, n / 1e3)]) for n in range(150)])
    store.until_built()
    store.update([update([window(call(7), "call 7 again", revision=2)], [unit(-1)])])
    store.update([update([window(call(500), "another")], [unit(-1, 0.01)])])
    assert {*texts(store.search(unit(-1), "", EVERYTHING, limit=2))} == {"call 7 again", "another"}
    store.close()


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS).close()
    with pytest.raises(StageError, match=r"made with the embedding model made up, and this is other: .*--rebuild"):
        WindowStore(tmp_path, model="other", dimensions=DIMENSIONS)


def test_a_window_first_in_two_rankings_is_first_when_they_are_fused() -> None:
    assert [one for one, _ in fused([["a", "b", "c"], ["d", "b"]])] == ["b", "a", "d", "c"]
    assert fused([["a"]]) == [("a", 1 / 61)]
