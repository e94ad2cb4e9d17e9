"""The bus of a data directory: the broker that the settings name, or a nats-server of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from pipeline.bus.nats.logins import Logins
from pipeline.bus.nats.server import NatsServer
from pipeline.bus.opening import KAFKA, open_bus
from pipeline.bus.protocol import Bus, TopicSpec
from pipeline.bus.security import BusSecurity
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology
from schemas.topics import DEAD_LETTERS

_STORE_DIR: Final = "nats"
_RECONNECT_S: Final = 30.0
LONG_CALL_DAYS: Final = 0.5
"""A call may last for hours. A broker that deletes by age alone, as Kafka does, must keep its beginning until its end:
`merge` reads a call again from there after a restart."""
_LOGINS_DIR: Final = "credentials"


class DeploymentBus(msgspec.Struct, frozen=True):
    """An open bus and how this process logs in to it. `logins` is None unless it is an embedded server that asks."""

    bus: Bus
    url: str
    security: BusSecurity
    logins: Logins | None


def store_folder(settings: Settings) -> Path:
    """Return where the embedded server keeps its records. It is there once a server has run."""
    return settings.data / _STORE_DIR


def embedded_logins(settings: Settings) -> Logins | None:
    """Return the logins of the embedded server, None if it lets everybody in."""
    return None if settings.bus_auth == "off" else Logins(settings.data / _LOGINS_DIR)


def owner_security(settings: Settings) -> BusSecurity:
    """Return how the owner of the data directory logs in to its embedded server, once that has started."""
    logins = embedded_logins(settings)
    return BusSecurity() if logins is None else BusSecurity(credentials=logins.owner)


def embedded_server(settings: Settings) -> NatsServer:
    return NatsServer(
        store_folder(settings),
        max_store_bytes=settings.store_bytes,
        sync=settings.sync,
        logins=embedded_logins(settings),
    )


@contextlib.asynccontextmanager
async def open_deployment_bus(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[DeploymentBus]:
    """The bus with all topics. An embedded server ends with the block. `metrics` counts the letters that it drops."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.bus is None:
            server = embedded_server(settings)
            url = await server.start()
            stack.push_async_callback(server.stop)
            security, logins = owner_security(settings), embedded_logins(settings)
        else:
            url, security, logins = settings.bus, settings.bus_security(), None
        bus = await open_bus(url, security, replication=settings.replication)
        stack.push_async_callback(bus.close)
        specs = topology.topic_specs(
            partitions=settings.partitions, retention_days=settings.retention_days, store_bytes=settings.store_bytes
        )
        await bus.ensure_topics(specs)
        if settings.retention_days < LONG_CALL_DAYS:
            structlog.get_logger("callstream.bus").warning(
                "retention shorter than a long call",
                retention_days=settings.retention_days,
                setting="CALLSTREAM_RETENTION_DAYS",
            )
        if not url.startswith(KAFKA):
            await stack.enter_async_context(_space_kept(url, settings, security, specs, metrics or Metrics()))
        yield DeploymentBus(bus, url, security, logins)


@contextlib.asynccontextmanager
async def _space_kept(
    url: str, settings: Settings, security: BusSecurity, specs: list[TopicSpec], metrics: Metrics
) -> AsyncIterator[None]:
    """Keep room in the store inside the block, over a connection of its own."""
    from pipeline.bus.nats.connection import NatsConnection
    from pipeline.bus.nats.space import SpaceKeeper

    connection = NatsConnection(url, name="callstream space", reconnect_s=_RECONNECT_S, security=security)
    await connection.connect()

    def dropped(topic: str, records: int) -> None:
        assert topic == DEAD_LETTERS, f"{topic} drops its oldest records"
        metrics.dead_letters_evicted.inc(records)

    keeper = SpaceKeeper(connection, specs, store_bytes=settings.store_bytes, dropped=dropped)
    keeping = asyncio.create_task(keeper.run(), name="keep room in the store")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await connection.close()
