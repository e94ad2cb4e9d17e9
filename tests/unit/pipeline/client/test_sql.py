"""An analyst's query in a process of its own: its limits, and its end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
import pytest

from pipeline.client.reader_folders import FOLDER, reader_folder, sweep
from pipeline.client.sql import query
from pipeline.client.sql_limits import SqlLimits
from pipeline.errors import InputError, InstanceError
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.support.attacks import RUNAWAYS
from tests.unit.stages.sink.calls import CallScript

ROOT = Path(__file__).parents[4]
LIMITS = SqlLimits(time_s=30.0, memory_bytes=300_000_000, rows=1000, temp_bytes=100_000_000)
FOREVER = RUNAWAYS[0]
ASKS = """
import sys
from pathlib import Path
from pipeline.client.sql import query
from pipeline.client.sql_limits import SqlLimits
limits = SqlLimits(time_s=float(sys.argv[2]), memory_bytes=300_000_000, rows=1000, temp_bytes=0)
query(Path(sys.argv[1]), sys.argv[3], limits)
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "callstream.duckdb"
    with Tables(path) as tables:
        SinkStage(tables).write(CallScript("call-1").whole(4))
        SinkStage(tables).write(CallScript("call-2", tenant="acme").whole(3))
    return path


def limited(**changes: float) -> SqlLimits:
    return msgspec.structs.replace(LIMITS, **changes)


