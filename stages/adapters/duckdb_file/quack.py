"""Read-only SQL for other processes over DuckDB's Quack protocol, served by the process that owns the file.

It is for the product's own queries and for operators on this machine: a statement that runs cannot be stopped, also
when its client has gone, and takes memory and cores from the owner. Statements of others run on a copy, see
`confined.py`.

Before Quack runs a statement or a bulk append (as the text `INSERT INTO …`, seen on 1.5.5), it calls an authorization
function. Ours parses the text with DuckDB's own parser. It admits exactly one statement, of the SELECT family, that
calls no function with side effects and no table function outside a short list. In addition, the instance has no access
to files or the network, and its settings are locked.
"""

import secrets
import socket
from pathlib import Path
from typing import Any, Final

from stages.adapters.duckdb_file import files

AUTHORIZATION_MACRO: Final = "callstream_may_run"

NO_READ: Final = "only one statement that reads is run: SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW or SUMMARIZE"
"""What is said about a statement that the macro refuses."""

_TABLE_FUNCTIONS: Final = (
    "duckdb_columns",
    "duckdb_constraints",
    "duckdb_databases",
    "duckdb_functions",
    "duckdb_indexes",
    "duckdb_keywords",
    "duckdb_schemas",
    "duckdb_tables",
    "duckdb_types",
    "duckdb_views",
    "generate_series",
    "histogram",
    "histogram_values",
    "json_each",
    "json_tree",
    "pragma_table_info",
    "pragma_version",
    "range",
    "repeat",
    "summary",
    "unnest",
)
"""Allowed in FROM: functions that read the catalog or their arguments. Not `query`, which parses a text of its own."""

_REFUSED_FUNCTIONS: Final = ("currval", "nextval", "setseed", "sleep_ms", "write_log")
"""Functions with side effects: DuckDB 1.5.5's `has_side_effects` without identifiers, random numbers and the like."""


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def authorization_sql() -> str:
    """Return the SQL that creates the macro, in the database file: Quack calls it on a connection of its own."""
    return f"""
CREATE OR REPLACE MACRO {AUTHORIZATION_MACRO}(connection_id, statement) AS coalesce((
    SELECT tree ->> '$.error' = 'false'
        AND json_array_length(tree, '$.statements') = 1
        AND len(list_filter(
            json_extract_string(tree, '$..function.function_name'),
            lambda name: lower(name) NOT IN ({_quoted(_TABLE_FUNCTIONS)})
        )) = 0
        AND len(list_filter(
            json_extract_string(tree, '$..function_name'),
            lambda name: lower(name) IN ({_quoted(_REFUSED_FUNCTIONS)}) OR starts_with(lower(name), 'quack')
        )) = 0
    FROM (SELECT json_serialize_sql(statement::VARCHAR) AS tree)
), false)
"""


def load_extensions(connection: Any) -> None:
    """Load Quack and the HTTP client that it needs. Raises StageError if a wheel is missing."""
    files.load_extensions(connection, ("httpfs", "quack"))


def serve(connection: Any, token: str, port: int, *, lock_settings: bool = True) -> str:
    """Serve on 127.0.0.1, in DuckDB's own threads. Returns the URL for ATTACH.

    From then on the instance, this connection included, cannot open other files. With `lock_settings` it cannot change
    settings either. Clients can do neither in any case.
    """
    url = f"quack:127.0.0.1:{port}"
    load_extensions(connection)
    connection.execute(f"SET GLOBAL quack_authorization_function = '{AUTHORIZATION_MACRO}'")
    connection.execute("CALL quack_serve(?, token = ?)", [url, token])
    connection.execute("SET GLOBAL enable_external_access = false")
    if lock_settings:
        connection.execute("SET GLOBAL lock_configuration = true")
    return url


def stop(connection: Any, url: str) -> None:
    connection.execute("CALL quack_stop(?)", [url])


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def kept_token(path: Path) -> str:
    """Return the token in `path`, a file that only its owner can read. Created on first use; clients may keep it."""
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = ""
    if len(token) < 32:
        token = secrets.token_hex(32)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(token + "\n")
    return token
