"""The pipeline that a command works with: that of the running instance, or one that ends with the command."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.cli.data_directory import DataDirectory
from pipeline.client.warehouse import Reader
from pipeline.settings import Settings
from pipeline.telemetry import logs
from pipeline.wiring.embedded import Embedded

T = TypeVar("T")


def load_settings(data: Path | None, *, log_level: logs.LogLevel | None = None, **overrides: object) -> Settings:
    """Load the settings of a command and configure logging by them. `log_level` overrides the setting."""
    settings = Settings.load(overrides={"data": data, **overrides})
    logs.configure(settings.log_format, log_level or settings.log_level, sys.stderr)
    return settings


class Target:
    """A bus with all stages behind it, and SQL over what they stored. `own` is None for a running instance."""

    def __init__(self, bus: Bus, directory: DataDirectory, own: Embedded | None) -> None:
        self.bus = bus
        self.own = own
        self._directory = directory

    def open_warehouse(self) -> Reader:
        return self._directory.open_warehouse()

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`. If a stage of our own fails for good first, raise its error."""
        if self.own is None:
            return await work
        task = asyncio.create_task(work)
        failing = asyncio.create_task(self.own.worker.wait())
        try:
            await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                failing.result()
            return task.result()
        finally:
            for each in (task, failing):
                each.cancel()
            await asyncio.gather(task, failing, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_target(settings: Settings) -> AsyncIterator[Target]:
    """The running instance's pipeline, else an embedded one that ends with the block."""
    directory = DataDirectory(settings)
    if directory.instance is None:
        async with Embedded(settings) as own:
            yield Target(own.bus, DataDirectory.owned(settings, own.instance), own)
        return
    structlog.get_logger("callstream.cli").info("using the running instance", pid=directory.instance.pid)
    async with connect(directory, directory.instance.bus_url) as bus:
        yield Target(bus, directory, None)


@contextlib.asynccontextmanager
async def connect(directory: DataDirectory, url: str | None = None, *, reconnect_s: float = 60.0) -> AsyncIterator[Bus]:
    """The bus of a data directory, by default at its `bus_url`."""
    url = url or directory.bus_url
    bus = await open_bus(
        url, directory.security_of(url), replication=directory.settings.replication, reconnect_s=reconnect_s
    )
    try:
        yield bus
    finally:
        await bus.close()
