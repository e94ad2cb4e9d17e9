"""What everything that keeps its rows in a DuckDB file needs: transactions, and extensions out of their wheels."""

import contextlib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from stages.errors import StageError


@contextlib.contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """All that is written inside is durable after it; after an error nothing is stored."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def load_extensions(connection: Any, names: Sequence[str]) -> None:
    """Load extensions from where their wheels put them: nothing is copied or downloaded.

    Raises StageError when no wheel of this DuckDB's version is installed.
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