def readers(asked_by: int) -> list[psutil.Process]:
    """The running reader processes of the process that asked."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        mine = len(command) > 3 and "pipeline.client.sql_reader" in command[2] and command[3] == str(asked_by)
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def asking(database: Path, time_s: float) -> "subprocess.Popen[bytes]":
    """Another process that asks a query without end. Returns once a reader has worked on it for a while."""
    command = [sys.executable, "-c", ASKS, str(database), str(time_s), FOREVER]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not any(map(_works, readers(process.pid))):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def _works(reader: psutil.Process) -> bool:
    """Return True once the reader has spent more than its start and its copy take."""
    try:
        return float(reader.cpu_times().user) > 0.6
    except psutil.NoSuchProcess:
        return False


def gone(asked_by: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while readers(asked_by):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_values_come_as_json_has_them(database: Path) -> None:
    columns, rows = query(
        database,
        "SELECT call_id, turns, 170141183460469231731687303715884105727 AS big, 1.5 AS half, 'NaN'::DOUBLE AS no,"
        " [DATE '2026-01-02'] AS days, {'a': UUID '00000000-0000-0000-0000-000000000001'} AS one"
        " FROM calls ORDER BY ALL",
        LIMITS,
    )
    assert columns == ["call_id", "turns", "big", "half", "no", "days", "one"]
    common = [2**127 - 1, 1.5, None, ["2026-01-02"], {"a": "00000000-0000-0000-0000-000000000001"}]
    assert rows == [["call-1", 4, *common], ["call-2", 3, *common]]
    assert os.listdir(database.parent / FOLDER) == []


def test_a_tenants_query_sees_that_tenants_calls_alone(database: Path) -> None:
    assert query(database, "SELECT DISTINCT tenant FROM turns", LIMITS, tenant="acme")[1] == [["acme"]]
    assert query(database, "FROM calls", LIMITS, tenant="nobody")[1] == []


def test_a_missing_file_is_a_warehouse_without_calls_and_stays_missing(tmp_path: Path) -> None:
    assert query(tmp_path / "none.duckdb", "SELECT count(*) FROM calls", LIMITS) == (["count_star()"], [[0]])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM calls", "only one statement that reads"),
        ("SELECT nope FROM calls", "nope"),
        ("SELECT * FROM read_text('/etc/passwd')", "only one statement that reads"),
        ("SELECT * FROM '/etc/passwd'", "disabled|not exist"),
        ("FROM range(1001)", "more than 1,000 rows: select less, or raise CALLSTREAM_SQL_ROWS"),
        ("FROM range(100000000000)", "more than 1,000 rows"),
        ("SELECT list_sum(range(200000000))", "more than 0.3 GB of memory: .*CALLSTREAM_SQL_MEMORY_GB"),
    ],
)
def test_a_query_that_cannot_be_answered_is_the_callers_error(database: Path, statement: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        query(database, statement, LIMITS)


def test_what_does_not_fit_into_memory_goes_to_files_up_to_their_limit(database: Path) -> None:
    sorted_rows = (
        "SELECT i FROM (SELECT range AS i, hash(range) AS h FROM range(4000000)) ORDER BY h LIMIT 1 OFFSET 3000000"
    )
    small = limited(memory_bytes=100_000_000)
    assert len(query(database, sorted_rows, small)[1]) == 1
    with pytest.raises(InputError, match=r"more than 0\.01 GB of files: .*CALLSTREAM_SQL_TEMP_GB"):
        query(database, sorted_rows, msgspec.structs.replace(small, temp_bytes=10_000_000))
    assert os.listdir(database.parent / FOLDER) == []


@pytest.mark.parametrize("statement", RUNAWAYS)
def test_a_runaway_is_gone_a_second_after_its_limit(database: Path, statement: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"ended after 1\.5 s: .*CALLSTREAM_SQL_TIME_S|GB of memory"):
        query(database, statement, limited(time_s=1.5))
    assert time.monotonic() - began < 2.5
    assert gone(os.getpid(), 0.0)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_reader_ends_with_the_process_that_asked(database: Path, death: signal.Signals) -> None:
    process = asking(database, 60.0)
    process.send_signal(death)
    process.wait()
    assert gone(process.pid, 1.0)


def test_a_reader_of_a_process_that_stands_still_ends_when_its_time_is_up(database: Path) -> None:
    began = time.monotonic()
    process = asking(database, 4.0)
    process.send_signal(signal.SIGSTOP)
    try:
        assert readers(process.pid)
        # Its CPU time has the same limit, which a busy machine gives it later than the second that it takes alone.
        assert gone(process.pid, began + 4.0 + 20.0 - time.monotonic())
    finally:
        process.kill()
        process.wait()


def test_a_query_beyond_the_readers_waits_until_its_time_is_up(database: Path) -> None:
    one = limited(readers=1)
    with reader_folder(database.parent, readers=1, until_s=time.monotonic()):
        began = time.monotonic()
        with pytest.raises(InputError, match=r"waited 0\.5 s for the end of another query: .*CALLSTREAM_SQL_READERS"):
            query(database, "SELECT 1", msgspec.structs.replace(one, time_s=0.5))
        assert time.monotonic() - began < 10.0
        assert query(database.with_name("none.duckdb"), "SELECT 1", one)[1] == [[1]]
    assert query(database, "SELECT count(*) FROM calls", one)[1] == [[2]]


def test_queries_at_the_same_time_all_see_what_was_stored_before(tmp_path: Path) -> None:
    path = tmp_path / "callstream.duckdb"
    with Tables(path) as tables, ThreadPoolExecutor(4) as analysts:
        for number in range(1, 3):
            SinkStage(tables).write(CallScript(f"call-{number}").whole(2))
            asked = [analysts.submit(query, path, "SELECT count(*) FROM calls", limited(readers=2)) for _ in range(4)]
            assert [one.result()[1] for one in asked] == [[[number]]] * 4
    assert os.listdir(tmp_path / FOLDER) == []


def test_a_reader_steps_back_behind_the_calls(database: Path) -> None:
    process = asking(database, 30.0)
    (reader,) = readers(process.pid)
    until = time.monotonic() + 10.0
    while reader.nice() != 19 and time.monotonic() < until:
        time.sleep(0.05)
    assert reader.nice() == 19
    process.kill()
    process.wait()
    assert gone(process.pid, 1.0)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / FOLDER / "left"
    left.mkdir(parents=True)
    (left / "copy.duckdb").write_bytes(b"calls")
    sweep(tmp_path)
    assert left.exists(), "it may be of a process that has not locked it yet"
    monkeypatch.setattr("pipeline.client.reader_folders._UNLOCKED_S", 0.0)
    with reader_folder(tmp_path, readers=1, until_s=time.monotonic()) as own:
        assert os.listdir(tmp_path / FOLDER) == [own.name]
        sweep(tmp_path)
        assert own.exists()
    assert os.listdir(tmp_path / FOLDER) == []


def test_a_file_that_is_no_warehouse_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "callstream.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(InstanceError, match="cannot be opened"):
        query(tmp_path / "callstream.duckdb", "SELECT 1", LIMITS)
