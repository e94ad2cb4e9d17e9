"""`callstream watch`: print a call in progress."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipeline.bus.protocol import Bus, Feed
from pipeline.cli import options
from pipeline.cli.consoles import console, stdout_console
from pipeline.cli.data_directory import DataDirectory, call_ref
from pipeline.cli.display import clock_text, speaker_style, turn_line
from pipeline.cli.signals import until_stopped
from pipeline.cli.target import connect, load_settings
from pipeline.client.live_text import FOLLOWED, CallViewer, PartialsRequest
from pipeline.printable import one_line
from schemas import topics
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.partials import Partial

_DRAW_S = 0.1


def watch(
    call: Annotated[str, typer.Argument(help="Call id.", metavar="ID")],
    tenant: options.Tenant = DEFAULT_TENANT,
    bus: options.BusUrl = None,
    data: options.Data = None,
) -> None:
    """Print a call in progress, including text that is still being spoken, until it ends or Ctrl-C.

    A live call gets partials for as long as somebody watches it, whatever its start says.
    """
    settings = load_settings(data, log_level="warning", bus=bus)
    reference = call_ref(tenant, call)

    async def read_along() -> None:
        async with connect(DataDirectory(settings)) as opened:
            await _read_along(opened, reference)

    asyncio.run(until_stopped(read_along()))


async def _read_along(bus: Bus, call: CallRef) -> None:
    viewer, request, notes = CallViewer(), PartialsRequest(bus, call), console()
    feed = await bus.follow(FOLLOWED, key=call.key)
    async with _running(_follow(feed, viewer, request), request.run(), _catch_up(bus, call, viewer, notes)) as tasks:
        try:
            with Screen(stdout_console()) as screen:
                while not viewer.over:
                    screen.draw(viewer)
                    await asyncio.sleep(_DRAW_S)
                    for task in tasks:
                        if task.done():
                            task.result()
                screen.draw(viewer)
        finally:
            await feed.close()
    assert viewer.completed is not None
    notes.print(f"{call.call_id} has ended after {viewer.completed.duration_s:.1f} s", markup=False)


async def _follow(feed: Feed, viewer: CallViewer, request: PartialsRequest) -> None:
    async for record in feed:
        request.found(record.partition)
        viewer.apply(record)


async def _catch_up(bus: Bus, call: CallRef, viewer: CallViewer, notes: Console) -> None:
    viewer.catch_up([record async for record in bus.stored(topics.TRANSCRIPTS, key=call.key)])
    if not viewer.known:
        notes.print(f"no speech in {call.call_id} yet: waiting", markup=False)


@contextlib.asynccontextmanager
async def _running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Screen:
    """On a terminal, partials are updated in place below the turns; elsewhere each one is a line."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._live = Live(console=self._out, auto_refresh=False, transient=True) if self._out.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, viewer: CallViewer) -> None:
        changed = viewer.take_partials()
        if self._live is None:
            for partial in changed:
                self._out.print(partial_line(partial))
        for turn in viewer.take_turns():
            self._out.print(turn_line(turn))
        if self._live is not None:
            self._live.update(Group(*map(partial_line, viewer.open_partials)), refresh=True)


def partial_line(partial: Partial) -> Text:
    """Format like a turn, followed by an ellipsis while it is in progress."""
    return Text.assemble(
        (f"{clock_text(partial.start_s)}–{clock_text(partial.end_s)}  ", "dim"),
        (f"{one_line(partial.speaker):<10}", speaker_style(partial.channel)),
        one_line(partial.committed),
        ("" if partial.final else f"{partial.tail if partial.committed else partial.tail.lstrip()} …", "dim"),
    )
