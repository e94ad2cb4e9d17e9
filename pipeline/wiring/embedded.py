"""Everything on one machine in one process: bus server, stages, warehouse, metrics. `callstream up` is this."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

import msgspec
import structlog

from pipeline.bus.protocol import Bus
from pipeline.clock import unix_time_s
from pipeline.instance import DataLock, InstanceInfo
from pipeline.private_files import own_directory
from pipeline.relays.fanout import Fanout, LiveServer, live_server
from pipeline.runtime.movement import Health
from pipeline.settings import Settings
from pipeline.tasks import owned
from pipeline.telemetry.metrics import Metrics, served
from pipeline.wiring.context import WiringContext
from pipeline.wiring.embedded_bus import DeploymentBus, open_deployment_bus
from pipeline.wiring.stage import StageWiring
from pipeline.wiring.stage_list import REQUIRED
from pipeline.wiring.warehouse import Warehouse, open_warehouse
from pipeline.wiring.worker import Worker


class Embedded:
    """Stages with their bus, as an async context manager. `worker.ready` tells when models are loaded.

    With `settings.bus` set it uses that bus instead of starting one, and may run some stages alone. The process of the
    stage that `owns_data` owns the data directory; those of other stages share it.
    Raises InstanceError on entry when another process owns the directory.
    """

    bus: Bus
    worker: Worker
    instance: InstanceInfo

    def __init__(self, settings: Settings, *, stages: Sequence[StageWiring] = REQUIRED) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.health = Health(self.metrics)
        self._stages = tuple(stages)
        self._cleanup = contextlib.AsyncExitStack()
        self._log = structlog.get_logger("callstream.embedded")

    async def __aenter__(self) -> "Embedded":
        settings = self.settings
        own_directory(settings.data)
        async with contextlib.AsyncExitStack() as stack:
            owner = any(wiring.owns_data for wiring in self._stages)
            lock = stack.enter_context(DataLock(settings.data)) if owner else None
            opened = await stack.enter_async_context(open_deployment_bus(settings, self.metrics))
            self.bus = opened.bus
            metrics_url = stack.enter_context(served(self.metrics, settings.metrics_port))
            warehouse = await stack.enter_async_context(open_warehouse(settings.data)) if owner else None
            self.worker = Worker(WiringContext(self.bus, settings, self.metrics, warehouse, self.health), self._stages)
            self.worker.start()
            stack.push_async_callback(self.worker.stop)
            live = live_server(settings, opened.url, opened.security) if {*REQUIRED} <= {*self._stages} else None
            if live is not None:
                await stack.enter_async_context(self._fanned_out(live))
            self.instance = _instance(opened, warehouse, metrics_url, live)
            if lock is not None:
                lock.announce(self.instance)
            self.worker.own(self._announce_ready(lock), name="announce ready")
            self._cleanup = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    @contextlib.asynccontextmanager
    async def _fanned_out(self, live: LiveServer) -> AsyncIterator[None]:
        async with Fanout(self.bus, live, metrics=self.metrics) as fanout:
            running = owned(fanout.run(), name="fan-out", failed=self.worker.fail)
            try:
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _announce_ready(self, lock: DataLock | None) -> None:
        """Announce readiness, take it back while a group stands still, and say which."""
        await self.worker.ready.wait()
        while True:
            self.health.changed.clear()
            stalled, lost = self.health.stalled, self.health.lost
            self.metrics.ready.set(not stalled)
            self.instance = msgspec.structs.replace(self.instance, ready=not stalled, stalled=stalled, lost=lost)
            if lock is not None:
                lock.announce(self.instance)
            if stalled:
                self._log.error("groups stand still", groups=stalled)
            else:
                self._log.info("ready", pid=self.instance.pid, bus=self.instance.bus_url)
            await self.health.changed.wait()


def _instance(
    opened: DeploymentBus, warehouse: Warehouse | None, metrics_url: str | None, live: LiveServer | None
) -> InstanceInfo:
    return InstanceInfo(
        pid=os.getpid(),
        bus_url=opened.url,
        owner_credentials=None if opened.logins is None else str(opened.logins.owner),
        producer_credentials=None if opened.logins is None else str(opened.logins.producer),
        quack_url=None if warehouse is None else warehouse.url,
        quack_token=None if warehouse is None else warehouse.token,
        metrics_url=metrics_url,
        live_url=None if live is None else live.url,
        started_at=unix_time_s(),
        ready=False,
    )
