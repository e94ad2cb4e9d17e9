"""Directories for the files of running readers: as many at a time as may run, and one copy that several of them read.

Each query holds the lock of its own directory. What nobody holds was left by a process that was killed, and is removed.
Whoever makes or counts directories, or copies the warehouse, holds the lock of the directory above them.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "readers"
"""In the data directory, on the disk of the warehouse: a file system that can share blocks between files then does."""

_SHARED: Final = "shared"
"""The directory with the last copy that was made, while readers run."""
_BEGUN: Final = "begun"
"""The file there that says when the copy was begun, by `time.monotonic`. It is written last."""

_UNLOCKED_S: Final = 10.0
"""A directory is locked right after it was made."""
_POLL_S: Final = 0.02
_TIDY_S: Final = 0.2
"""How long a reader that ends waits for those that count directories. One that copies removes the copy later."""


class ReadersBusy(Exception):
    """As many readers as may run at the same time ran until the time was up."""


@contextlib.contextmanager
def reader_folder(data: Path, *, readers: int, until_s: float) -> Iterator[Path]:
    """Make a directory that is the caller's inside the context, one of at most `readers`.

    Those of killed processes are removed first. Waits for the end of other readers until `until_s`, by
    `time.monotonic`. Raises ReadersBusy after that.
    """
    above = data / FOLDER
    above.mkdir(mode=0o700, exist_ok=True)
    folder, lock = _own_folder(above, readers, until_s)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        _tidy(above)


def _own_folder(above: Path, readers: int, until_s: float) -> tuple[Path, int]:
    while True:
        with _locked(above, until_s):
            if _sweep(above) < readers:
                folder = Path(tempfile.mkdtemp(dir=above))
                lock = os.open(folder, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                return folder, lock
        if time.monotonic() > until_s:
            raise ReadersBusy
        time.sleep(_POLL_S)


def provide_copy(folder: Path, name: str, asked_s: float, take: Callable[[Path], None]) -> Path:
    """Make the copy `name` in a reader's directory, and return its path.

    The copy of another reader serves as well if it was begun after `asked_s`, by `time.monotonic`: it holds all that
    was stored before. Else `take` makes one at the path that it is given.
    """
    copy, shared = folder / name, folder.parent / _SHARED
    with _locked(folder.parent):
        if not _link_shared(shared, folder, asked_s):
            begun_s = time.monotonic()
            take(copy)
            _share(folder, shared, begun_s)
    return copy


def sweep(data: Path) -> None:
    """Remove the directories that nobody holds, and the shared copy if no reader runs."""
    if (data / FOLDER).is_dir():
        _tidy(data / FOLDER)


def _tidy(above: Path) -> None:
    with contextlib.suppress(ReadersBusy), _locked(above, time.monotonic() + _TIDY_S):
        _sweep(above)


def _sweep(above: Path) -> int:
    """Remove what `sweep` does, with the lock held. Returns the number of readers."""
    n_held = 0
    for folder in above.iterdir():
        if folder.name == _SHARED:
            continue
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time_ns() - os.fstat(lock).st_ctime_ns > 1e9 * _UNLOCKED_S:
                    shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                n_held += 1
            finally:
                os.close(lock)
    if not n_held:
        shutil.rmtree(above / _SHARED, ignore_errors=True)
    return n_held


def _link_shared(shared: Path, folder: Path, asked_s: float) -> bool:
    """Link the files of the shared copy into a reader's directory. Returns False if it is too old for the reader."""
    try:
        if float((shared / _BEGUN).read_text()) < asked_s:
            return False
    except FileNotFoundError:
        return False
    for file in shared.iterdir():
        if file.name != _BEGUN:
            os.link(file, folder / file.name)
    return True


def _share(folder: Path, shared: Path, begun_s: float) -> None:
    """Link the files of a reader's copy into the shared directory, where the file system has links."""
    shutil.rmtree(shared, ignore_errors=True)
    try:
        shared.mkdir(mode=0o700)
        for file in folder.iterdir():
            os.link(file, shared / file.name)
        (shared / _BEGUN).write_text(repr(begun_s))
    except OSError:
        shutil.rmtree(shared, ignore_errors=True)


@contextlib.contextmanager
def _locked(above: Path, until_s: float | None = None) -> Iterator[None]:
    """Hold the lock of the directory above the readers' own. Raises ReadersBusy if it is not free until `until_s`."""
    lock = os.open(above, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if until_s is None else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if until_s is not None and time.monotonic() > until_s:
                    raise ReadersBusy from None
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(lock)
