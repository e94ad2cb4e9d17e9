"""`callstream bridge`: forward a branch office's audio to the central bus."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer

from pipeline.bus.nats.connection import NatsConnection
from pipeline.bus.nats.purge import drop_acknowledged
from pipeline.bus.opening import await_bus
from pipeline.bus.security import BusSecurity
from pipeline.cli import options
from pipeline.cli.consoles import console
from pipeline.cli.signals import until_stopped
from pipeline.cli.target import load_settings
from pipeline.errors import BusError, ConfigurationError, InputError, StoreFullError
from pipeline.private_files import own_directory
from pipeline.relays.bridge import LANES, Bridge, edge_specs, ensure_edge
from pipeline.settings import SETTINGS, Settings
from pipeline.telemetry.metrics import Metrics, served
from pipeline.wiring.embedded_bus import embedded_logins, embedded_server, owner_security, store_folder

_RECONNECT_S = 30.0
_PAUSE_S = 5.0
_FREE_S = 10.0


def bridge(
    source: Annotated[
        str | None,
        typer.Option("--from", help="The branch office's bus; by default an embedded nats-server.", metavar="URL"),
    ] = None,
    target: Annotated[str | None, typer.Option("--to", help="The central bus (CALLSTREAM_BUS).", metavar="URL")] = None,
    source_config: Annotated[
        Path | None,
        typer.Option("--from-config", help="Settings file with the bus_… settings of --from.", metavar="FILE"),
    ] = None,
    data: options.Data = None,
) -> None:
    """Store a branch office's calls and forward them to the central bus, until Ctrl-C."""
    settings = load_settings(data, bus=None if target is None else SETTINGS["bus"].read(target, "--to", strict=False))
    if settings.bus is None:
        raise ConfigurationError("a bridge needs a bus to forward to: --to URL or CALLSTREAM_BUS")
    edge = Settings(data=settings.data) if source_config is None else Settings.load({}, config_path=source_config)
    if source is not None:
        edge = msgspec.structs.replace(edge, bus=SETTINGS["bus"].read(source, "--from", strict=False))
    if edge.bus == settings.bus:
        raise InputError(f"--from and --to are both {edge.bus}")
    asyncio.run(until_stopped(_forward(settings, edge)))


async def _forward(settings: Settings, edge: Settings) -> None:
    assert settings.bus is not None
    screen = console()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        source_url = edge.bus or await _embedded(settings, stack)
        security = owner_security(settings) if edge.bus is None else edge.bus_security()
        logins = embedded_logins(settings) if edge.bus is None else None
        metrics_url = stack.enter_context(served(metrics, settings.metrics_port))
        screen.print("callstream bridge")
        screen.print(f"  from     {source_url}" + ("" if edge.bus else f" (embedded, {store_folder(settings)})"))
        if logins is not None:
            screen.print(f"  login    {logins.producer} (for producers)")
        screen.print(f"  to       {settings.bus}")
        if metrics_url is not None:
            screen.print(f"  metrics  {metrics_url}")
        source = await await_bus(source_url, security, reconnect_s=_RECONNECT_S)
        stack.push_async_callback(source.close)
        specs = edge_specs(
            partitions=settings.partitions,
            retention_days=settings.retention_days,
            store_bytes=settings.store_bytes,
            freed=edge.bus is None,
        )
        while True:
            try:
                await ensure_edge(source, specs)
                break
            except StoreFullError as error:
                raise ConfigurationError(
                    f"the branch office's store has no room for CALLSTREAM_STORE_GB {settings.store_gb:g}: {error}"
                ) from error
            except BusError as error:
                screen.print(f"waiting for the branch office's bus: {error}")
                await asyncio.sleep(_PAUSE_S)
        topics = ", ".join(topic for subscription in LANES.values() for topic in subscription.topics)
        screen.print(f"producers can send to {topics}")
        target = await await_bus(settings.bus, settings.bus_security(), reconnect_s=_RECONNECT_S)
        stack.push_async_callback(target.close)
        metrics.ready.set(1)
        screen.print(f"ready: forwarding {topics} (Ctrl-C stops)")
        running = Bridge(source, target, metrics=metrics)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(running.run())
                if edge.bus is None:
                    group.create_task(_free_forwarded(source_url, security))
        finally:
            screen.print(f"stopping: {running.records} records forwarded; the next start resumes here")


async def _free_forwarded(url: str, security: BusSecurity) -> None:
    """Delete forwarded records from the embedded store, which nobody else reads, until cancelled."""
    log = structlog.get_logger("callstream.bridge")
    connection = NatsConnection(url, name="callstream bridge", reconnect_s=_RECONNECT_S, security=security)
    connected = False
    try:
        while True:
            await asyncio.sleep(_FREE_S)
            try:
                if not connected:
                    await connection.connect()
                    connected = True
                for subscription in LANES.values():
                    log.debug("forwarded records deleted", records=await drop_acknowledged(connection, subscription))
            except BusError as error:
                log.warning("forwarded records not deleted", error=str(error))
    finally:
        await connection.close()


async def _embedded(settings: Settings, stack: contextlib.AsyncExitStack) -> str:
    own_directory(settings.data)
    server = embedded_server(settings)
    url = await server.start()
    stack.push_async_callback(server.stop)
    return url
