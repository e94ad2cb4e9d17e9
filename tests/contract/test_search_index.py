"""The contract of a search index, in DuckDB and in Qdrant."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from stages.index.qdrant import QdrantIndex
from stages.index.ranking import Filters, Hit, SearchIndex, Update
from stages.index.store import WindowStore
from tests.support.processes.qdrant import QdrantServer
from tests.unit.stages.index.windows import DIMENSIONS, call, crowded, unit, update, window

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode:UserWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]

EVERYTHING = Filters()


@pytest.fixture(params=["duckdb", "qdrant's client alone", pytest.param("qdrant", marks=pytest.mark.qdrant)])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SearchIndex]:
    """Qdrant's client imitates the server, except its graph and its crashes: those need a real one."""
    opened: WindowStore | QdrantIndex
    if request.param == "duckdb":
        opened = WindowStore(tmp_path, model="made up", dimensions=DIMENSIONS)
    elif request.param == "qdrant":
        server: QdrantServer = request.getfixturevalue("qdrant_server")
        opened = QdrantIndex(server.url, model=tmp_path.name, dimensions=DIMENSIONS)
    else:
        opened = QdrantIndex("memory", model="made up", dimensions=DIMENSIONS, client=QdrantClient(":memory:"))
    with contextlib.closing(opened):
        yield opened


def texts(hits: list[Hit]) -> list[str]:
    return [hit.window.text for hit in hits]


def test_the_nearest_window_and_the_one_with_the_words_rank_first(index: SearchIndex) -> None:
    index.update(
        [
            update([window(call(1), "the bill is too high")], [unit(1)]),
            update([window(call(2), "the heating is cold")], [unit(0, 1)]),
            update([window(call(3), "where is my parcel")], [unit(0, 0, 1)]),
        ]
    )
    hits = index.search(unit(0.1, 1), "parcel", EVERYTHING, limit=2)
    assert {*texts(hits)} == {"the heating is cold", "where is my parcel"}
    assert hits[0].score >= hits[1].score > 0
    found = index.search(unit(0, 1), "cold heating", EVERYTHING, limit=1)[0]
    assert found.similarity == pytest.approx(1, abs=1e-5)
    assert found.window == window(call(2), "the heating is cold")


def test_quotes_and_empty_queries_are_accepted(index: SearchIndex) -> None:
    assert index.search(unit(1), "", EVERYTHING, limit=5) == []
    index.update([update([window(call(1), 'it\'s a "quoted" bill; DROP TABLE windows')], [unit(1)])])
    for words in ("it's", "'; DROP TABLE windows; --", '"', "\0", "%_\\"):
        assert len(index.search(unit(1), words, Filters(tenant="default"), limit=5)) == 1
        assert index.search(unit(1), words, Filters(tenant="no' such"), limit=5) == []


def test_filters_apply_before_ranking(index: SearchIndex) -> None:
    index.update(crowded(unit(-1), unit(1)))
    assert len(index.search(unit(1), "bill", Filters(tenant="small"), limit=40)) == 40
    assert {hit.window.tenant for hit in index.search(unit(1), "", Filters(tenant="small"), limit=40)} == {"small"}
    assert {hit.window.tenant for hit in index.search(unit(1), "", EVERYTHING, limit=40)} == {"other"}


def test_tenant_time_agent_and_call_are_filters(index: SearchIndex) -> None:
    for number in range(4):
        of = call(number, "a" if number < 2 else "b")
        made = window(of, f"call {number}", agent=f"agent {number % 2}", started_at=1_000.0 * number)
        index.update([update([made], [unit(1)])])
    found = {
        "tenant": Filters(tenant="b"),
        "agent": Filters(agent="agent 1"),
        "since": Filters(since=2_000.0),
        "until": Filters(until=1_000.0),
        "call": Filters(call_id="call-1"),
        "all": Filters(tenant="b", agent="agent 0", since=1.0, until=2_500.0),
    }
    assert {name: sorted(texts(index.search(unit(1), "", one, limit=9))) for name, one in found.items()} == {
        "tenant": ["call 2", "call 3"],
        "agent": ["call 1", "call 3"],
        "since": ["call 2", "call 3"],
        "until": ["call 0"],
        "call": ["call 1"],
        "all": ["call 2"],
    }


def test_a_newer_revision_replaces_the_windows_an_older_one_does_not(index: SearchIndex) -> None:
    first, second = (update([window(call(1), f"revision {n}", revision=n)], [unit(1)]) for n in (1, 2))
    index.update([first])
    index.update([second])
    index.update([first, second])
    assert texts(index.search(unit(1), "revision", EVERYTHING, limit=9)) == ["revision 2"]


def test_repeated_and_late_records_change_nothing(index: SearchIndex) -> None:
    live = update([window(call(1), "said once", part=0)], [unit(1)])
    whole = update([window(call(1), "said in full")], [unit(1)])
    other = update([window(call(2), "elsewhere")], [unit(1)])
    index.update([live, whole, other])
    for again in ([live], [whole], [live, whole], [other, live, whole]):
        index.update(again)
        assert sorted(texts(index.search(unit(1), "", EVERYTHING, limit=9))) == ["elsewhere", "said in full"]
    assert index.count() == 2


def test_a_transcript_without_words_removes_the_windows(index: SearchIndex) -> None:
    index.update([update([window(call(1), "said once", part=0)], [unit(1)])])
    index.update([update([window(call(1), "said in full")], [unit(1)])])
    index.update([Update(call(1), 2, 1, [], np.zeros((0, DIMENSIONS), np.float32))])
    index.update([update([window(call(1), "said in full")], [unit(1)])])
    assert index.search(unit(1), "said", EVERYTHING, limit=9) == []
    assert index.count() == 0


def test_rare_words_count_more_and_common_ones_alone_do_not_match(index: SearchIndex) -> None:
    """All vectors are alike, so words alone decide the rank. Most windows have `heating`, one has `kangaroo`."""
    index.update([update([window(call(n), f"the heating in room {n}")], [unit(1)]) for n in range(60)])
    index.update([update([window(call(90), "a kangaroo near the heating")], [unit(1)])])

    def best(words: str) -> list[tuple[str, bool]]:
        """Return the first two, and True if words counted: vectors alone give the first 1 / 61."""
        return [(hit.window.call_id, hit.score > 1 / 60) for hit in index.search(unit(1), words, EVERYTHING, limit=2)]

    assert best("Kangaroos and heatings?")[0] == ("call-90", True)
    assert [worded for _, worded in best("the heating of the kangaroo")] == [True, False]
    assert not any(worded for _, worded in best("heating of the zeppelin"))
    assert not any(worded for _, worded in best("zeppelin"))
    assert best("room 17")[0] == ("call-17", True)


def test_turns_of_a_call_in_progress_are_found_until_it_is_complete(index: SearchIndex) -> None:
    live = [update([window(call(1), f"turn {n}", number=n, part=0)], [unit(1)]) for n in range(3)]
    for one in live:
        index.update([one])
    assert len(index.search(unit(1), "", EVERYTHING, limit=9)) == 3
    parts = [update([window(call(1), f"part {part}", part=part)], [unit(1)]) for part in (1, 2)]
    index.update([*parts, live[0]])
    assert sorted(texts(index.search(unit(1), "", EVERYTHING, limit=9))) == ["part 1", "part 2"]
