"""What another user of the machine can see and do: a process that gives up root and tries.

    python -m tests.support.processes.second_user DATA BUS_URL SQL_URL METRICS_URL

Prints one JSON object: by attempt, what it got, or None where it was refused. The addresses are given, because a port
scan would find them.
"""

import asyncio
import contextlib
import encodings.idna  # noqa: F401  # sockets import it when they are used
import importlib
import io
import json
import os
import pkgutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import duckdb
import nats
import nats.errors
import typer

from pipeline.cli.commands import load
from pipeline.cli.main import main

NOBODY: Final = 65534


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def listed(folder: Path) -> list[str] | None:
    try:
        return sorted(path.name for path in folder.iterdir())
    except PermissionError:
        return None


def readable(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        with contextlib.suppress(PermissionError, FileNotFoundError):
            path.read_bytes()
            found.append(path.name)
    return found


async def on_the_bus(url: str) -> str | None:
    """Do what any client could: list the streams, listen to all live updates, forge a record, delete all audio."""
    refusals: list[Exception] = []

    async def note(error: Exception) -> None:
        refusals.append(error)

    try:
        client = await nats.connect(url, allow_reconnect=False, max_reconnect_attempts=0, error_cb=note)
    except (nats.errors.Error, OSError):
        return None
    streams = [info.config.name for info in await client.jetstream().streams_info()]
    await client.subscribe("live.>")
    stored = await client.jetstream().publish("calls.status.0.Zm9yZ2Vk", b"{}")
    await client.jetstream().purge_stream("calls-audio")
    await client.close()
    return f"{len(streams)} streams, forged record {stored.seq}, audio deleted, {len(refusals)} refusals"


def sql_client() -> Any:
    """Return a DuckDB client with what Quack needs."""
    client = duckdb.connect()
    for name in ("httpfs", "quack"):
        folder = files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
        client.execute(f"LOAD '{folder / name}.duckdb_extension'")
    return client


def sql(client: Any, url: str) -> dict[str, Any]:
    """Ask without the token, which no file gives away."""
    try:
        client.execute(f"ATTACH '{url}' AS calls (TOKEN 'a guess of more than thirty-two letters')")
        return {"answer": str(client.execute("SELECT count(*) FROM calls.calls").fetchall())}
    except duckdb.Error as error:
        return {"answer": None, "said": str(error)}


def metrics(url: str) -> str:
    text: str = urllib.request.urlopen(url, timeout=5).read().decode()
    return text


def command(*arguments: str) -> dict[str, Any]:
    """Run a command of callstream in this process: this user may not be able to start the interpreter again."""
    said = io.StringIO()
    sys.argv = ["callstream", *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        except OSError as error:
            code = f"a traceback: {error}"
    return {"code": code, "said": said.getvalue()}


def command_lines() -> str:
    """Return what every user can read of all processes."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(lines)


def attempts(data: Path, bus_url: str, sql_url: str, metrics_url: str) -> dict[str, Any]:
    inside = [path for path in data.rglob("*") if path.is_file()]
    for name in ("status", "calls", "credentials", "up"):  # nobody may be unable to read the interpreter's folder
        load(name)
    for module in pkgutil.walk_packages(typer.__path__, "typer."):
        with contextlib.suppress(Exception):  # some are for other systems
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:  # what a command imports on its way to an error
        for name in ("status", "calls", "credentials"):
            command(name, "--data", f"{folder}/none")
    client = sql_client()
    become_nobody()
    tries: dict[str, Callable[[], object]] = {
        "listed": lambda: listed(data),
        "read": lambda: readable(inside),
        "bus": lambda: asyncio.run(on_the_bus(bus_url)),
        "sql": lambda: sql(client, sql_url),
        "metrics": lambda: metrics(metrics_url),
        "command lines": command_lines,
        "status": lambda: command("status", "--json"),
        "calls": lambda: command("calls"),
        "credentials": lambda: command("credentials"),
        "up": lambda: command("up"),
    }
    return {name: attempt() for name, attempt in tries.items()} | {"user": os.geteuid()}


if __name__ == "__main__":
    print(json.dumps(attempts(Path(sys.argv[1]), *sys.argv[2:])))
