"""`callstream up` and `callstream worker`."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli import options
from pipeline.cli.consoles import console
from pipeline.cli.signals import until_stopped
from pipeline.cli.target import load_settings
from pipeline.errors import ConfigurationError
from pipeline.instance import InstanceInfo
from pipeline.settings import Settings
from pipeline.wiring.embedded import Embedded
from pipeline.wiring.stage import StageWiring
from pipeline.wiring.stage_list import STAGES, enabled_stages, stage_named


def up(data: options.Data = None) -> None:
    """Run the bus and all stages until Ctrl-C."""
    settings = load_settings(data)
    asyncio.run(until_stopped(_serve(settings, enabled_stages(settings))))


def worker(
    stage: Annotated[
        str, typer.Argument(help=f"One of {', '.join(wiring.name for wiring in STAGES)}.", metavar="STAGE")
    ],
    bus: Annotated[
        str | None, typer.Option("--bus", help="Address of the bus (CALLSTREAM_BUS).", metavar="URL")
    ] = None,
    data: options.Data = None,
) -> None:
    """Run one stage on a shared bus, until Ctrl-C."""
    wiring = stage_named(stage)
    settings = load_settings(data, bus=bus)
    if settings.bus is None:
        raise ConfigurationError(
            "a worker needs a shared bus: --bus nats://HOST:PORT or kafka://HOST:PORT, or CALLSTREAM_BUS"
        )
    asyncio.run(until_stopped(_serve(settings, (wiring,))))


async def _serve(settings: Settings, stages: tuple[StageWiring, ...]) -> None:
    screen = console()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with Embedded(settings, stages=stages) as embedded:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        _greet(screen, embedded.instance, settings, stages)
        ending = asyncio.create_task(stopping.wait())
        failing = asyncio.create_task(embedded.worker.wait())
        ready = asyncio.create_task(embedded.worker.ready.wait())
        try:
            await asyncio.wait({ending, failing, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                screen.print(f"ready: {', '.join(wiring.name for wiring in stages)} (Ctrl-C stops)")
                await asyncio.wait({ending, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                failing.result()
            screen.print("stopping: unfinished work resumes at the next start")
        finally:
            for task in (ending, failing, ready):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(ending, failing, ready, return_exceptions=True)


def _greet(screen: Console, instance: InstanceInfo, settings: Settings, stages: tuple[StageWiring, ...]) -> None:
    screen.print(f"callstream on {settings.data}")
    screen.print(f"  bus      {instance.bus_url}")
    if instance.producer_credentials is not None:
        screen.print(f"  login    {instance.producer_credentials} (for producers)")
    if instance.quack_url is not None:
        screen.print(f"  SQL      {instance.quack_url} (DuckDB's Quack, read-only; or `callstream sql`)")
    if instance.live_url is not None:
        screen.print(f"  live     {instance.live_url} (NATS subjects live.<tenant>.<call>)")
    if instance.metrics_url is not None:
        screen.print(f"  metrics  {instance.metrics_url}")
    for wiring in stages:
        for label, text in wiring.shows(settings).items():
            screen.print(f"  {label:<8} {text}")
