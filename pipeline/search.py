"""Search over calls: the index that an instance fills and serves, and how others ask it.

`find` and `ask` are what commands and gateways call.
"""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from pipeline.errors import ConfigurationError, InputError, InstanceError
from pipeline.exports import turns_of
from pipeline.models import embedding_weights
from pipeline.settings import Settings
from pipeline.warehouse import Reader
from schemas.calls import CallRef
from stages.embedding.embedder import Embedder, SentenceEmbedder
from stages.index import queries
from stages.index.answers import Answer, answer
from stages.index.ranking import Filters, Hit, Update
from stages.index.store import FILE, WindowStore
from stages.index.windows import windows_of
from stages.sink.quack import free_port, kept_token, load_extensions
from stages.summarize.llm import LlmClient

FOLDER: Final = "search"
_SERVING: Final = "serving.json"
_TOKEN: Final = "token"
_NEEDED: Final = ("sentence_transformers", "duckdb_extension_vss", "duckdb_extension_fts")


class _Serving(msgspec.Struct, frozen=True):
    """Where the index can be asked. Holds a token: readable by its user only."""

    pid: int
    url: str
    token: str
    model: str


def searchable(settings: Settings) -> bool:
    """Whether an instance makes calls searchable. Raises ConfigurationError where it must and cannot."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if settings.search == "on" and missing:
        raise ConfigurationError(
            f"CALLSTREAM_SEARCH is on and {missing[0]} is missing: pip install 'callstream[search]'"
        )
    return settings.search != "off" and not missing


def load_embedder(settings: Settings) -> Embedder:
    """Takes seconds. Raises ModelError and EmbeddingError."""
    name = settings.embedding_model
    return SentenceEmbedder(embedding_weights(name), name=name)


@contextlib.asynccontextmanager
async def serving_index(settings: Settings, writer: ThreadPoolExecutor) -> AsyncIterator[tuple[WindowStore, Embedder]]:
    """The index of the data directory, owned by this process and served to others. `writer` is its one thread.

    Raises StageError where another process has it, and what `load_embedder` raises.
    """
    loop = asyncio.get_running_loop()
    embedder = await asyncio.to_thread(load_embedder, settings)
    folder = settings.data / FOLDER

    def opened() -> WindowStore:
        return WindowStore(folder, model=embedder.name, dimensions=embedder.dimensions)

    store = await loop.run_in_executor(writer, opened)
    serving = folder / _SERVING
    try:
        token = kept_token(folder / _TOKEN)
        url = await loop.run_in_executor(writer, store.serve, token, free_port())
        _announce(serving, _Serving(os.getpid(), url, token, embedder.name))
        yield store, embedder
    finally:
        serving.unlink(missing_ok=True)
        await loop.run_in_executor(writer, store.close)


def _announce(path: Path, serving: _Serving) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(msgspec.json.encode(serving))
    draft.replace(path)


@contextlib.contextmanager
def asked_index(settings: Settings, embedder: Embedder) -> Iterator[queries.Run]:
    """The index to ask: the running instance's where one serves it, else the file.

    Raises InputError where there is none, InstanceError where nobody answers, StageError for another model's.
    """
    folder = settings.data / FOLDER
    serving = _read_serving(folder / _SERVING)
    if serving is not None:
        with _through(serving, embedder) as run:
            yield run
        return
    if not (folder / FILE).exists():
        raise InputError(f"nothing on {settings.data} is searchable yet: `callstream up` makes it so as calls come in")
    store = WindowStore(folder, model=embedder.name, dimensions=embedder.dimensions, graph=False)
    try:
        yield lambda sql: store.connection.execute(sql).fetchall()
    finally:
        store.close()


def is_served(settings: Settings) -> bool:
    """Whether a process serves the index of the data directory."""
    return _read_serving(settings.data / FOLDER / _SERVING) is not None


def _read_serving(path: Path) -> _Serving | None:
    """None where nobody serves the index, or who did is gone without saying so."""
    try:
        serving = msgspec.json.decode(path.read_bytes(), type=_Serving)
        os.kill(serving.pid, 0)
    except (FileNotFoundError, ProcessLookupError, msgspec.MsgspecError):
        return None
    except PermissionError:
        pass
    return serving


@contextlib.contextmanager
def _through(serving: _Serving, embedder: Embedder) -> Iterator[queries.Run]:
    if serving.model != embedder.name:
        raise ConfigurationError(
            f"the running index is {serving.model}'s, and CALLSTREAM_EMBEDDING_MODEL {embedder.name}"
        )
    connection: Any = duckdb.connect()
    load_extensions(connection)

    def run(sql: str) -> list[tuple[Any, ...]]:
        try:
            found: list[tuple[Any, ...]] = connection.execute(
                "FROM quack_query(?, ?, token = ?)", [serving.url, sql, serving.token]
            ).fetchall()
        except duckdb.Error as error:
            raise InstanceError(f"the search index at {serving.url} does not answer: {error}") from error
        return found

    try:
        yield run
    finally:
        connection.close()


def rebuild(settings: Settings, reader: Reader, embedder: Embedder, *, on_call: Callable[[int, int], None]) -> int:
    """Make the index anew from the warehouse; returns how many windows it has. Nobody may have it open.

    `on_call` is told how many calls are done, and of how many. Raises StageError where another process has the index.
    """
    folder = settings.data / FOLDER
    if _read_serving(folder / _SERVING) is not None:
        raise InstanceError(f"the instance on {settings.data} has the search index: stop it first")
    for file in folder.glob(f"{FILE}*"):
        file.unlink()
    store = WindowStore(folder, model=embedder.name, dimensions=embedder.dimensions, graph=False)
    try:
        _, calls = reader.query("SELECT tenant, call_id FROM calls WHERE status = 'completed' AND revision IS NOT NULL")
        for number, (tenant, call_id) in enumerate(calls, start=1):
            call = CallRef(tenant, call_id)
            document = reader.show(call)
            agent = (document["metadata"] or {}).get("agent")
            windows = windows_of(
                turns_of(document),
                revision=document["revision"],
                part=1,
                agent=agent if isinstance(agent, str) else "",
                started_at=_unix_s(document["uploaded_at"] or document["processed_at"]),
            )
            vectors = embedder.passages([window.said for window in windows])
            store.update([Update(call, document["revision"], 1, windows, vectors)])
            on_call(number, len(calls))
        return store.count()
    finally:
        store.close()


def _unix_s(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


async def find(run: queries.Run, embedder: Embedder, question: str, filters: Filters, *, limit: int) -> list[Hit]:
    """The windows of calls that a question, or some words, are about; the best first."""

    def found() -> list[Hit]:
        [vector] = embedder.questions([question])
        return queries.search(run, vector, question, filters, limit=limit)

    return await asyncio.to_thread(found)


async def ask(
    run: queries.Run, embedder: Embedder, llm: LlmClient, question: str, filters: Filters, *, limit: int = 8
) -> Answer:
    """An answer by the language model, from what `find` finds. Raises LlmError."""
    return await answer(llm, question, await find(run, embedder, question, filters, limit=limit))
