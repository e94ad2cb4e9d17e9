"""A consistent copy of a DuckDB file that another process has open, made without asking that process for anything.

DuckDB 1.5 writes the file itself in checkpoints alone; commits are appended to the write-ahead log and synced before
they return. So a copy of the file during which the file was not written, followed by a copy of the log, holds every
transaction that was committed before the copy began. The end of a log that is being appended to may be torn: DuckDB
leaves out the transaction that lacks its end, as it does after a crash.

The process that has the file open must not copy it: closing a file gives up DuckDB's lock on it (POSIX).
"""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Final

from stages.errors import MachineFailure

_LOGS: Final = (".wal", ".wal.checkpoint", ".wal.recovery")
"""Endings of the write-ahead log, and of its parts while a checkpoint or a recovery runs or after it was killed."""

_CLOCK_STEP_S: Final = 0.02
"""Longer than the steps of a file system's clock (4 ms on Linux): two writes this far apart have different times."""

_KEPT_FREE_BYTES: Final = 256 * 1024 * 1024
"""What a copy leaves free on the disk, for those that write calls there."""

_NO_RANGE_COPY: Final = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def take(source: Path, target: Path, *, patience_s: float = 10.0) -> None:
    """Copy the database `source` with its log to `target`. Files that can share their blocks do.

    Raises FileNotFoundError without a source, MachineFailure if the disk has too little room or if `source` was
    checkpointed during each attempt for `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while True:
        before = _at_rest(source)
        _check_room(source, target.parent)
        _copy(source, target)
        for ending in _LOGS:
            _copy_log(_with(source, ending), _with(target, ending))
        if _identity(source) == before:
            return
        if time.monotonic() > deadline:
            raise MachineFailure(f"{source} was rewritten during each copy for {patience_s:g} s")


def remove(target: Path) -> None:
    """Remove the names of a copy. Whoever has it open reads on; the room is free when the last one closes it."""
    for ending in ("", *_LOGS):
        _with(target, ending).unlink(missing_ok=True)


def room_bytes(folder: Path) -> int:
    """Return what readers may still take of the disk of `folder`."""
    return max(0, shutil.disk_usage(folder).free - _KEPT_FREE_BYTES)


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _at_rest(path: Path) -> tuple[int, int, int]:
    """Return the file's identity once its last write is so old that another one would change the time."""
    found = _identity(path)
    while True:
        time.sleep(_CLOCK_STEP_S if abs(time.time_ns() - found[2]) < 1e9 * _CLOCK_STEP_S else 0)
        again = _identity(path)
        if again == found:
            return found
        found = again


def _check_room(source: Path, folder: Path) -> None:
    needed = sum(path.stat().st_size for path in map(_with, [source] * 2, ("", ".wal")) if path.exists())
    if needed > room_bytes(folder):
        raise MachineFailure(
            f"a query reads a copy of {source}, and {folder} has no room for its {needed / 1e6:.0f} MB"
            f" and the {_KEPT_FREE_BYTES / 1e6:.0f} MB that stay free"
        )


def _with(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _copy_log(source: Path, target: Path) -> None:
    try:
        _copy(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    reading = os.open(source, os.O_RDONLY)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _copy_bytes(reading, writing, os.fstat(reading).st_size)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_bytes(reading: int, writing: int, size: int) -> None:
    left = size
    try:
        while left and (copied := os.copy_file_range(reading, writing, left)):
            left -= copied
    except OSError as error:
        if error.errno not in _NO_RANGE_COPY:
            raise
    while left and (block := os.read(reading, min(left, 1 << 20))):
        view = memoryview(block)
        while view:
            view = view[os.write(writing, view) :]
        left -= len(block)
