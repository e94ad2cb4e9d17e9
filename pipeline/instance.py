"""Ownership of a data directory, and the addresses of the instance that runs on it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, TypeVar

import msgspec

from pipeline.errors import InstanceError
from stages.sink.losses import Loss

LOCK_FILE: Final = "lock"
INSTANCE_FILE: Final = "instance.json"
DATABASE_FILE: Final = "callstream.duckdb"

STARTING_S: Final = 30.0
"""The longest time between an owner's lock and its first announcement: it opens the bus and the warehouse."""

_PATIENCE_S: Final = 1.0
"""`read_instance` holds the lock for microseconds. An owner that starts just then retries for this long."""


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The announcement of a running instance. It holds a token, so only its user may read it."""

    pid: int
    bus_url: str
    quack_url: str | None
    quack_token: str | None
    metrics_url: str | None
    started_at: float
    """Unix time in seconds."""
    owner_credentials: str | None = None
    """The file by which the directory's owner logs in to the embedded bus; None if that asks for no login."""
    producer_credentials: str | None = None
    """The file by which producers do."""
    live_url: str | None = None
    """The NATS server of live updates."""
    ready: bool = False
    """True while models are loaded and every group with waiting records moves."""
    stalled: list[str] = []
    """The groups that stand still."""
    lost: list[Loss] = []
    """The records that the broker deleted unread, as far as the warehouse knows."""


class Owner(Protocol):
    """The announcement of a directory's owner. `pid` identifies the holder of the lock."""

    @property
    def pid(self) -> int: ...


OwnerInfo = TypeVar("OwnerInfo", bound=Owner)


class DataLock:
    """Exclusive ownership of a data directory inside the context. It ends with the process, however that ends.

    Entering raises InstanceError with the owner's process id if another process owns the directory.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: int | None = None

    def __enter__(self) -> "DataLock":
        file = os.open(self._data / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _PATIENCE_S
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(file)
                raise InstanceError(f"{self._data} is in use by process {holder}")
            time.sleep(0.01)
        self._file = file
        (self._data / INSTANCE_FILE).unlink(missing_ok=True)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            (self._data / INSTANCE_FILE).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def announce(self, info: Owner) -> None:
        """Write the owner's announcement. Readers see the old or the new one, never a part."""
        target = self._data / INSTANCE_FILE
        draft = target.with_suffix(".new")
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(msgspec.json.encode(info))
        draft.replace(target)


def read_instance(data: Path) -> InstanceInfo | None:
    """Return the instance that owns the directory, None if there is none or it has not announced itself yet."""
    return read_owner(data, InstanceInfo)


def read_owner(directory: Path, kind: type[OwnerInfo]) -> OwnerInfo | None:
    """Return the announcement of the owner of any directory with a `DataLock`. `kind`: its type."""
    with _opened(directory / LOCK_FILE) as lock:
        if lock is None or _try_lock(lock, fcntl.LOCK_SH):
            return None
        holder = os.pread(lock, 32, 0).strip()
        try:
            info = msgspec.json.decode((directory / INSTANCE_FILE).read_bytes(), type=kind)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return info if str(info.pid).encode() == holder else None


def find_instance(data: Path, *, patience_s: float = STARTING_S) -> InstanceInfo | None:
    """Return the instance that owns the directory, after waiting for an owner that is just starting.

    Raises InstanceError if the owner announces nothing for `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while (instance := read_instance(data)) is None and _is_owned(data):
        if time.monotonic() > deadline:
            raise InstanceError(f"{data} is in use by a process that has not announced its address")
        time.sleep(0.05)
    return instance


def _is_owned(data: Path) -> bool:
    with _opened(data / LOCK_FILE) as lock:
        return lock is not None and not _try_lock(lock, fcntl.LOCK_SH)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
