"""SQL for analysts as infra/README.md promises it: `callstream sql` and any DuckDB client, while calls come in."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

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
        time.sleep(0.05)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that owns the data directory `tmp_path` and writes a turn every 50 ms, naming it when it is stored."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), DATABASE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the owner died"
        yield process
        process.kill()


def instance_of(data: Path) -> InstanceInfo:
    found = read_instance(data)
    assert found is not None
    return found


def callstream(data: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *arguments, "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


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
