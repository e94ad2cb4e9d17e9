"""Search over calls: find windows of talk, answer questions from them, rebuild the index."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from pipeline.client.exports import turns_of
from pipeline.client.warehouse import Reader, remote_reader
from pipeline.errors import ConfigurationError, InputError
from pipeline.instance import DataLock, read_owner
from pipeline.settings import Settings
from pipeline.wiring.index import FOLDER, ServedIndex, open_qdrant, open_store
from schemas.calls import CallRef
from stages.adapters.embedding import Embedder, QuestionEmbedder
from stages.adapters.llm.protocol import LlmClient
from stages.index.answers import Answer, answer
from stages.index.queries import AskedWindows
from stages.index.ranking import Filters, Hit, Searcher, Update
from stages.index.store import FILE
from stages.index.windows import windows_of

_REBUILT: Final = "rebuilt"
_COMPLETED: Final = "SELECT tenant, call_id FROM calls WHERE status = 'completed' AND revision IS NOT NULL"
_MAKES: Final = "`callstream up` indexes calls as they arrive"


@contextlib.contextmanager
def asked_index(settings: Settings, load: Callable[[], Embedder]) -> Iterator[tuple[Searcher, QuestionEmbedder]]:
    """Open the index for questions: Qdrant's, that of the running instance, or the file.

    Yields the index and the object that embeds questions. `load` returns the embedding model, which takes seconds. It
    is not called if a running instance embeds the question, nor if there is no index.

    Raises InputError without an index, InstanceError if the instance does not answer, StageError for an index of
    another embedding model.
    """
    if settings.qdrant_url is not None:
        embedder = load()
        with contextlib.closing(open_qdrant(settings, embedder)) as index:
            if index.is_empty():
                raise InputError(f"nothing in Qdrant at {settings.qdrant_url} is searchable yet: {_MAKES}")
            yield index, embedder
        return
    folder = settings.data / FOLDER
    serving = read_owner(folder, ServedIndex)
    if serving is not None:
        if serving.model != settings.embedding_model:
            raise ConfigurationError(
                f"the running index uses {serving.model}, CALLSTREAM_EMBEDDING_MODEL is {settings.embedding_model}"
            )
        with contextlib.closing(remote_reader(serving.url, serving.token)) as reader:
            asked = AskedWindows(lambda sql: reader.query(sql)[1])
            yield asked, asked
        return
    if not (folder / FILE).exists():
        raise InputError(f"nothing on {settings.data} is searchable yet: {_MAKES}")
    embedder = load()
    with DataLock(folder), contextlib.closing(open_store(folder, embedder, False)) as store:
        yield store, embedder


def is_served(settings: Settings) -> bool:
    """Return True if the index can be searched while an instance fills it."""
    return settings.qdrant_url is not None or read_owner(settings.data / FOLDER, ServedIndex) is not None


def rebuild(settings: Settings, reader: Reader, embedder: Embedder, *, on_call: Callable[[int, int], None]) -> int:
    """Rebuild the index from the warehouse and return its number of windows.

    A file is built beside the old one and replaces it once complete, so a kill leaves the old index. In Qdrant calls
    are replaced one by one, also while an index worker runs; calls missing from the warehouse keep their windows.
    `on_call(done, total)` is called after each call. Raises InstanceError if another process owns the index file.
    """
    if settings.qdrant_url is not None:
        with contextlib.closing(open_qdrant(settings, embedder)) as index:
            for whole in _whole_calls(reader, embedder, on_call):
                index.forget(whole.call)
                index.update([whole])
            return index.count()
    folder = settings.data / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with DataLock(folder):
        beside = folder / _REBUILT
        shutil.rmtree(beside, ignore_errors=True)  # left by a rebuild that was killed
        with contextlib.closing(open_store(beside, embedder, False)) as store:
            for whole in _whole_calls(reader, embedder, on_call):
                store.update([whole])
            windows = store.count()
        # DuckDB would replay the old index's write-ahead log onto the new file.
        (folder / f"{FILE}.wal").unlink(missing_ok=True)
        (beside / FILE).replace(folder / FILE)
        shutil.rmtree(beside)
    return windows


def _whole_calls(reader: Reader, embedder: Embedder, on_call: Callable[[int, int], None]) -> Iterator[Update]:
    """Yield one update per completed call. `on_call` is called once the update has been applied."""
    _, calls = reader.query(_COMPLETED)
    for number, (tenant, call_id) in enumerate(calls, start=1):
        yield _whole_call(reader, CallRef(tenant, call_id), embedder)
        on_call(number, len(calls))


def _whole_call(reader: Reader, call: CallRef, embedder: Embedder) -> Update:
    document = reader.show(call)
    agent = (document["metadata"] or {}).get("agent")
    windows = windows_of(
        turns_of(document),
        revision=document["revision"],
        part=1,
        agent=agent if isinstance(agent, str) else "",
        started_at=_unix_s(document["uploaded_at"] or document["processed_at"]),
    )
    return Update(call, document["revision"], 1, windows, embedder.passages([window.spoken_text for window in windows]))


def _unix_s(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


async def find(
    index: Searcher, embedder: QuestionEmbedder, question: str, filters: Filters, *, limit: int
) -> list[Hit]:
    """Return the windows that match a question or words, the best first."""

    def found() -> list[Hit]:
        [vector] = embedder.questions([question])
        return index.search(vector, question, filters, limit=limit)

    return await asyncio.to_thread(found)


async def ask(
    index: Searcher, embedder: QuestionEmbedder, llm: LlmClient, question: str, filters: Filters, *, limit: int = 8
) -> Answer:
    """Return the language model's answer from the windows of `find`. Raises LlmError."""
    return await answer(llm, question, await find(index, embedder, question, filters, limit=limit))
