"""The index stage: transcripts into the search index, which its process owns and serves."""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.errors import ConfigurationError
from pipeline.settings import Settings
from pipeline.wiring.consumer_group import ConsumerGroup
from pipeline.wiring.stage import Ready, StageWiring
from schemas import topics

if TYPE_CHECKING:
    from pipeline.wiring.context import WiringContext
    from stages.adapters.embedding import Embedder
    from stages.index.qdrant import QdrantIndex
    from stages.index.ranking import SearchIndex
    from stages.index.store import WindowStore

FOLDER: Final = "search"
_TOKEN: Final = "token"
_BATCH_RECORDS: Final = 50
"""Each record takes its embeddings: a batch should not take long."""
_NEEDED: Final = ("sentence_transformers", "duckdb_extension_vss", "duckdb_extension_fts")


class ServedIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Where the owner of an index answers. Holds a token: readable by its user only."""

    pid: int
    url: str
    token: str
    model: str


GROUP: Final = ConsumerGroup(
    name="index",
    reads=(topics.TRANSCRIPTS,),
    budget_bytes=8_000_000,
)


async def run(context: "WiringContext", ready: Ready) -> None:
    from stages.index.stage import IndexStage

    with ThreadPoolExecutor(1, thread_name_prefix="index") as writer:
        async with open_index(context.settings, writer) as (index, embedder):
            ready()
            stage = IndexStage(index, embedder)
            await context.batch_runner(stage, GROUP, writer, max_records=_BATCH_RECORDS).run()


def searchable(settings: Settings) -> bool:
    """Return if an instance makes calls searchable. Raises ConfigurationError where it must and cannot."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if settings.search == "on" and missing:
        raise ConfigurationError(
            f"CALLSTREAM_SEARCH is on and {missing[0]} is missing: pip install 'callstream[search]'"
        )
    if settings.search != "off" and settings.qdrant_url and importlib.util.find_spec("qdrant_client") is None:
        raise ConfigurationError(
            "CALLSTREAM_QDRANT_URL is set and qdrant_client missing: pip install 'callstream[qdrant]'"
        )
    return settings.search != "off" and not missing


@contextlib.asynccontextmanager
async def open_index(settings: Settings, writer: ThreadPoolExecutor) -> AsyncIterator[tuple["SearchIndex", "Embedder"]]:
    """The index to fill: Qdrant's, or that of the data directory, owned by this process and served to others.

    `writer` has one thread. Raises InstanceError where another process owns the data directory's index, StageError
    for an index of another embedding model, and what `load_embedder` raises.
    """
    from pipeline.instance import DataLock
    from pipeline.wiring.embedding import load_embedder
    from stages.adapters.duckdb_file.quack import free_port, kept_token

    loop = asyncio.get_running_loop()
    embedder = await asyncio.to_thread(load_embedder, settings)
    if settings.qdrant_url is not None:
        with contextlib.closing(open_qdrant(settings, embedder)) as index:
            yield index, embedder
        return
    folder = settings.data / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with DataLock(folder) as lock:
        store = await loop.run_in_executor(writer, open_store, folder, embedder, True)
        try:
            token = kept_token(folder / _TOKEN)
            url = await loop.run_in_executor(writer, store.serve, token, free_port())
            lock.announce(ServedIndex(pid=os.getpid(), url=url, token=token, model=embedder.name))
            yield store, embedder
        finally:
            await loop.run_in_executor(writer, store.close)


def open_qdrant(settings: Settings, embedder: "Embedder") -> "QdrantIndex":
    from stages.index.qdrant import QdrantIndex

    key = settings.qdrant_api_key
    return QdrantIndex(
        settings.qdrant_url or "",
        model=embedder.name,
        dimensions=embedder.dimensions,
        api_key=None if key is None else key.reveal(),
    )


def open_store(folder: Path, embedder: "Embedder", served: bool) -> "WindowStore":
    """Open the index file in `folder`; `served`: with its graph in memory and ready to be asked by other processes."""
    from stages.index.store import WindowStore

    return WindowStore(
        folder,
        model=embedder.name,
        dimensions=embedder.dimensions,
        graph=served,
        embedder=embedder if served else None,
    )


WIRING: Final = StageWiring(
    name="index",
    groups=(GROUP,),
    enabled=searchable,
    run=run,
)
