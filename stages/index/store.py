"""A search index in one DuckDB file, separate from the warehouse: it can be deleted and rebuilt.

Windows and vectors are rows, and so is the text index of DuckDB's `fts`. It is as durable as all rows, but lacks the
windows added after it was built: those are scanned until it is rebuilt. The HNSW graph of `vss` is kept in memory and
built when the file is opened: its persistent form is experimental and not safe against crashes (DuckDB's documentation
of `vss`). Until it is built, and below `EXACT_BELOW` windows, every vector is compared.
"""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import structlog

from stages.adapters.duckdb_file import quack
from stages.adapters.duckdb_file.files import load_extensions, transaction
from stages.adapters.duckdb_file.served import ServedFile
from stages.adapters.embedding import QuestionEmbedder, Vectors
from stages.errors import StageError
from stages.index import queries
from stages.index.ranking import Filters, Hit, Update
from stages.index.windows import Window
from stages.index.words import STOPWORDS_SQL

FILE: Final = "windows.duckdb"
_SEARCH_EF: Final = 256
"""Candidates that a search of the graph keeps. It finds 89 % of the 10 nearest of 100,000, with `vss`'s 64 71 %."""
_FRESH_AT_LEAST: Final = 200
_FRESH_SHARE: Final = 10
"""The text index is rebuilt when more than `_FRESH_AT_LEAST` windows, and one in `_FRESH_SHARE`, are new."""

_SCHEMA: Final = """
CREATE SEQUENCE IF NOT EXISTS window_numbers;
CREATE TABLE IF NOT EXISTS windows (
    window_id UUID PRIMARY KEY,
    number BIGINT NOT NULL,             -- in the order of insertion
    tenant VARCHAR NOT NULL,
    call_id VARCHAR NOT NULL,
    revision INTEGER NOT NULL,
    part INTEGER NOT NULL,
    agent VARCHAR NOT NULL,
    started_at DOUBLE NOT NULL,
    start_s DOUBLE NOT NULL,
    end_s DOUBLE NOT NULL,
    speakers JSON NOT NULL,
    turn_ids JSON NOT NULL,
    "text" VARCHAR NOT NULL,
    vector FLOAT[{dimensions}] NOT NULL
);
CREATE TABLE IF NOT EXISTS newest_revisions (tenant VARCHAR, call_id VARCHAR, revision INTEGER, complete BOOLEAN);
CREATE TABLE IF NOT EXISTS model (name VARCHAR NOT NULL, dimensions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS text_index (upto BIGINT NOT NULL);
CREATE OR REPLACE TABLE stopwords AS SELECT unnest([{stopwords}]) AS sw;
"""


_TEXT_INDEX: Final = (
    r"PRAGMA create_fts_index('windows', 'window_id', 'text', stopwords = 'stopwords', "
    r"ignore = '[^\p{L}\p{N}]+', overwrite = 1)"
)
"""By default `fts` indexes only letters without accents, and no numbers."""


_CONFIG: Final = {"memory_limit": "2GB", "max_temp_directory_size": "10GB"}
"""Without a limit DuckDB takes 80 % of the machine's memory, beside the models."""


