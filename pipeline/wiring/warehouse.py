"""The warehouse in the process that owns it: opened, served over Quack, written by one thread."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from pipeline.client.reader_folders import sweep
from pipeline.errors import InstanceError
from pipeline.instance import DATABASE_FILE

if TYPE_CHECKING:
    from stages.sink.tables import Tables

TOKEN_FILE: Final = "quack.token"
FILE_PATIENCE_S: Final = 20.0
"""A command that read the file while no instance ran may have it open for a moment longer."""


class Warehouse(msgspec.Struct, frozen=True):
    """The open tables, the one thread that may use them, and where others read them."""

    tables: "Tables"
    writer: ThreadPoolExecutor
    url: str
    token: str


@contextlib.asynccontextmanager
async def open_warehouse(data: Path) -> AsyncIterator[Warehouse]:
    """The warehouse of a data directory that this process owns. Raises InstanceError while others hold the file."""
    from stages.adapters.duckdb_file.quack import free_port, kept_token

    sweep(data)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="sink") as writer:
        tables = await _open_tables(writer, data / DATABASE_FILE)
        try:
            token = kept_token(data / TOKEN_FILE)
            url = await loop.run_in_executor(writer, tables.serve, token, free_port())
            yield Warehouse(tables, writer, url, token)
        finally:
            await loop.run_in_executor(writer, tables.close)


async def _open_tables(writer: ThreadPoolExecutor, path: Path) -> "Tables":
    from stages.sink.tables import FileInUse, Tables

    loop = asyncio.get_running_loop()
    deadline = loop.time() + FILE_PATIENCE_S
    while True:
        try:
            return await loop.run_in_executor(writer, Tables, path)
        except FileInUse as error:
            if loop.time() > deadline:
                raise InstanceError(str(error)) from error
            structlog.get_logger("callstream.embedded").warning("warehouse file in use, waiting", error=str(error))
        await asyncio.sleep(0.5)
