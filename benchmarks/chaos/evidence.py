"""The results of a run as outsiders see them: all records on all topics, and the tables of the warehouse.

Poison, what its dead letters and ledger entries are, and the calls that it has for itself are kept apart.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from benchmarks.chaos.poison import MARK, OWN_CALLS
from benchmarks.harness.clients import PlainClient, Seen
from pipeline.instance import DATABASE_FILE
from pipeline.wiring.topology import topic_rows
from schemas.topics import DEAD_LETTERS

CLOCK_COLUMNS = {"uploaded_at", "processed_at", "created_at", "started_at", "completed_at", "updated_at"}
"""Timestamps of records on the bus: they differ from run to run."""
RUN_FIELDS = ("opened_at", "at", "position")
"""Timestamps, and positions on the bus, by which a deferred transcript is found."""
_NO_MODEL: Final = re.compile(r"Ollama at \S+ did not answer within \S+ s|no Ollama answers at [^\s'\"]+")
"""Why a summary is extractive. No language model runs: a connection is refused at once, or late on a busy machine."""


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


class PoisonLetter(msgspec.Struct, frozen=True):
    """The dead letter of the poison of that number. `topic` and `position` are those of the poison."""

    poison: int
    stage: str
    letter_id: str
    topic: str
    position: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    records: list[RecordSeen]
    letters: set[PoisonLetter]
    tables: dict[str, list[dict[str, Any]]]


async def read_evidence(client: PlainClient, data: Path) -> Evidence:
    """Read everything. Call it after the owner of the data directory has ended."""
    records, letters = [], set()
    for row in topic_rows():
        async for seen in client.read(row.name):
            if seen.topic == DEAD_LETTERS and (letter := _poison_letter(seen)) is not None:
                letters.add(letter)
            elif MARK not in seen.headers:
                records.append(_record(seen))
    ids = tuple(f"{letter.letter_id}/" for letter in letters)
    return Evidence(
        records=[
            record
            for record in records
            if not record.call_id.startswith(OWN_CALLS) and not (ids and record.event_id.startswith(ids))
        ],
        letters=letters,
        tables=_without_poison(_tables(data / DATABASE_FILE), letters),
    )


def _poison_letter(seen: Seen) -> PoisonLetter | None:
    content = json.loads(seen.value)
    number = content["headers"].get(MARK)
    if number is None:
        return None
    return PoisonLetter(int(number), content["stage"], seen.headers["ce_id"], content["topic"], content["position"])


def _without_poison(
    tables: dict[str, list[dict[str, Any]]], letters: set[PoisonLetter]
) -> dict[str, list[dict[str, Any]]]:
    own = {row["id"] for row in tables["audio_sessions"] if row["call_id"].startswith(OWN_CALLS)}
    rejected = {(letter.topic, letter.position) for letter in letters}

    def is_of_poison(row: dict[str, Any]) -> bool:
        if row["id"] in own or row.get("session_id") in own:
            return True
        detail = json.loads(row["detail"]) if row.get("status") == "rejected" and row.get("detail") else {}
        return (detail.get("topic"), detail.get("position")) in rejected

    return {name: [row for row in rows if not is_of_poison(row)] for name, rows in tables.items()}


def _record(seen: Seen) -> RecordSeen:
    headers = dict(seen.headers)
    content = _content(headers.get("content-type", ""), seen.value)
    kind = str(content.get("type", "")) if isinstance(content, dict) else ""
    if isinstance(content, dict):
        for name in RUN_FIELDS:
            content.pop(name, None)
    value = same_reason(repr(content)).encode() if isinstance(content, dict) else seen.value
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


def same_reason(text: str) -> str:
    """Return the text with one reason for the lack of a language model, whatever the run has found."""
    return _NO_MODEL.sub("no language model", text)


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
        {
            name: same_reason(value) if isinstance(value, str) else value
            for name, value in zip(columns, row, strict=True)
            if name not in CLOCK_COLUMNS
        }
        for row in found.fetchall()
    ]