class WindowStore(ServedFile):
    """The file's owner. One thread at a time may write; `search` may be called from any thread.

    Raises StageError if the file is in use, or was made with another embedding model.
    """

    _locks_settings = False  # `fts` changes a setting each time it builds its index

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        dimensions: int,
        graph: bool = True,
        embedder: QuestionEmbedder | None = None,
    ) -> None:
        """With `graph`, build an HNSW graph over many windows, which pays off for frequent searches. `embedder` embeds
        the questions of the processes to which the index is served.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._model = model
        self._dimensions = dimensions
        self._embedder = embedder
        self._log = structlog.get_logger("callstream.search")
        self._wants_graph = graph
        self._writing = threading.Lock()
        self._building: threading.Thread | None = None
        super().__init__()

    def _open(self) -> None:
        try:
            self.connection = duckdb.connect(str(self.path), config=_CONFIG)
        except duckdb.IOException as error:
            raise StageError(f"the search index {self.path} cannot be opened: {error}") from error
        self._graphs = 0
        try:
            load_extensions(self.connection, ("vss", "fts"))
            # Compression hardly shrinks vectors, and makes comparing them all take three times as long.
            self.connection.execute("SET force_compression = 'uncompressed'")
            self._create()
        except BaseException:
            self.connection.close()
            raise

    def _create(self) -> None:
        execute, model, dimensions = self.connection.execute, self._model, self._dimensions
        execute(_SCHEMA.format(dimensions=dimensions, stopwords=STOPWORDS_SQL))
        made = execute("SELECT name, dimensions FROM model").fetchall()
        if made and made != [(model, dimensions)]:
            raise StageError(
                f"the search index {self.path} was made with the embedding model {made[0][0]}, and this is {model}: "
                "rebuild it with `callstream search --rebuild`"
            )
        if not made:
            execute("INSERT INTO model VALUES (?, ?)", [model, dimensions])
            execute("INSERT INTO text_index VALUES (-1)")
        execute(quack.authorization_sql())
        if (embedder := self._embedder) is not None:
            self.connection.create_function(
                queries.QUESTION_VECTOR,
                lambda text: embedder.questions([text])[0].tolist(),
                ["VARCHAR"],
                f"FLOAT[{dimensions}]",
            )
        execute("ATTACH ':memory:' AS graph")
        execute("CREATE TABLE graph.newest (name VARCHAR)")
        self._index_words()
        self._build_graph()

    # -- writing -----------------------------------------------------------------------------------------------------

    def update(self, updates: Sequence[Update]) -> None:
        """See `SearchIndex.update`. Raises what DuckDB raises. The next use after a fatal error reopens the file."""
        with self._mending():
            with self._writing:
                changed: set[str] = set()
                with transaction(self.connection):
                    for update in updates:
                        changed |= self._update(update)
                self._update_graph(sorted(changed))
            if self._fresh() > max(_FRESH_AT_LEAST, self.count() // _FRESH_SHARE):
                self._index_words()
            self._build_graph()

    def _update(self, update: Update) -> set[str]:
        """Apply an update. Returns the ids of the windows that were added or removed."""
        execute = self.connection.execute
        call = [update.call.tenant, update.call.call_id]
        known = execute(
            "SELECT revision, complete FROM newest_revisions WHERE tenant = ? AND call_id = ?", call
        ).fetchone()
        complete = update.part > 0
        if known is not None and known > update.version:
            return set()  # a newer revision is there, or the completed transcript of this one
        gone = execute(
            "SELECT window_id::VARCHAR FROM windows WHERE tenant = ? AND call_id = ? "
            "AND (revision < ? OR part = ? OR (part = 0 AND ?))",
            [*call, update.revision, update.part if complete else -1, complete],
        ).fetchall()
        ids = {window_id for (window_id,) in gone} | {window.window_id for window in update.windows}
        execute("DELETE FROM windows WHERE window_id IN (SELECT unnest(?::UUID[]))", [sorted(ids)])
        execute("DELETE FROM newest_revisions WHERE tenant = ? AND call_id = ?", call)
        execute("INSERT INTO newest_revisions VALUES (?, ?, ?, ?)", [*call, update.revision, complete])
        if update.windows:
            self._insert(update.windows, update.vectors)
        return ids

    def _insert(self, windows: Sequence[Window], vectors: Vectors) -> None:
        # By columns in one statement: by rows it takes nearly three times as long.
        columns = {
            "window_id": ("UUID", [window.window_id for window in windows]),
            "tenant": ("VARCHAR", [window.tenant for window in windows]),
            "call_id": ("VARCHAR", [window.call_id for window in windows]),
            "revision": ("INTEGER", [window.revision for window in windows]),
            "part": ("INTEGER", [window.part for window in windows]),
            "agent": ("VARCHAR", [window.agent for window in windows]),
            "started_at": ("DOUBLE", [window.started_at for window in windows]),
            "start_s": ("DOUBLE", [window.start_s for window in windows]),
            "end_s": ("DOUBLE", [window.end_s for window in windows]),
            "speakers": ("VARCHAR", [msgspec.json.encode(window.speakers).decode() for window in windows]),
            "turn_ids": ("VARCHAR", [msgspec.json.encode(window.turn_ids).decode() for window in windows]),
            '"text"': ("VARCHAR", [window.text for window in windows]),
            "vector": (f"FLOAT[{self._dimensions}]", list(vectors)),
        }
        values = ", ".join(f"unnest(?::{kind}[])" for kind, _ in columns.values())
        self.connection.execute(
            f"INSERT INTO windows (number, {', '.join(columns)}) "
            f"SELECT nextval('window_numbers'), * FROM (SELECT {values})",
            [column for _, column in columns.values()],
        )

    def _update_graph(self, ids: Sequence[str]) -> None:
        """Update the graph in a transaction of its own: DuckDB allows writes to only one database per transaction.
        Until then a search may find the id of a removed window, and skips it.
        """
        execute = self.connection.execute
        for (name,) in execute("SELECT name FROM graph.newest").fetchall():
            among = "WHERE window_id IN (SELECT unnest(?::UUID[]))"
            with transaction(self.connection):
                execute(f"DELETE FROM graph.{name} {among}", [ids])
                execute(f"INSERT INTO graph.{name} SELECT window_id, vector FROM windows {among}", [ids])

    # -- indexes -----------------------------------------------------------------------------------------------------

    def _index_words(self) -> None:
        """Rebuild the text index over all windows, if any are new."""
        if not self._fresh():
            return
        upto = self.connection.execute("SELECT max(number) FROM windows").fetchone()[0]
        with transaction(self.connection):
            self.connection.execute(_TEXT_INDEX)
            self.connection.execute("UPDATE text_index SET upto = ?", [upto])

    def _build_graph(self) -> None:
        """Build the graph once there are many windows, in a thread. Every vector is compared until it is done."""
        if self._graphs or not self._wants_graph or self.count() < queries.EXACT_BELOW:
            return
        self._graphs += 1
        name = f"vectors_{self._graphs}"
        self._building = threading.Thread(target=self._graph, args=(name, self.connection.cursor()), daemon=True)
        self._building.start()

    def _graph(self, name: str, cursor: Any) -> None:
        try:
            cursor.execute(f"CREATE TABLE graph.{name} AS SELECT window_id, vector FROM windows")
            cursor.execute(
                f"CREATE INDEX {name}_hnsw ON graph.{name} USING HNSW (vector) "
                f"WITH (metric = 'cosine', ef_search = {_SEARCH_EF})"
            )
            with self._writing, transaction(cursor):
                # Apply the changes made meanwhile. Later ones go to the table and the graph.
                cursor.execute(f"DELETE FROM graph.{name} WHERE window_id NOT IN (SELECT window_id FROM windows)")
                cursor.execute(
                    f"INSERT INTO graph.{name} SELECT window_id, vector FROM windows "
                    f"WHERE window_id NOT IN (SELECT window_id FROM graph.{name})"
                )
                cursor.execute("INSERT INTO graph.newest VALUES (?)", [name])
            (windows,) = cursor.execute("SELECT count(*) FROM windows").fetchone()
            self._log.info("search graph built", windows=windows)
        except duckdb.Error as error:
            self._log.error("search graph failed, every vector is compared", error=str(error))
        finally:
            cursor.close()

    def until_built(self) -> None:
        """Wait for a graph under construction."""
        if self._building is not None:
            self._building.join()

    def _fresh(self) -> int:
        found: int = self.connection.execute(
            "SELECT count(*) FROM windows WHERE number > (SELECT max(upto) FROM text_index)"
        ).fetchone()[0]
        return found

    def count(self) -> int:
        """Return the number of windows."""
        found: int = self.connection.execute("SELECT count(*) FROM windows").fetchone()[0]
        return found

    # -- reading -----------------------------------------------------------------------------------------------------

    def search(self, vector: Vectors, words: str, filters: Filters, *, limit: int) -> list[Hit]:
        with contextlib.closing(self.connection.cursor()) as cursor:
            return queries.search(lambda sql: cursor.execute(sql).fetchall(), vector, words, filters, limit=limit)

    def close(self) -> None:
        """Close, after waiting for a graph under construction."""
        self.until_built()
        super().close()
