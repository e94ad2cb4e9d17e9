"""A copy of the warehouse, opened for one statement of somebody who is not trusted.

The statement may only read (see `quack.py`, whose rule it is). The engine opens no other file, its settings are locked,
and with a tenant it holds no row of others: they are not in the file that it has open.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

from stages.adapters.duckdb_file import snapshot
from stages.adapters.duckdb_file.files import NO_PROGRESS_BAR
from stages.adapters.duckdb_file.quack import AUTHORIZATION_MACRO, authorization_sql
from stages.errors import StageError

COPY: Final = "copy.duckdb"

_ATTEMPTS: Final = 5
_WITHOUT_CALLS: Final = ("schema_version",)
"""Tables that every tenant sees as a whole."""


def may_run(statement: str) -> bool:
    """Return True for one statement that only reads."""
    with _engine(":memory:", {}) as judge:
        judge.execute(authorization_sql())
        verdict: tuple[bool] = judge.execute(f"SELECT {AUTHORIZATION_MACRO}('', {_literal(statement)})").fetchone()
        return verdict[0]


def take_copy(source: Path, copy: Path) -> None:
    """Make a copy of `source` that opens, and that holds all that was committed before the call.

    Raises StageError if `source` is no warehouse of this version, MachineFailure as `snapshot.take`.
    """
    for attempt in range(_ATTEMPTS):
        snapshot.take(source, copy)
        try:
            _recover(copy)
            return
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            # A block that was read in the middle of a write; the writer changes the file's time only after it.
            if attempt == _ATTEMPTS - 1:
                raise StageError(f"{source} cannot be opened: {error}") from error
            time.sleep(0.05)


def open_copy(folder: Path, tenant: str | None, *, memory_bytes: int, temp_bytes: int) -> Any:
    """Return a read-only connection to the copy `COPY` in `folder`, whose name is removed.

    Args:
        folder: the directory of the copy, and of the engine's temporary files.
        tenant: the only one whose calls the connection sees; None for all.
    """
    copy = folder / COPY
    config = {
        "memory_limit": f"{memory_bytes}B",
        "temp_directory": str(folder / "temp") if temp_bytes else "",
        "max_temp_directory_size": f"{min(temp_bytes, snapshot.room_bytes(folder))}B",
    }
    if tenant is not None:
        own = folder / "tenant.duckdb"
        _copy_tenant(copy, own, tenant, config)
        snapshot.remove(copy)
        copy = own
    connection = duckdb.connect(str(copy), read_only=True, config=_CONFIG | config)
    # Without a name the copy ends with this process, however that ends.
    snapshot.remove(copy)
    return confine(connection)


def confine(connection: Any) -> Any:
    """Take files, network and settings from a connection. Returns it."""
    connection.execute(NO_PROGRESS_BAR)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


_CONFIG: Final[dict[str, Any]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
"""One thread: the machine is for the calls."""


@contextlib.contextmanager
def _engine(path: str, config: dict[str, Any]) -> Iterator[Any]:
    with duckdb.connect(path, config=_CONFIG | config) as connection:
        yield connection


def _recover(copy: Path) -> None:
    """Check that the copy opens. A checkpoint that was killed in its middle is undone or finished first."""
    half_done = any(copy.with_name(copy.name + ending).exists() for ending in (".wal.checkpoint", ".wal.recovery"))
    duckdb.connect(str(copy), read_only=not half_done, config=_CONFIG).close()


def _copy_tenant(copy: Path, own: Path, tenant: str, config: dict[str, Any]) -> None:
    """Make the database `own`: the schema of `copy`, and of its rows those of the tenant's calls."""
    with _engine(":memory:", config) as engine:
        engine.execute(f"ATTACH {_literal(str(copy))} AS everybody (READ_ONLY)")
        engine.execute(f"ATTACH {_literal(str(own))} AS own")
        engine.execute("COPY FROM DATABASE everybody TO own (SCHEMA)")
        for table, columns in _tables(engine):
            if (rows := _rows_of(tenant, table, columns)) is not None:
                engine.execute(f'INSERT INTO own."{table}" SELECT * FROM everybody."{table}" WHERE {rows}')
        engine.execute("CHECKPOINT own")


def _tables(engine: Any) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = engine.execute("""
        SELECT table_name, list(column_name) FROM duckdb_columns()
        WHERE database_name = 'everybody' AND NOT internal
            AND table_name IN (SELECT table_name FROM duckdb_tables() WHERE database_name = 'everybody')
        GROUP BY table_name
    """).fetchall()
    return found


def _rows_of(tenant: str, table: str, columns: list[str]) -> str | None:
    """Return the condition for the tenant's rows; None for a table that names neither tenant nor call."""
    if table in _WITHOUT_CALLS:
        return "true"
    if "tenant" in columns:
        return f"tenant = {_literal(tenant)}"
    if "session_id" in columns:
        return f"session_id IN (SELECT id FROM everybody.audio_sessions WHERE tenant = {_literal(tenant)})"
    return None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
