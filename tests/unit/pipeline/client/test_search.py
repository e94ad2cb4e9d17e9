"""The search index made anew, and asked: real files, a real process that is killed; the vectors are made up."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.client import search
from pipeline.client.warehouse import open_reader
from pipeline.errors import InputError
from pipeline.instance import DATABASE_FILE
from pipeline.settings import Settings
from pipeline.wiring import embedding
from pipeline.wiring.index import FOLDER, open_index
from stages.adapters.embedding import Vectors
from stages.index.ranking import Filters
from stages.index.store import FILE, WindowStore
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

CALLS = ["call-1", "call-2", "call-3"]


class MadeUp:
    """All texts mean the same."""

    name = "made up"
    dimensions = 4

    def passages(self, texts: Sequence[str]) -> Vectors:
        return np.full((len(texts), self.dimensions), 0.5, np.float32)

    questions = passages


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a data directory whose warehouse has three calls."""
    with contextlib.closing(Tables(tmp_path / DATABASE_FILE)) as tables:
        stage = SinkStage(tables)
        for name in CALLS:
            stage.write(CallScript(name).whole(4))
    return Settings(data=tmp_path)


def rebuild(settings: Settings, on_call: Callable[[int, int], None] = lambda _done, _of: None) -> int:
    with contextlib.closing(open_reader(settings.data / DATABASE_FILE, None)) as reader:
        return search.rebuild(settings, reader, MadeUp(), on_call=on_call)


def rebuild_until_killed(settings: Settings) -> None:
    def on_call(done: int, _of: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    rebuild(settings, on_call)


def calls_of(settings: Settings) -> list[str]:
    return [name for (name,) in rows(settings, "SELECT DISTINCT call_id FROM windows ORDER BY call_id")]


def rows(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with search.asked_index(settings, MadeUp) as (index, _):
        assert isinstance(index, WindowStore)
        found: list[tuple[Any, ...]] = index.connection.execute(sql).fetchall()
        return found


def test_every_completed_call_is_in_the_new_index_and_it_is_told_how_far_it_is(settings: Settings) -> None:
    told: list[tuple[int, int]] = []
    assert rebuild(settings, lambda done, of: told.append((done, of))) > 0
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert calls_of(settings) == CALLS
    assert sorted(path.name for path in (settings.data / FOLDER).glob(f"*{Path(FILE).suffix}*")) == [FILE]


def test_after_a_kill_in_the_middle_there_is_what_was_there_before_and_again_makes_it_whole(settings: Settings) -> None:
    folder = settings.data / FOLDER
    with contextlib.closing(WindowStore(folder, model="made up", dimensions=4, graph=False)) as store:
        store.connection.execute("CREATE TABLE of_before (n INTEGER)")
    killed = multiprocessing.get_context("spawn").Process(target=rebuild_until_killed, args=(settings,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert rows(settings, "SELECT count(*) FROM of_before") == [(0,)]
    rebuild(settings)
    assert calls_of(settings) == CALLS


def test_what_another_model_made_is_made_anew_with_the_log_it_left(settings: Settings) -> None:
    """A killed owner leaves a log that belongs to its file alone."""
    folder = settings.data / FOLDER
    with contextlib.closing(WindowStore(folder, model="other", dimensions=2, graph=False)):
        pass
    (folder / f"{FILE}.wal").write_bytes(b"of the file before")
    rebuild(settings)
    assert calls_of(settings) == CALLS


def test_nothing_is_loaded_where_nothing_is_searchable(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="is searchable yet"),
        search.asked_index(Settings(data=tmp_path), must_not_load),
    ):
        pass


async def test_who_asks_a_running_instance_uses_its_embedding_model(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild(settings)
    monkeypatch.setattr(embedding, "load_embedder", lambda _settings: MadeUp())
    settings = msgspec.structs.replace(settings, embedding_model=MadeUp.name)
    with ThreadPoolExecutor(1) as writer:
        async with open_index(settings, writer):
            with search.asked_index(settings, must_not_load) as (index, embedder):
                vectors = await asyncio.to_thread(embedder.questions, ["what did it cost?", "it's what?"])
                hits = await search.find(index, embedder, "what did it cost?", Filters(call_id="call-2"), limit=2)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0.5] * 4] * 2
    assert [(hit.window.call_id, hit.similarity) for hit in hits] == [("call-2", 1.0)]


def must_not_load() -> MadeUp:
    raise AssertionError("there is no need to load a model")
