"""Everything on one machine in one process: bus server, stages, warehouse, metrics. `callstream up` is this."""

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import structlog

from pipeline.bus.nats.server import NatsServer
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.clock import unix_time_s
from pipeline.errors import InstanceError
from pipeline.instance import DataLock, InstanceInfo
from pipeline.relays.fanout import Fanout, live_server
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics, served
from pipeline.wiring import topology
from pipeline.wiring.worker import DATABASE_FILE, Worker

if TYPE_CHECKING:
    from stages.sink.tables import Tables

OWNER = "sink"
"""The stage that owns the data directory: it writes the warehouse. Workers of other stages share the directory."""

STORE_DIR = "nats"
TOKEN_FILE = "quack.token"
FILE_PATIENCE_S = 20.0


class Embedded:
    """The owner of a data directory. Use as an async context manager; `worker.ready` tells when models are loaded.

    With `settings.bus` set it uses that bus instead of starting one, and may run some stages alone: then the
    one that runs the sink owns the directory.
    Raises InstanceError on entry when another process owns the directory.
    """

    bus: Bus
    worker: Worker
    instance: InstanceInfo

    def __init__(self, settings: Settings, *, stages: tuple[str, ...] = topology.STAGES) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._stages = stages
        self._cleanup = contextlib.AsyncExitStack()
        self._log = structlog.get_logger("callstream.embedded")

    async def __aenter__(self) -> "Embedded":
        settings = self.settings
        settings.data.mkdir(parents=True, exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            lock = stack.enter_context(DataLock(settings.data)) if OWNER in self._stages else None
            if settings.bus is None:
                bus_url = await self._start_server(stack)
                self.bus = await open_bus(bus_url, BusSecurity())
            else:
                bus_url = settings.bus
                self.bus = await open_bus(bus_url, settings.bus_security(), replication=settings.replication)
            stack.push_async_callback(self.bus.close)
            await self.bus.ensure_topics(
                topology.topic_specs(
                    partitions=settings.partitions,
                    retention_days=settings.retention_days,
                    store_bytes=store_bytes(settings),
                )
            )
            metrics_url = stack.enter_context(served(self.metrics, settings.metrics_port))
            tables, writer, quack_url, quack_token = await self._open_tables(stack)
            self.worker = Worker(
                self.bus,
                settings,
                stages=self._stages,
                metrics=self.metrics,
                tables=tables,
                writer=writer,
            )
            await self.worker.start()
            stack.push_async_callback(self.worker.stop)
            live = live_server(settings, bus_url) if {*topology.STAGES} <= {*self._stages} else None
            if live is not None:
                fanout = await stack.enter_async_context(Fanout(self.bus, live, metrics=self.metrics))
                stack.push_async_callback(_cancelled, asyncio.create_task(fanout.run(), name="fan-out"))
            self.instance = InstanceInfo(
                pid=os.getpid(),
                bus_url=bus_url,
                quack_url=quack_url,
                quack_token=quack_token,
                metrics_url=metrics_url,
                live_url=None if live is None else live.url,
                started_at=unix_time_s(),
                ready=False,
            )
            if lock is not None:
                lock.announce(self.instance)
            announcing = asyncio.create_task(self._announce_ready(lock))
            stack.callback(announcing.cancel)
            self._cleanup = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    async def _start_server(self, stack: contextlib.AsyncExitStack) -> str:
        server = NatsServer(
            self.settings.data / STORE_DIR, max_store_bytes=store_bytes(self.settings), sync=self.settings.sync
        )
        url = await server.start()
        stack.push_async_callback(server.stop)
        return url

    async def _open_tables(
        self, stack: contextlib.AsyncExitStack
    ) -> "tuple[Tables | None, ThreadPoolExecutor | None, str | None, str | None]":
        """The warehouse, opened and served by the one thread that will write to it."""
        if OWNER not in self._stages:
            return None, None, None, None
        from stages.adapters.duckdb_file.quack import free_port, kept_token

        loop = asyncio.get_running_loop()
        writer = ThreadPoolExecutor(1, thread_name_prefix="sink")
        stack.callback(writer.shutdown)
        tables = await self._open_file(writer, self.settings.data / DATABASE_FILE)
        stack.push_async_callback(loop.run_in_executor, writer, tables.close)
        token = kept_token(self.settings.data / TOKEN_FILE)
        url = await loop.run_in_executor(writer, tables.serve, token, free_port())
        return tables, writer, url, token

    async def _open_file(self, writer: ThreadPoolExecutor, path: Path) -> "Tables":
        """Open the warehouse; somebody who read the file while no instance ran may have it open for a moment."""
        from stages.sink.tables import FileInUse, Tables

        loop = asyncio.get_running_loop()
        deadline = loop.time() + FILE_PATIENCE_S
        while True:
            try:
                return await loop.run_in_executor(writer, Tables, path)
            except FileInUse as error:
                if loop.time() > deadline:
                    raise InstanceError(str(error)) from error
                self._log.warning("waiting for the warehouse file", error=str(error))
            await asyncio.sleep(0.5)

    async def _announce_ready(self, lock: DataLock | None) -> None:
        await self.worker.ready.wait()
        self.metrics.ready.set(1)
        self.instance = msgspec.structs.replace(self.instance, ready=True)
        if lock is not None:
            lock.announce(self.instance)
        self._log.info("ready", pid=self.instance.pid, bus=self.instance.bus_url)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def store_bytes(settings: Settings) -> int:
    """The store's limit in bytes."""
    return int(settings.store_gb * 1e9)
