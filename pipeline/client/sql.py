"""An analyst's own SQL, run in a process of its own that can be killed.

A DuckDB query cannot be stopped inside one vector, and in the process that owns the warehouse it takes memory and
cores from the calls. So `query` starts a reader (`pipeline.client.sql_reader`) that copies the warehouse, answers one
statement and ends. It is killed when its time is up, and it ends with the process that asked. Only so many readers of a
data directory run at a time, and a copy serves all that were asked before it was begun.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.client.reader_folders import ReadersBusy, reader_folder
from pipeline.client.sql_limits import SqlLimits
from pipeline.errors import CallstreamError, InputError, InstanceError

PlainRows = tuple[list[str], list[list[Any]]]
"""Column names, and the rows as JSON's types."""

_TIMED_OUT: Final = (-signal.SIGALRM, -signal.SIGXCPU)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader reads on its standard input."""

    database: str
    folder: str | None
    """For the reader's files; None for a warehouse without calls, which needs none."""
    asked_s: float
    """When the query was asked, by `time.monotonic`."""
    statement: str
    tenant: str | None
    limits: SqlLimits


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader writes instead of a result. `exit_code` is that of the error."""

    error: str
    exit_code: int


def query(database: Path, statement: str, limits: SqlLimits, *, tenant: str | None = None) -> PlainRows:
    """Run one SELECT on a copy of the warehouse that holds all that was stored before the call.

    Args:
        database: the warehouse's file; one that is missing is a warehouse without calls.
        tenant: the only tenant whose calls the statement can see; None for all.

    Call it from a thread that lives as long as the query: Linux ends the reader with the thread that started it.

    Raises:
        InputError: it is not one statement that reads, DuckDB refuses it, or it exceeded a limit, which is named.
        InstanceError: the warehouse cannot be copied.
    """
    asked_s = time.monotonic()
    until_s = asked_s + limits.time_s
    with _folder(database, limits, until_s) as folder, _reader(until_s) as process:
        question = Question(
            database=str(database.absolute()),
            folder=folder,
            asked_s=asked_s,
            statement=statement,
            tenant=tenant,
            limits=limits,
        )
        try:
            left_s = max(0.0, until_s - time.monotonic())
            answer, noise = process.communicate(msgspec.json.encode(question), timeout=left_s)
        except subprocess.TimeoutExpired as error:
            raise InputError(limits.time_is_up()) from error
    if process.returncode in _TIMED_OUT:
        raise InputError(limits.time_is_up())
    if process.returncode < 0:
        # What cannot allocate inside a library aborts; the system kills this process first when it is short of memory.
        raise InputError(limits.memory_is_used_up())
    if process.returncode > 0:
        raise CallstreamError(f"the reader failed: {noise.decode(errors='replace').strip()[-2000:]}")
    return _read(answer)


@contextlib.contextmanager
def _folder(database: Path, limits: SqlLimits, until_s: float) -> Iterator[str | None]:
    if not database.exists():
        yield None
        return
    with contextlib.ExitStack() as opened:
        try:
            data = database.absolute().parent
            folder = opened.enter_context(reader_folder(data, readers=limits.readers, until_s=until_s))
        except ReadersBusy as error:
            raise InputError(limits.readers_are_busy()) from error
        except OSError as error:
            raise InstanceError(f"a query reads a copy of the warehouse, which cannot be made: {error}") from error
        yield str(folder)


@contextlib.contextmanager
def _reader(until_s: float) -> Iterator["subprocess.Popen[bytes]"]:
    pipe = subprocess.PIPE
    # A group of its own, so that Ctrl-C reaches the command alone. Not a session: those share the cores evenly.
    command = [sys.executable, "-c", _START, str(os.getpid()), str(until_s), *sys.path]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


_START: Final = "import sys; sys.path[:] = sys.argv[3:]; from pipeline.client.sql_reader import main; main()"
"""The reader finds the modules where this process found them."""


def _read(answer: bytes) -> PlainRows:
    if answer.startswith(b'{"error"'):
        refusal = msgspec.json.decode(answer, type=Refusal)
        kind = next((e for e in (InputError, InstanceError) if e.exit_code == refusal.exit_code), CallstreamError)
        raise kind(refusal.error)
    # Not msgspec: it reads whole numbers of more than 64 bits as fractions.
    found = json.loads(answer)
    return found["columns"], found["rows"]
