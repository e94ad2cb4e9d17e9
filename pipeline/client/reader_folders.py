"""Directories for the files of running readers, and the removal of those whose reader was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "readers"
"""In the data directory, on the disk of the warehouse: a file system that can share blocks between files then does."""

_UNLOCKED_S: Final = 10.0
"""A directory is locked right after it was made."""


@contextlib.contextmanager
def reader_folder(data: Path) -> Iterator[Path]:
    """Make a directory that is the caller's inside the context. Those of killed processes are removed first."""
    above = data / FOLDER
    above.mkdir(mode=0o700, exist_ok=True)
    sweep(data)
    folder = Path(tempfile.mkdtemp(dir=above))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(data: Path) -> None:
    """Remove the directories that nobody holds."""
    if not (data / FOLDER).is_dir():
        return
    for folder in (data / FOLDER).iterdir():
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time_ns() - os.fstat(lock).st_ctime_ns > 1e9 * _UNLOCKED_S:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
