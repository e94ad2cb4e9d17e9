"""Access of other processes to the warehouse while its owner has it open."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from stages.adapters.duckdb_file import quack
from stages.adapters.duckdb_file.files import TRUSTING
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.support.attacks import ADMINISTRATION, FILES, READS, WRITES
from tests.unit.stages.sink.calls import CallScript, read

TOKEN = "0123456789abcdef0123456789abcdef"


class Client:
    """Another DuckDB, such as an analyst's."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        self.url, self.token = url, token
        self.connection = duckdb.connect(config=TRUSTING)
        quack.load_extensions(self.connection)

    def run(self, sql: str) -> list[tuple[object, ...]]:
        """Run SQL in the owner's process."""
        found = self.connection.execute("FROM quack_query(?, ?, token = ?)", [self.url, sql, self.token])
        rows: list[tuple[object, ...]] = found.fetchall()
        return rows


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    with Tables(tmp_path / "calls.duckdb") as opened:
        SinkStage(opened).write(CallScript("call-1").whole(4))
        yield opened


@pytest.fixture
def client(tables: Tables) -> Iterator[Client]:
    client = Client(tables.serve(TOKEN, quack.free_port()))
    with client.connection:
        yield client


def test_reads_work(client: Client) -> None:
    for sql in READS:
        assert client.run(sql), sql


def test_everything_that_is_no_read_is_refused(client: Client, tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    before = sorted(os.listdir(tmp_path))
    catalog = read(
        tables, "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_views() WHERE NOT internal"
    )
    let_through = []
    for template in WRITES + ADMINISTRATION:
        sql = template.format(dir=tmp_path, url=client.url, token=client.token)
        try:
            client.run(sql)
            let_through.append(sql)
        except duckdb.InvalidInputException as error:
            if "Authorization failed" not in str(error):
                let_through.append(f"{sql}: {error}")
    assert let_through == []
    assert sorted(os.listdir(tmp_path)) == before
    assert catalog == read(
        tables, "SELECT sql FROM duckdb_tables() UNION ALL SELECT sql FROM duckdb_views() WHERE NOT internal"
    )
    assert read(tables, "SELECT status FROM audio_sessions") == [("completed",)]
    assert read(tables, "SELECT count(*) - max(version) FROM schema_version") == [(0,)]


def test_files_of_the_machine_cannot_be_read(client: Client, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    for template in FILES:
        with pytest.raises(duckdb.Error, match=r"Authorization failed|file system operations are disabled"):
            client.run(template.format(dir=tmp_path))


def test_an_attached_client_reads_tables_and_views_and_can_write_nothing(client: Client, tables: Tables) -> None:
    execute = client.connection.execute
    execute(f"ATTACH '{client.url}' AS r (TOKEN '{TOKEN}')")
    assert execute("SELECT call_id, turns FROM r.calls").fetchall() == [("call-1", 4)]
    assert execute("SELECT count(*) FROM r.transcript_segments").fetchall() == [(4,)]
    for sql in (
        "INSERT INTO r.schema_version VALUES (99, 'x')",
        "INSERT INTO r.schema_version SELECT range + 99, 'x' FROM range(5000)",
        "CREATE TABLE r.mine AS SELECT 1 AS i",
        "CREATE VIEW r.mine AS SELECT 1 AS i",
        "DROP TABLE r.summaries",
        "DELETE FROM r.schema_version",
        "UPDATE r.schema_version SET name = 'x'",
        "ALTER TABLE r.summaries ADD COLUMN i INTEGER",
    ):
        with pytest.raises(duckdb.Error):
            execute(sql)
    assert read(tables, "SELECT count(*) - max(version) FROM schema_version") == [(0,)]


def test_a_wrong_token_is_refused(client: Client) -> None:
    for token in ("wrong", TOKEN[:-1], TOKEN + "0"):
        client.token = token
        with pytest.raises(duckdb.InvalidInputException, match="Authentication failed"):
            client.run("SELECT 1")


def test_the_policy_knows_every_function_with_an_effect() -> None:
    harmless = {
        *("current_connection_id", "current_query", "current_query_id", "current_transaction_id", "error", "stats"),
        *("gen_random_uuid", "random", "uuid", "uuidv4", "uuidv7"),
    }
    with duckdb.connect() as connection:
        quack.load_extensions(connection)
        connection.execute(quack.authorization_sql())
        effects = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE has_side_effects AND function_type = 'scalar'"
        ).fetchall()
        for (name,) in effects:
            allowed = connection.execute(f"SELECT {quack.AUTHORIZATION_MACRO}('', ?)", [f"SELECT {name}()"]).fetchone()
            assert allowed == (name in harmless,), name


def test_settled_turns_are_seen_by_a_client_at_once(client: Client, tables: Tables) -> None:
    script = CallScript("call-2")
    stage = SinkStage(tables)
    for turn in script.turns(20):
        stage.write([script.arrival(turn)])
        since = time.monotonic()
        assert client.run(f"SELECT 1 FROM transcript_segments WHERE id = '{turn.turn_id}'") == [(1,)]
        assert time.monotonic() - since < 1.0


def test_a_long_query_of_a_client_does_not_stop_the_writer(client: Client, tables: Tables) -> None:
    finished: list[float] = []

    def analyse() -> None:
        client.run("SELECT count(*), sum(hash(a.range, b.range) % 7) FROM range(12000) a, range(20000) b")
        finished.append(time.monotonic())

    analyst = threading.Thread(target=analyse)
    script = CallScript("call-2")
    stage = SinkStage(tables)
    analyst.start()
    time.sleep(0.1)
    written: list[float] = []
    for turn in script.turns(100):
        since = time.monotonic()
        stage.write([script.arrival(turn)])
        if finished:
            break
        written.append(time.monotonic() - since)
    analyst.join()
    assert len(written) >= 5, "the query was over before there were writes beside it: it proves nothing"
    assert max(written) < 2.0


def test_the_owner_writes_and_checkpoints_with_external_access_off(client: Client, tmp_path: Path) -> None:
    tables_path = tmp_path / "more.duckdb"
    with Tables(tables_path) as tables:
        tables.serve(TOKEN, quack.free_port())
        for number in range(3):
            SinkStage(tables).write(CallScript(f"call-{number}").whole(50, words=40))
        read(tables, "CHECKPOINT")
    with Tables(tables_path) as tables:
        assert read(tables, "SELECT count(*), sum(words) FROM calls") == [(3, 6000)]


def test_the_token_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "quack.token"
    token = quack.kept_token(path)
    assert len(token) == 64
    assert quack.kept_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
