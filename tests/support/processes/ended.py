"""Queries a running instance, many times a second, for ended calls, as any DuckDB client can.

Each `callstream show` would take as much CPU as a second of a call.
"""

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

QUERY = """
SELECT 1 FROM audio_sessions AS s JOIN summaries AS u ON u.session_id = s.id
WHERE s.call_id = '{call}' AND s.tenant = '{tenant}' AND s.status = 'completed' AND s.revision >= {revision}
    AND u.kind = 'final'
"""


def has_ended(data: Path, call: str, tenant: str, revision: int) -> bool:
    """Return whether the instance on `data` has the call completed and summarized; False if none answers."""
    try:
        instance = json.loads((data / "instance.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    sql = QUERY.format(call=_quoted(call), tenant=_quoted(tenant), revision=revision)
    asked = f"FROM quack_query('{instance['quack_url']}', '{_quoted(sql)}', token = '{instance['quack_token']}')"
    try:
        return bool(_client().cursor().execute(asked).fetchall())
    except duckdb.Error:
        return False


@functools.cache
def _client() -> Any:
    connection = duckdb.connect(config={"allow_unsigned_extensions": True})
    for name in ("httpfs", "quack"):
        folder = resources.files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
        connection.execute(f"LOAD '{folder / f'{name}.duckdb_extension'}'")
    return connection


def _quoted(text: str) -> str:
    return text.replace("'", "''")
