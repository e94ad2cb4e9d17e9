"""The results of a run as outsiders see them: all records on all topics, and the tables of the warehouse."""

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from benchmarks.harness.clients import PlainClient, Seen
from pipeline.instance import DATABASE_FILE
from pipeline.wiring.topology import topic_rows

CLOCK_COLUMNS = {"uploaded_at", "processed_at", "created_at", "started_at", "completed_at", "updated_at"}
"""Timestamps of records on the bus: they differ from run to run."""
RUN_FIELDS = ("opened_at", "at", "position")
"""Timestamps, and positions on the bus, by which a deferred transcript is found."""


class RecordSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A record. `same` is the digest that another run must repeat, without `RUN_FIELDS`; `whole` that of everything."""

    topic: str
    partition: int
    source: str
    event_id: str
    event_type: str
    tenant: str
    call_id: str
    seq: int | None
    whole: str
    same: str
    kind: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    records: list[RecordSeen]
    tables: dict[str, list[dict[str, Any]]]


async def read_evidence(client: PlainClient, data: Path) -> Evidence:
    """Read everything. Call it after the owner of the data directory has ended."""
    records = [_record(seen) for row in topic_rows() async for seen in client.read(row.name)]
    return Evidence(records=records, tables=_tables(data / DATABASE_FILE))


def _record(seen: Seen) -> RecordSeen:
    headers = dict(seen.headers)
    content = _content(headers.get("content-type", ""), seen.value)
    kind = str(content.get("type", "")) if isinstance(content, dict) else ""
    if isinstance(content, dict):
        for name in RUN_FIELDS:
            content.pop(name, None)
    value = repr(content).encode() if isinstance(content, dict) else seen.value
    number = headers.get("ce_callseq")
    return RecordSeen(
        topic=seen.topic,
        partition=seen.partition,
        source=headers.get("ce_source", ""),
        event_id=headers.get("ce_id", ""),
        event_type=headers.get("ce_type", ""),
        tenant=headers.get("ce_tenant", ""),
        call_id=headers.get("ce_subject", ""),
        seq=None if number is None else int(number),
        whole=_digest(headers, seen.value),
        same=_digest(headers, value),
        kind=kind,
    )


def _content(content_type: str, value: bytes) -> Any:
    if content_type == "application/json":
        return msgspec.json.decode(value)
    if content_type == "application/msgpack":
        return msgspec.msgpack.decode(value)
    return None


def _digest(headers: dict[str, str], value: bytes) -> str:
    digest = hashlib.sha256(value)
    digest.update(repr(sorted(headers.items())).encode())
    return digest.hexdigest()


def _tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
        return {name: _rows(connection, name) for (name,) in names if name != "schema_version"}


def _rows(connection: Any, table: str) -> list[dict[str, Any]]:
    found = connection.execute(f'SELECT * FROM "{table}"')
    columns = [column[0] for column in found.description]
    return [
        {name: value for name, value in zip(columns, row, strict=True) if name not in CLOCK_COLUMNS}
        for row in found.fetchall()
    ]
