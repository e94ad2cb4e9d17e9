"""The reader process of `pipeline.client.sql`: one question on standard input, one answer on standard output."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from pipeline.client.reader_folders import provide_copy
from pipeline.client.sql import Question, Refusal
from pipeline.client.sql_limits import SqlLimits
from pipeline.client.values import plain
from pipeline.errors import CallstreamError, InputError, InstanceError
from stages.adapters.duckdb_file import confined
from stages.adapters.duckdb_file.quack import NO_READ
from stages.errors import StageError

MAX_RESULT_BYTES: Final = 256_000_000

_PR_SET_PDEATHSIG: Final = 1
_GRACE_S: Final = 0.3
"""The process that asked ends the reader when the time is up; if it cannot, the system does so this much later."""

_SLACK_BYTES: Final = 256 * 1024 * 1024
"""Addresses beside DuckDB's own memory: the rows as Python objects, and what its accounting leaves out."""

_PATIENT_S: Final = 2.0
_ROWS_AT_ONCE: Final = 1000
_FILES: Final = 64
_FILES_FULL: Final = ("File too large", "No space left")


def main() -> None:
    """Answer. Arguments: the id of the process that asks, and when the time is up by `time.monotonic`, which all
    processes of the machine share.
    """
    _end_in_time(int(sys.argv[1]), float(sys.argv[2]))
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    # What a library prints, such as a progress bar, is not the answer's.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        out.write(_answer(question))
    # DuckDB would tidy its memory up for a while.
    os._exit(0)


def _end_in_time(parent: int, until_s: float) -> None:
    """Have the system end this process with the one that asked, and when its time is up. DuckDB cannot put that off."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, until_s - time.monotonic() + _GRACE_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    threading.Thread(target=_watch, args=[parent], daemon=True).start()


def _watch(parent: int) -> None:
    """End with the parent where the system does not see to it, and step back behind the calls after `_PATIENT_S`."""
    started_s = time.monotonic()
    _set_nice(5)
    patient = False
    while os.getppid() == parent:
        if not patient and time.monotonic() - started_s > _PATIENT_S:
            _set_nice(19)
            patient = True
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def _set_nice(nice: int) -> None:
    """Give all threads of this process, a group of its own, at least that niceness: less needs a privilege.

    Not SCHED_IDLE: on a busy machine a killed process of that class waits for seconds until it may end.
    """
    os.setpriority(os.PRIO_PGRP, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))


def _answer(question: Question) -> bytes:
    try:
        connection = _opened(question)
        _limit(question.limits)
        if not confined.may_run(question.statement):
            raise InputError(NO_READ)
        return _run(connection, question.statement, question.limits)
    except (CallstreamError, StageError, duckdb.Error, MemoryError, OSError) as error:
        refusal = _refused(error, question.limits)
        return msgspec.json.encode(Refusal(error=str(refusal), exit_code=refusal.exit_code))


def _refused(error: Exception, limits: SqlLimits) -> CallstreamError:
    """Return the error for the one who asked: it names the limit that was exceeded."""
    text = str(error)
    match error:
        case CallstreamError():
            return error
        case StageError() | OSError():
            return InstanceError(text)
        case duckdb.OutOfMemoryException() if "temp_directory_size" in text:
            return InputError(limits.temp_is_used_up())
        case duckdb.IOException() if any(sign in text for sign in _FILES_FULL):
            return InputError(limits.temp_is_used_up())
        case MemoryError() | duckdb.OutOfMemoryException():
            return InputError(limits.memory_is_used_up())
    return InputError(text)


def _opened(question: Question) -> Any:
    """Open the copy that the question is asked of."""
    limits = question.limits
    if question.folder is None:
        from stages.sink.tables import Tables

        # An empty warehouse in memory gives the same answers without creating the file.
        return confined.confine(Tables(Path(":memory:")).connection)
    source, folder = Path(question.database), Path(question.folder)
    provide_copy(folder, confined.COPY, question.asked_s, lambda copy: confined.take_copy(source, copy))
    return confined.open_copy(
        folder,
        question.tenant,
        memory_bytes=limits.memory_bytes,
        temp_bytes=limits.temp_bytes,
    )


def _limit(limits: SqlLimits) -> None:
    """Limit memory and files by the system: DuckDB counts neither lists nor long values against its own limit."""
    addresses = limits.memory_bytes + _SLACK_BYTES + _addresses_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.temp_bytes, limits.temp_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))


def _addresses_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 1 << 30
    return pages * resource.getpagesize()


def _run(connection: Any, statement: str, limits: SqlLimits) -> bytes:
    found = connection.execute(statement)
    columns = [column[0] for column in found.description or []]
    blocks: list[str] = []
    n_rows = n_bytes = 0
    while rows := found.fetchmany(_ROWS_AT_ONCE):
        n_rows += len(rows)
        if n_rows > limits.rows:
            raise InputError(limits.too_many_rows())
        blocks.append(json.dumps([[plain(value) for value in row] for row in rows], ensure_ascii=False)[1:-1])
        n_bytes += len(blocks[-1])
        if n_bytes > MAX_RESULT_BYTES:
            raise InputError(f"the result has more than {MAX_RESULT_BYTES / 1e6:.0f} MB: select less")
    text = f'{{"columns": {json.dumps(columns)}, "rows": [{", ".join(blocks)}]}}'
    return text.encode(errors="replace")
