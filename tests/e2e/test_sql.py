"""SQL as infra/README.md promises it, while calls come in: `callstream sql`, and for operators any DuckDB client."""

import contextlib
import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from pipeline.client.sql import query
from pipeline.client.sql_limits import SqlLimits
from pipeline.instance import InstanceInfo, read_instance
from stages.adapters.duckdb_file.quack import load_extensions
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

ROOT = Path(__file__).parents[2]
DATABASE = "callstream.duckdb"

OWNER = """
import os, sys, time
from pathlib import Path
from pipeline.instance import DataLock, InstanceInfo
from stages.adapters.duckdb_file.quack import free_port, kept_token
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

data = Path(sys.argv[1])
with DataLock(data) as lock, Tables(data / sys.argv[2]) as tables:
    token = kept_token(data / "quack.token")
    stage = SinkStage(tables)
    stage.write(CallScript("call-1").whole(4))
    url = tables.serve(token, free_port())
    lock.announce(InstanceInfo(pid=os.getpid(), bus_url="nats://127.0.0.1:1", quack_url=url, quack_token=token,
                               metrics_url=None, started_at=0.0, ready=True))
    script = CallScript("live")
    for turn in script.turns(100_000):
        stage.write([script.arrival(turn)])
        print(turn.turn_id, flush=True)
        time.sleep(float(sys.argv[3]))
"""


OWNER_OF_CALLS = """
import sys, time
from pathlib import Path
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.unit.stages.sink.calls import CallScript

with Tables(Path(sys.argv[1])) as tables:
    stage = SinkStage(tables)
    for number in range(100_000):
        stage.write(CallScript(f"call-{number}").whole(2))
        if number % 5 == 0:
            tables.connection.execute("CHECKPOINT")
        print(f"call-{number}", flush=True)
        time.sleep(0.02)
"""


@contextlib.contextmanager
def owning(data: Path, pause_s: float) -> Iterator["subprocess.Popen[str]"]:
    """A process that owns the data directory and writes a turn every `pause_s`, naming it when it is stored."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data), DATABASE, str(pause_s)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the owner died"
        yield process
        process.kill()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    with owning(tmp_path, 0.05) as process:
        yield process


def instance_of(data: Path) -> InstanceInfo:
    found = read_instance(data)
    assert found is not None
    return found


def callstream(data: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments, "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def cpu_s(pid: int) -> float:
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def runs(process: psutil.Process) -> bool:
    """Return True unless the process has ended. One whose parent was killed may stay listed as a zombie."""
    try:
        return bool(psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_sql_calls_and_show_work_while_calls_come_in_and_writes_are_refused(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    counts = []
    for _ in range(2):
        done = callstream(tmp_path, "sql", "SELECT count(*) AS n FROM transcript_segments", "--format", "json")
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout)[0]["n"])
    assert counts[1] > counts[0] > 4
    listed = callstream(tmp_path, "calls", "--json")
    assert {call["call_id"]: call["status"] for call in json.loads(listed.stdout)} == {
        "call-1": "completed",
        "live": "in_progress",
    }
    shown = json.loads(callstream(tmp_path, "show", "call-1", "--json").stdout)
    assert [turn["speaker"] for turn in shown["turns"]] == ["agent", "customer"] * 2
    refused = callstream(tmp_path, "sql", "DELETE FROM audio_sessions")
    assert refused.returncode == 2
    assert "only one statement that reads" in refused.stderr
    assert owner.poll() is None


@pytest.mark.slow
def test_a_query_sees_each_call_that_was_reported_completed_before_it_began(tmp_path: Path) -> None:
    database = tmp_path / DATABASE
    command = [sys.executable, "-c", OWNER_OF_CALLS, str(database)]
    limits = SqlLimits(time_s=60.0, memory_bytes=500_000_000, rows=100_000, temp_bytes=0)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        reported: list[str] = []
        for _ in range(20):
            reported.append(owner.stdout.readline().strip())
            completed = "SELECT call_id FROM calls WHERE status = 'completed' AND turns = 2 AND summary IS NOT NULL"
            _, rows = query(database, completed, limits)
            assert set(reported) <= {call_id for (call_id,) in rows}
        assert owner.poll() is None
        owner.kill()


@pytest.mark.slow
def test_a_query_without_end_leaves_the_owner_alone_and_ends_with_its_command(tmp_path: Path) -> None:
    forever = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 1"
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "sql", forever]
    with owning(tmp_path, 1000.0) as owner:
        began_s = cpu_s(owner.pid)
        asked = subprocess.Popen([*command, "--data", str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
        working = [psutil.Process(asked.pid)]
        while max(cpu_s(owner.pid) - began_s, *(cpu_s(process.pid) for process in working[1:]), 0.0) < 1.5:
            assert asked.poll() is None, "the query ended: it proves nothing"
            time.sleep(0.05)
            working[1:] = working[0].children(recursive=True)
        asked.kill()
        asked.wait()
        time.sleep(1.0)
        assert [process.pid for process in working if runs(process)] == []
        assert cpu_s(owner.pid) - began_s < 0.5


@pytest.mark.slow
def test_a_query_over_its_limit_names_it_and_exits_with_2(
    owner: "subprocess.Popen[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLSTREAM_SQL_ROWS", "3")
    done = callstream(tmp_path, "sql", "FROM range(4)")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "callstream: the result has more than 3 rows: select less, or raise CALLSTREAM_SQL_ROWS\n"
    monkeypatch.setenv("CALLSTREAM_SQL_TIME_S", "1.5")
    done = callstream(
        tmp_path, "sql", "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 1"
    )
    assert done.returncode == 2
    assert "ended after 1.5 s" in done.stderr
    assert owner.poll() is None


@pytest.mark.slow
def test_a_plain_duckdb_client_sees_a_settled_turn_within_a_second_and_cannot_write(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    instance = instance_of(tmp_path)
    assert owner.stdout is not None
    with duckdb.connect() as client:
        load_extensions(client)
        client.execute(f"ATTACH '{instance.quack_url}' AS calls (TOKEN '{instance.quack_token}')")
        for _ in range(10):
            turn_id = owner.stdout.readline().strip()
            stored = time.monotonic()
            query = f"SELECT count(*) FROM calls.transcript_segments WHERE id = '{turn_id}'"
            assert client.execute(query).fetchall() == [(1,)]
            assert time.monotonic() - stored < 1.0
        with pytest.raises(duckdb.InvalidInputException, match="Authorization failed"):
            client.execute("INSERT INTO calls.schema_version VALUES (2, 'x')")
    with pytest.raises(duckdb.IOException, match="lock"):
        duckdb.connect(str(tmp_path / DATABASE))


@pytest.mark.slow
def test_sql_works_on_the_file_when_nothing_runs_also_after_kill_9(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert owner.stdout is not None
    stored = [owner.stdout.readline().strip() for _ in range(5)]
    owner.kill()
    owner.wait()
    done = callstream(tmp_path, "sql", "SELECT turn_id, text FROM turns WHERE call_id = 'live'", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert set(stored) <= {row["turn_id"] for row in csv.DictReader(io.StringIO(done.stdout))}
    refused = callstream(tmp_path, "sql", "DROP TABLE summaries")
    assert refused.returncode == 2
    with Tables(tmp_path / DATABASE) as tables:
        SinkStage(tables).write(CallScript("call-2").whole(1))
