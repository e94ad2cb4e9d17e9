"""Transactions, and extensions from their wheels, for all that store rows in a DuckDB file."""

import contextlib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any, Final

from stages.errors import StageError

TRUSTING: Final = {"allow_unsigned_extensions": True}
"""Configuration of a client that loads extensions from installed packages without checking their signatures.

A command that asks a running instance would spend 0.35 s of CPU on hashing 51 MB. Owners of a file check them.
"""

NO_PROGRESS_BAR: Final = "SET enable_progress_bar = false"
"""DuckDB draws one on standard output after two seconds of a statement."""


@contextlib.contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """Commit on success: what was written inside is then durable. Roll back after an error."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def load_extensions(connection: Any, names: Sequence[str]) -> None:
    """Load extensions from their installed wheels. Nothing is copied or downloaded.

    Raises StageError if a wheel of this DuckDB's version is not installed.
    """
    (version,) = connection.execute("SELECT version()").fetchone()
    for name in names:
        try:
            file = resources.files(f"duckdb_extension_{name}") / "extensions" / version / f"{name}.duckdb_extension"
        except ModuleNotFoundError as error:
            raise StageError(f"the package duckdb-extension-{name} is not installed") from error
        if not file.is_file():
            raise StageError(f"the package duckdb-extension-{name} is not of DuckDB's version {version}")
        path = str(file).replace("'", "''")
        connection.execute(f"LOAD '{path}'")
