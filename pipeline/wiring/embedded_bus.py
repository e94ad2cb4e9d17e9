"""The bus of a data directory: the broker that the settings name, or a nats-server of its own."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pipeline.bus.nats.server import NatsServer
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.settings import Settings
from pipeline.wiring import topology

_STORE_DIR: Final = "nats"


def store_folder(settings: Settings) -> Path:
    """Return where the embedded server keeps its records. It is there once a server has run."""
    return settings.data / _STORE_DIR


def embedded_server(settings: Settings) -> NatsServer:
    return NatsServer(store_folder(settings), max_store_bytes=settings.store_bytes, sync=settings.sync)


@contextlib.asynccontextmanager
async def open_deployment_bus(settings: Settings) -> AsyncIterator[tuple[Bus, str]]:
    """The bus and its URL, with all topics. An embedded server ends with the block."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.bus is None:
            server = embedded_server(settings)
            url = await server.start()
            stack.push_async_callback(server.stop)
            bus = await open_bus(url, BusSecurity())
        else:
            url = settings.bus
            bus = await open_bus(url, settings.bus_security(), replication=settings.replication)
        stack.push_async_callback(bus.close)
        await bus.ensure_topics(
            topology.topic_specs(
                partitions=settings.partitions,
                retention_days=settings.retention_days,
                store_bytes=settings.store_bytes,
            )
        )
        yield bus, url
