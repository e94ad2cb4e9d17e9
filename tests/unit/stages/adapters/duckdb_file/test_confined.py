"""What one statement can do to the copy that it is run on, and to the machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stages.adapters.duckdb_file import confined
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.support.attacks import ADMINISTRATION, FILES, READS, RUNAWAYS, WRITES
from tests.unit.stages.sink.calls import CallScript

_TABLES = """
    SELECT table_name FROM duckdb_columns() WHERE NOT internal AND column_name = 'session_id'
    UNION SELECT 'audio_sessions'
"""


def opened(data: Path, folder: Path, tenant: str | None = None) -> "contextlib.closing[Any]":
    confined.take_copy(data / "calls.duckdb", folder / confined.COPY)
    copy = confined.open_copy(folder, tenant, memory_bytes=500_000_000, temp_bytes=100_000_000)
    return contextlib.closing(copy)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with Tables(folder / "calls.duckdb") as tables:
        SinkStage(tables).write(CallScript("call-1").whole(4))
        SinkStage(tables).write(CallScript("call-2", tenant="acme").whole(3))
    (folder / "secret.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.fixture(scope="module")
def connection(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with opened(data, tmp_path_factory.mktemp("reader")) as connection:
        yield connection


def filled(template: str, data: Path) -> str:
    return template.format(dir=data, url="quack:127.0.0.1:1", token="0" * 32) if "{" in template else template


@pytest.mark.parametrize("sql", READS)
def test_reads_work(connection: Any, sql: str) -> None:
    assert confined.may_run(sql)
    assert connection.execute(sql).fetchall()


@pytest.mark.parametrize("template", WRITES + ADMINISTRATION)
def test_what_is_no_read_is_refused(template: str, data: Path) -> None:
    assert not confined.may_run(filled(template, data))


@pytest.mark.parametrize("sql", RUNAWAYS)
def test_a_runaway_is_no_matter_of_its_text(sql: str) -> None:
    assert confined.may_run(sql)


@pytest.mark.parametrize("template", FILES)
def test_the_engine_itself_opens_no_file(connection: Any, template: str, data: Path) -> None:
    with pytest.raises(duckdb.Error, match=r"disabled|cannot be opened|not exist"):
        connection.execute(filled(template, data))


def test_the_engine_itself_writes_nothing(data: Path, tmp_path: Path) -> None:
    with opened(data, tmp_path) as connection:
        for template in (*WRITES, *ADMINISTRATION):
            with contextlib.suppress(duckdb.Error):
                connection.execute(filled(template, data))
    assert {path.name for path in data.iterdir()} == {"calls.duckdb", "secret.csv"}
    with Tables(data / "calls.duckdb") as tables:
        assert tables.connection.execute("SELECT count(*) FROM audio_sessions").fetchall() == [(2,)]


def test_the_copy_has_no_name_once_it_is_open(data: Path, tmp_path: Path) -> None:
    with opened(data, tmp_path) as connection:
        assert os.listdir(tmp_path) == []
        assert connection.execute("SELECT count(*) FROM calls").fetchall() == [(2,)]


@pytest.mark.parametrize(("tenant", "turns"), [("default", 4), ("acme", 3), ("nobody' OR true --", 0)])
def test_a_tenants_copy_holds_no_row_of_others(data: Path, tmp_path: Path, tenant: str, turns: int) -> None:
    with opened(data, tmp_path, tenant) as connection:
        execute = connection.execute
        assert execute("SELECT DISTINCT tenant FROM calls").fetchall() == ([(tenant,)] if turns else [])
        assert execute("SELECT count(*), count(DISTINCT tenant) FROM turns").fetchall() == [(turns, bool(turns))]
        for (table,) in execute(_TABLES).fetchall():
            strangers = f"SELECT count(*) FROM {table} WHERE {'id' if table == 'audio_sessions' else 'session_id'}"
            assert execute(f"{strangers} NOT IN (SELECT id FROM audio_sessions)").fetchall() == [(0,)]
        assert [name for (name,) in execute("SELECT database_name FROM duckdb_databases()").fetchall()] == [
            "tenant",
            "system",
            "temp",
        ]
        assert execute("SELECT count(*) > 0 FROM schema_version").fetchall() == [(True,)]


def test_a_tenants_copy_has_the_tables_and_views_of_the_whole(connection: Any, data: Path, tmp_path: Path) -> None:
    columns = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    with opened(data, tmp_path, "acme") as own:
        assert own.execute(columns).fetchall() == connection.execute(columns).fetchall()


def test_no_more_than_one_core_is_used(connection: Any) -> None:
    assert connection.execute("SELECT current_setting('threads')").fetchall() == [(1,)]
