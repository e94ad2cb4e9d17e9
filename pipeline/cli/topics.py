"""`callstream topics`: create and describe the topics of a deployment, and show their lag."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipeline.bus.protocol import Bus
from pipeline.cli import options
from pipeline.cli.commands import plain
from pipeline.cli.data_directory import DataDirectory
from pipeline.cli.tables import render
from pipeline.cli.target import connect, load_settings
from pipeline.clock import SECONDS_PER_DAY
from pipeline.settings import Settings
from pipeline.wiring import topology

_NAMES = tuple(row.name for row in topology.topic_rows())

Rows = list[dict[str, Any]]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def app() -> typer.Typer:
    """Topics on the bus: create, describe, show lag."""
    return plain(help=app.__doc__, commands={"create": create, "describe": describe, "lag": lag})


def create(as_json: AsJson = False, bus: options.BusUrl = None, data: options.Data = None) -> None:
    """Create missing topics, as `up` and workers do when they start. Existing topics stay unchanged."""
    _print(_create, bus, data, as_json=as_json)


def describe(as_json: AsJson = False, bus: options.BusUrl = None, data: options.Data = None) -> None:
    """Show each topic: partitions, retention, size limit, records, writers and readers."""
    _print(_describe, bus, data, as_json=as_json)


def lag(as_json: AsJson = False, bus: options.BusUrl = None, data: options.Data = None) -> None:
    """Show the lag: how many records of each topic every consumer group has not finished."""
    _print(_lag, bus, data, as_json=as_json)


def _print(
    look: Callable[[Bus, Settings], Awaitable[Rows]], url: str | None, data: Path | None, *, as_json: bool
) -> None:
    settings = load_settings(data, log_level="warning", bus=url)

    async def rows() -> Rows:
        async with connect(DataDirectory(settings)) as bus:
            return await look(bus, settings)

    found = asyncio.run(rows())
    typer.echo(render(list(found[0]), [list(row.values()) for row in found], "json" if as_json else "table"))


async def _create(bus: Bus, settings: Settings) -> Rows:
    before = {state.name for state in await bus.describe(_NAMES)}
    await bus.ensure_topics(
        topology.topic_specs(
            partitions=settings.partitions,
            retention_days=settings.retention_days,
            store_bytes=settings.store_bytes,
        )
    )
    return [
        {"topic": state.name, "partitions": state.partitions, "created": state.name not in before}
        for state in await bus.describe(_NAMES)
    ]


async def _describe(bus: Bus, _settings: Settings) -> Rows:
    """Return a row per topic. A topic missing on the broker has no partitions."""
    states = {state.name: state for state in await bus.describe(_NAMES)}
    rows = []
    for row in topology.topic_rows():
        state = states.get(row.name)
        kept_days = None if state is None or state.retention_s is None else state.retention_s / SECONDS_PER_DAY
        rows.append(
            {
                "topic": row.name,
                "partitions": state and state.partitions,
                "kept_days": kept_days,
                "max_bytes": state and state.max_bytes,
                "replicas": state and state.replicas,
                "compacted": state and state.compacted,
                "records": state and state.records,
                "bytes": state and state.size_bytes,
                "written_by": row.written_by,
                "read_by": ", ".join(row.read_by),
            }
        )
    return rows


async def _lag(bus: Bus, _settings: Settings) -> Rows:
    rows = []
    for group in topology.groups_of():
        for lane in group.lanes:
            subscription = group.subscription(lane)
            for topic in subscription.topics:
                waiting = await bus.lag(msgspec.structs.replace(subscription, topics=(topic,)))
                rows.append(
                    {
                        "group": subscription.group,
                        "lane": lane if len(group.lanes) > 1 else "both",
                        "topic": topic,
                        "waiting": waiting,
                    }
                )
    return rows
