"""The warehouse file: its one writing DuckDB connection, its migrations, loading and storing of rows.

When a commit returns, the transaction is in DuckDB's write-ahead log and synced to disk.
"""

import re
import uuid
from collections.abc import Collection, Iterable, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import duckdb
import msgspec

from stages.adapters.duckdb_file import quack
from stages.adapters.duckdb_file.files import NO_PROGRESS_BAR, transaction
from stages.adapters.duckdb_file.served import ServedFile
from stages.errors import StageError
from stages.sink.batch import Changes, Stored
from stages.sink.losses import Loss
from stages.sink.rows import JobRow, PartRow, Row, SessionRow, SummaryRow

_CONFIG: Final = {"memory_limit": "1GB", "threads": 2, "autoinstall_known_extensions": False}
_ROWS_PER_STATEMENT: Final = 500
_MIGRATION_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

LoadedRow = TypeVar("LoadedRow", SessionRow, PartRow, SummaryRow, JobRow)


class FileInUse(StageError):
    """Another process has the warehouse file open. The operator stops it, or reads through the running instance."""


class Tables(ServedFile):
    """The owner's connection. Not thread-safe: one call at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and migrate it to the newest schema.

        Raises FileInUse if another process has it open, StageError if its schema is newer than this program.
        """
        self._path = path
        super().__init__()

    def _open(self) -> None:
        try:
            self.connection = duckdb.connect(str(self._path), config=_CONFIG)
        except duckdb.IOException as error:
            raise FileInUse(str(error)) from error
        try:
            self.connection.execute(NO_PROGRESS_BAR)
            self._migrate()
            self.connection.execute(quack.authorization_sql())
            self._staged_types = self._types()
        except BaseException:
            self.connection.close()
            raise

    def load(self, session_ids: Sequence[uuid.UUID]) -> Stored:
        """Return the rows of the sessions. Raises what DuckDB raises, as does `apply`."""
        with self._mending():
            return Stored(
                sessions=self._by_id("audio_sessions", "id", session_ids, SessionRow),
                parts=self._by_id("transcript_parts", "session_id", session_ids, PartRow),
                summaries=self._by_id("summaries", "session_id", session_ids, SummaryRow),
                jobs=self._by_id("processing_jobs", "session_id", session_ids, JobRow),
            )

    def losses(self) -> list[Loss]:
        """Return what expired unread, by stage, topic and partition, the last found first."""
        with self._mending():
            found = self.connection.execute("""
                SELECT stage, topic, partition_number, sum(last_position - first_position + 1)::BIGINT,
                    sum(calls)::BIGINT, epoch(max(found_at))
                FROM expired_records GROUP BY ALL ORDER BY max(found_at) DESC, topic, partition_number
            """)
            return [Loss(*row) for row in found.fetchall()]

    def apply(self, changes: Changes) -> None:
        """Store the changes in one transaction: durable on return. After an error nothing was stored."""
        with self._mending():
            self._apply(changes)

    def _apply(self, changes: Changes) -> None:
        sessions = sorted(changes.sessions)
        with transaction(self.connection):
            for session_id, kept in changes.kept.items():
                self._remove_others("transcript_segments", session_id, kept.turns)
                self._remove_others("transcript_parts", session_id, kept.parts)
                self._remove_others("channel_metrics", session_id, kept.channels)
                self._remove_others("gaps", session_id, kept.gaps)
                self.connection.execute(
                    "DELETE FROM unheard WHERE session_id = ?::UUID AND revision <> ?",
                    [str(session_id), kept.unheard_of],
                )
            self._upsert("audio_sessions", "id", changes.sessions.values(), sessions)
            self._upsert("transcript_segments", "session_id", changes.turns.values(), sessions)
            self._upsert("transcript_parts", "session_id", changes.parts.values(), sessions)
            self._upsert("summaries", "session_id", changes.summaries.values(), sessions)
            self._upsert("processing_jobs", "session_id", changes.jobs.values(), sessions)
            self._upsert("call_metrics", "session_id", changes.call_metrics.values(), sessions)
            self._upsert("channel_metrics", "session_id", changes.channel_metrics.values(), sessions)
            self._upsert("gaps", "session_id", changes.gaps.values(), sessions)
            self._upsert("unheard", "session_id", changes.unheard.values(), sessions)
            self._upsert("expired_records", "id", changes.expired.values(), sorted(changes.expired))

    def __enter__(self) -> "Tables":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _migrate(self) -> None:
        execute = self.connection.execute
        execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name VARCHAR NOT NULL)")
        applied = {version for (version,) in execute("SELECT version FROM schema_version").fetchall()}
        migrations = _migrations()
        if newer := sorted(applied - set(migrations)):
            raise StageError(
                f"the warehouse has schema version {newer[-1]}, this program knows up to {max(migrations)}"
            )
        for version in sorted(set(migrations) - applied):
            name, script = migrations[version]
            with transaction(self.connection):
                execute(script)
                # Without parameters: DuckDB imports pandas to bind the first one, which takes seconds.
                execute(f"INSERT INTO schema_version VALUES ({version}, '{name}')")

    def _types(self) -> dict[str, str]:
        """Return for each table the SQL type of a list of its rows, for decoding staged rows."""
        found = self.connection.execute("""
            SELECT table_name, string_agg('"' || column_name || '" ' || data_type, ', ' ORDER BY column_index)
            FROM duckdb_columns() WHERE NOT internal GROUP BY table_name
        """)
        return {table: f"STRUCT({columns})[]" for table, columns in found.fetchall()}

    def _by_id(
        self, table: str, call_column: str, session_ids: Sequence[uuid.UUID], kind: type[LoadedRow]
    ) -> dict[uuid.UUID, LoadedRow]:
        found = self.connection.execute(
            f'SELECT to_json(t)::VARCHAR FROM "{table}" AS t WHERE {call_column} IN (SELECT unnest(?::UUID[]))',
            [_texts(session_ids)],
        )
        rows = (msgspec.json.decode(text, type=kind) for (text,) in found.fetchall())
        return {row.id: row for row in rows}

    def _remove_others(self, table: str, session_id: uuid.UUID, kept: Collection[uuid.UUID]) -> None:
        self.connection.execute(
            f'DELETE FROM "{table}" WHERE session_id = ?::UUID AND id NOT IN (SELECT unnest(?::UUID[]))',
            [str(session_id), _texts(kept)],
        )

    def _upsert(self, table: str, call_column: str, rows: Iterable[Row], session_ids: Sequence[uuid.UUID]) -> None:
        """Insert or replace rows by id. Rows that are stored already, byte for byte, are not rewritten."""
        staged = list(rows)
        for start in range(0, len(staged), _ROWS_PER_STATEMENT):
            block = msgspec.json.encode(staged[start : start + _ROWS_PER_STATEMENT]).decode()
            self.connection.execute(
                f"""
                INSERT OR REPLACE INTO "{table}"
                SELECT unnest(CAST(CAST(? AS JSON) AS {self._staged_types[table]}), max_depth := 2)
                EXCEPT SELECT * FROM "{table}" WHERE {call_column} IN (SELECT unnest(?::UUID[]))
                """,
                [block, _texts(session_ids)],
            )


def _texts(ids: Iterable[uuid.UUID]) -> list[str]:
    return [str(one) for one in ids]


def _migrations() -> dict[int, tuple[str, str]]:
    """Return the migrations of the package: (name, script) by version."""
    found = {}
    for file in (resources.files("stages.sink") / "migrations").iterdir():
        if match := _MIGRATION_NAME.fullmatch(file.name):
            found[int(match[1])] = (file.name, file.read_text(encoding="utf-8"))
    return found
