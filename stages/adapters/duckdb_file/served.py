"""A DuckDB file that one process owns, serves to others, and reopens after a fatal error."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import duckdb

from stages.adapters.duckdb_file import quack
from stages.errors import MachineFailure

_MACHINE_FAILURES = ("checkpoint", "Could not write", "Could not read", "No space left", "IO Error", "Out of Memory")
"""Parts of the texts of DuckDB's fatal errors that are the disk's or the memory's."""


class ServedFile:
    """The owner's connection. Subclasses implement `_open`: it sets `connection`, or raises and leaves nothing open."""

    connection: Any
    _locks_settings: ClassVar[bool] = True
    """True if DuckDB's settings are locked while the file is served, see `quack.serve`."""

    def __init__(self) -> None:
        self._serving: tuple[str, int] | None = None
        self._served: str | None = None
        self._broken = False
        self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def serve(self, token: str, port: int) -> str:
        """Serve read-only SQL to other processes on this machine. Returns the URL for ATTACH."""
        self._serving = (token, port)
        self._served = quack.serve(self.connection, token, port, lock_settings=self._locks_settings)
        return self._served

    @contextlib.contextmanager
    def _mending(self) -> Iterator[None]:
        """Wrap each use of the connection. After a fatal error, such as a checkpoint on a full disk, DuckDB refuses
        everything until the file is reopened; the next use does that.
        """
        if self._broken:
            with contextlib.suppress(duckdb.Error):
                self.close()
            self._open()
            if self._serving is not None:
                self.serve(*self._serving)
            self._broken = False
        try:
            yield
        except duckdb.FatalException as error:
            self._broken = True
            if any(sign in str(error) for sign in _MACHINE_FAILURES):
                raise MachineFailure(str(error)) from error
            raise
        except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.ConnectionException) as error:
            raise MachineFailure(str(error)) from error

    def close(self) -> None:
        """Stop serving and close the file."""
        served, self._served = self._served, None
        try:
            if served is not None:
                quack.stop(self.connection, served)
        finally:
            self.connection.close()
