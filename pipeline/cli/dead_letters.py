"""`callstream dead-letters`: list, show, replay and drop records that no stage could use."""

import asyncio
import codecs
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import options
from pipeline.cli.commands import plain
from pipeline.cli.data_directory import DataDirectory
from pipeline.cli.tables import render
from pipeline.cli.target import connect, load_settings
from pipeline.client.dead_letters import DeadLetters, Letter, NotReplayable, Selection
from pipeline.errors import InputError
from pipeline.printable import one_line
from schemas.status import DeadLetter

_SHOWN_BYTES = 256
_SHOWN_MESSAGE = 70

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as printed by `list`.", metavar="ID", show_default=False)]
Call = Annotated[str | None, typer.Option("--call", help="Only records of this call.", metavar="ID")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only records of this tenant.")]
Stage = Annotated[str | None, typer.Option("--stage", help="Only records rejected by this stage.")]
Error = Annotated[
    str | None, typer.Option("--error", help="Only records with this error, or this text in its message.")
]
Topic = Annotated[str | None, typer.Option("--topic", help="Only records of this topic.")]


def app() -> typer.Typer:
    """Records that no stage could use: list, show, replay, drop."""
    return plain(help=app.__doc__, commands={"list": list_, "show": show, "replay": replay, "drop": drop})


def list_(
    call: Call = None,
    tenant: Tenant = None,
    stage: Stage = None,
    error: Error = None,
    topic: Topic = None,
    everything: Annotated[bool, typer.Option("--all", help="Also replayed and dropped ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    bus: options.BusUrl = None,
    data: options.Data = None,
) -> None:
    """List the open dead letters, by call."""
    selection = Selection(call=call, tenant=tenant, stage=stage, error=error, topic=topic)

    async def find() -> list[Letter]:
        async with _opened(bus, data) as letters:
            return letters.select(selection, resolved=everything)

    letters = asyncio.run(find())
    if as_json:
        rows = [_row(letter) for letter in letters]
        typer.echo(render(list(rows[0]) if rows else [], [list(row.values()) for row in rows], "json"))
    else:
        typer.echo(_table(letters, with_state=everything))


def show(
    letter_id: Annotated[str, typer.Argument(help="Id as printed by `list`.", metavar="ID")],
    value: Annotated[
        Path | None, typer.Option("--value", help="Write the record's whole value to this file.", metavar="FILE")
    ] = None,
    bus: options.BusUrl = None,
    data: options.Data = None,
) -> None:
    """Show a dead letter: the error, the record's position, its headers and the beginning of its value."""

    async def find() -> tuple[Letter, DeadLetter]:
        async with _opened(bus, data) as letters:
            [letter] = letters.select(Selection(ids=frozenset({letter_id})), resolved=True)
            return letter, await letters.whole(letter) if value is not None else await letters.stored(letter)

    letter, about = asyncio.run(find())
    if value is not None:
        try:
            value.write_bytes(about.value)
        except OSError as error:
            raise InputError(f"{value} cannot be written: {error.strerror}") from error
    typer.echo(_text(letter, about))


def replay(
    ids: Ids = None,
    call: Call = None,
    tenant: Tenant = None,
    stage: Stage = None,
    error: Error = None,
    topic: Topic = None,
    everything: Annotated[bool, typer.Option("--all", help="All open ones.")] = False,
    bus: options.BusUrl = None,
    data: options.Data = None,
) -> None:
    """Publish records again, unchanged, once the cause of their failure is fixed.

    A record is appended to the partition it came from, with its own id and number. Stages drop repeats, so a second
    replay does nothing. A record that fails again becomes a new dead letter.

    Replay all letters of a call together (--call): they are published in the call's order. An audio event is accepted
    while its position in the call is open: not before the call's start, not after it was filled with silence, not
    after the call's end. Later stages read a call's records in order and skip one that is older than the last: such a
    letter is refused. Send the call again under another id instead.
    """
    selection = _selection(ids, call, tenant, stage, error, topic, everything=everything)
    asyncio.run(_each(selection, bus, data, DeadLetters.replay, "replayed"))


def drop(
    ids: Ids = None,
    call: Call = None,
    tenant: Tenant = None,
    stage: Stage = None,
    error: Error = None,
    topic: Topic = None,
    everything: Annotated[bool, typer.Option("--all", help="All open ones.")] = False,
    bus: options.BusUrl = None,
    data: options.Data = None,
) -> None:
    """Give records up. `list` no longer shows them; `list --all` and `replay ID` still find them."""
    selection = _selection(ids, call, tenant, stage, error, topic, everything=everything)
    asyncio.run(_each(selection, bus, data, DeadLetters.drop, "dropped"))


@contextlib.asynccontextmanager
async def _opened(bus: str | None, data: Path | None) -> AsyncIterator[DeadLetters]:
    settings = load_settings(data, log_level="warning", bus=bus)
    async with connect(DataDirectory(settings)) as opened:
        yield await DeadLetters.read(opened)


def _selection(
    ids: list[str] | None,
    call: str | None,
    tenant: str | None,
    stage: str | None,
    error: str | None,
    topic: str | None,
    *,
    everything: bool,
) -> Selection:
    """Return the selection. Raises InputError if nothing is selected: all must be asked for with --all."""
    if not everything and not ids and not any((call, tenant, stage, error, topic)):
        raise InputError("select letters: ids, --call, --tenant, --stage, --error, --topic, or --all")
    return Selection(ids=frozenset(ids or ()), call=call, tenant=tenant, stage=stage, error=error, topic=topic)


async def _each(
    selection: Selection,
    bus: str | None,
    data: Path | None,
    action: Callable[[DeadLetters, Letter], Awaitable[None]],
    done: str,
) -> None:
    """Apply the action to every selected letter; to one selected by id even if it is closed."""
    failed = 0
    async with _opened(bus, data) as letters:
        found = letters.select(selection, resolved=bool(selection.ids))
        for letter in found:
            try:
                await action(letters, letter)
                typer.echo(f"{done} {letter.letter_id}")
            except NotReplayable as error:
                print(f"callstream: {one_line(str(error))}", file=sys.stderr)
                failed += 1
    if not found:
        print("no open dead letter matches", file=sys.stderr)
    if failed:
        raise NotReplayable(f"{failed} of {len(found)} were not {done}")


def _row(letter: Letter) -> dict[str, Any]:
    about, call = letter.letter, letter.call
    return {
        "id": letter.letter_id,
        "call": None if call is None else call.call_id,
        "tenant": None if call is None else call.tenant,
        "stage": about.stage,
        "topic": about.topic,
        "partition": about.partition,
        "position": about.position,
        "event": letter.seq,
        "type": about.headers.get("ce_type"),
        "error": about.error,
        "message": about.message,
        "attempts": about.attempts,
        "value_bytes": about.value_bytes,
        "at": about.at,
        "state": letter.state,
        "resolved_at": None if letter.resolved is None else letter.resolved.at,
    }


def _table(letters: list[Letter], *, with_state: bool) -> str:
    columns = ["id", "call", "event", "type", "error", "message", "at"] + (["state"] if with_state else [])
    rows = []
    for row in map(_row, letters):
        message = row["message"]
        row["message"] = message if len(message) <= _SHOWN_MESSAGE else f"{message[: _SHOWN_MESSAGE - 1]}…"
        row["at"] = _time_text(row["at"])
        rows.append([row[name] for name in columns])
    return render(columns, rows, "table")


def _text(letter: Letter, about: DeadLetter) -> str:
    """Return the lines that describe a letter."""
    call, resolved = letter.call, letter.resolved
    lines = {
        "id": letter.letter_id,
        "state": letter.state + ("" if resolved is None else f" at {_time_text(resolved.at)}"),
        "call": "unknown" if call is None else f"{call.call_id} (tenant {call.tenant})",
        "event": "unknown" if letter.seq is None else str(letter.seq),
        "stage": f"{about.stage}, after {about.attempts} attempt{'' if about.attempts == 1 else 's'}",
        "error": f"{about.error}: {about.message}",
        "record": f"{about.topic}, partition {about.partition}, position {about.position}",
        "at": _time_text(about.at),
        "key": _bytes_text(about.key),
        **{f"  {one_line(name)}": text for name, text in about.headers.items()},
        "value": f"{about.value_bytes} bytes" + (", the letter holds not all of the record" if about.cut else ""),
    }
    width = max(map(len, lines)) + 2
    shown = [f"{name:<{width}}{one_line(text)}" for name, text in lines.items()]
    return "\n".join([*shown, _bytes_text(about.value)])


def _bytes_text(data: bytes) -> str:
    """Return the beginning of the value, as text if all of it is text."""
    shown = data[:_SHOWN_BYTES]
    more = f" … and {len(data) - len(shown)} bytes more" if len(data) > len(shown) else ""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(shown, final=not more)
    except UnicodeDecodeError:
        text = ""
    return (text if text.isprintable() and text else shown.hex(" ", -4)) + more


def _time_text(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
