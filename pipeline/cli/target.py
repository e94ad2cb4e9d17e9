"""Where a command finds the pipeline: the instance that owns the data directory, or one of its own."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.cli.data_directory import open_warehouse
from pipeline.client.exports import Document
from pipeline.client.warehouse import Reader, open_reader
from pipeline.errors import InputError, InstanceError
from pipeline.instance import DATABASE_FILE, InstanceInfo, find_instance
from pipeline.settings import Settings
from pipeline.telemetry import logs
from pipeline.wiring.embedded import Embedded
from schemas.calls import CallRef

T = TypeVar("T")


def load_settings(data: Path | None, *, log_level: logs.LogLevel | None = None, **overrides: object) -> Settings:
    """Settings for a command, with logging configured by them. A command that draws its own display logs less."""
    settings = Settings.load(overrides={"data": data, **overrides})
    logs.configure(settings.log_format, log_level or settings.log_level, sys.stderr)
    return settings


class Session:
    """A bus with all stages behind it, and SQL over what they stored."""

    def __init__(self, bus: Bus, instance: InstanceInfo, settings: Settings, own: Embedded | None) -> None:
        self.bus = bus
        self.instance = instance
        self.settings = settings
        self.own = own

    def reader(self) -> Reader:
        return open_reader(self.settings.data / DATABASE_FILE, self.instance)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, unless a stage of our own fails for good first: then raise why."""
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
async def open_session(settings: Settings, *, reconnect_s: float = 60.0) -> AsyncIterator[Session]:
    """The running instance's bus if there is one, else an embedded pipeline that ends with the block."""
    instance = find_instance(settings.data)
    if instance is None:
        async with Embedded(settings) as own:
            yield Session(own.bus, own.instance, settings, own)
        return
    structlog.get_logger("callstream.cli").info("using the running instance", pid=instance.pid)
    async with connect(instance.bus_url, settings, reconnect_s=reconnect_s) as bus:
        yield Session(bus, instance, settings, None)


@contextlib.asynccontextmanager
async def connect(url: str, settings: Settings, *, reconnect_s: float = 60.0) -> AsyncIterator[Bus]:
    """The bus at `url`, with the credentials of `settings` where it is the one that is set and not an embedded one."""
    security = settings.bus_security() if url == settings.bus else BusSecurity()
    bus = await open_bus(url, security, replication=settings.replication, reconnect_s=reconnect_s)
    try:
        yield bus
    finally:
        await bus.close()


def bus_url(settings: Settings) -> str:
    """Where a producer sends: the bus that is set, else that of the instance on the data directory.

    Raises InstanceError where there is neither.
    """
    if settings.bus is not None:
        return settings.bus
    instance = find_instance(settings.data)
    if instance is None:
        raise InstanceError(f"nothing runs on {settings.data}: start it with `callstream up`")
    return instance.bus_url


def completed_call(settings: Settings, call: CallRef) -> Document:
    """The document of a call that is over, to be worked on once more. Raises InputError for any other."""
    with contextlib.closing(open_warehouse(settings)) as reader:
        document = reader.show(call)
    if document["status"] != "completed":
        state = document["status"].replace("_", " ")
        raise InputError(f"the call {call.call_id} is {state}: it must be completed")
    return document
