"""`callstream fanout`: live updates on NATS subjects."""

import asyncio
import contextlib
from typing import Annotated

import typer

from pipeline.bus.opening import await_bus
from pipeline.cli import options
from pipeline.cli.consoles import console
from pipeline.cli.signals import until_stopped
from pipeline.cli.target import load_settings
from pipeline.errors import ConfigurationError
from pipeline.relays.fanout import Fanout, live_server
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics, served


def fanout(
    bus: Annotated[
        str | None, typer.Option("--bus", help="Address of the bus (CALLSTREAM_BUS).", metavar="URL")
    ] = None,
    data: options.Data = None,
) -> None:
    """Publish live updates on NATS subjects, beside workers on a shared bus, until Ctrl-C. `up` does so by itself."""
    settings = load_settings(data, bus=bus)
    if settings.bus is None:
        raise ConfigurationError("a fan-out needs a bus to follow: --bus URL or CALLSTREAM_BUS")
    asyncio.run(until_stopped(_show(settings)))


async def _show(settings: Settings) -> None:
    assert settings.bus is not None
    live = live_server(settings, settings.bus, settings.bus_security())
    if live is None:
        raise ConfigurationError("with Kafka, CALLSTREAM_LIVE_URL must name a NATS server for live updates")
    screen = console()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        metrics_url = stack.enter_context(served(metrics, settings.metrics_port))
        screen.print("callstream fanout")
        screen.print(f"  bus      {settings.bus}")
        screen.print(f"  live     {live.url}")
        if metrics_url is not None:
            screen.print(f"  metrics  {metrics_url}")
        bus = await await_bus(settings.bus, settings.bus_security())
        stack.push_async_callback(bus.close)
        running = await stack.enter_async_context(Fanout(bus, live, metrics=metrics))
        metrics.ready.set(1)
        screen.print("ready: publishing live.<tenant>.<call> (Ctrl-C stops)")
        await running.run()
