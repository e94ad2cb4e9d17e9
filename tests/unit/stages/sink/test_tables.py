"""The warehouse file: migrations, crashes, and exclusive access."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import msgspec
import pytest

from stages.adapters.duckdb_file.quack import free_port, load_extensions
from stages.errors import MachineFailure, StageError
from stages.sink.stage import SinkStage
from stages.sink.tables import Tables
from tests.support.processes.disks import files_may_not_grow
from tests.unit.stages.sink.calls import CallScript, dump, read
from tests.unit.stages.sink.writer import batches

ROOT = Path(__file__).parents[4]


def test_reopening_keeps_all_rows_and_applies_no_migration_twice(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    with Tables(path) as tables:
        SinkStage(tables).write(CallScript("call-1").whole(3))
        before = dump(tables)
        versions = read(tables, "FROM schema_version")
    with Tables(path) as tables:
        assert dump(tables) == before
        assert read(tables, "FROM schema_version") == versions


def test_a_file_with_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    Tables(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (9999, '9999_future.sql')")
    with pytest.raises(StageError, match="schema version 9999"):
        Tables(path)


def test_the_seed_tables_have_the_promised_columns_first(tmp_path: Path) -> None:
    promised = {
        "audio_sessions": "id filename duration channels sample_rate uploaded_at processed_at status",
        "transcript_segments": "id session_id speaker start_time end_time text confidence",
        "summaries": "id session_id summary_text key_points sentiment created_at",
        "processing_jobs": "id session_id job_type status started_at completed_at error_message",
    }
    with Tables(tmp_path / "calls.duckdb") as tables:
        for table, columns in promised.items():
            found = [name for name, *_ in read(tables, f"DESCRIBE {table}")]
            assert found[: len(columns.split())] == columns.split()


def test_a_failing_batch_stores_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    script = CallScript("call-1")
    records = script.whole(2)
    with Tables(tmp_path / "calls.duckdb") as tables:
        stage = SinkStage(tables)
        turn = script.turns(1, revision=1, first=7)[0]
        broken = msgspec.structs.replace(
            script.arrival(turn),
            record=msgspec.structs.replace(turn, start_s=None),
        )
        with pytest.raises(duckdb.ConstraintException):
            stage.write([*records, broken])
        assert read(tables, "SELECT count(*) FROM audio_sessions") == [(0,)]
        stage.write(records)
        assert read(tables, "SELECT turns FROM calls") == [(2,)]


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_batch_and_a_replay_restores_the_tables(
    tmp_path: Path,
) -> None:
    run = batches()
    with Tables(tmp_path / "whole.duckdb") as tables:
        for batch in run:
            SinkStage(tables).write(batch)
        expected = dump(tables)
    rng = random.Random(7)
    path = tmp_path / "killed.duckdb"
    stored = -1
    for _ in range(4):
        last = _write_and_kill(path, after=rng.randrange(0, len(run) - 2), spin=rng.randrange(200_000))
        stored = max(stored, last)
        with Tables(path) as tables:
            turns = {row[0] for row in read(tables, "SELECT id::VARCHAR FROM transcript_segments")}
            for batch in run[: last + 1]:
                for arrival in batch:
                    assert getattr(arrival.record, "turn_id", None) in {None, *turns}
    with Tables(path) as tables:
        stage = SinkStage(tables)
        for batch in run[max(0, stored - 3) :] if stored >= 0 else run:
            stage.write(batch)
        assert dump(tables) == expected


def _write_and_kill(path: Path, *, after: int, spin: int) -> int:
    """Run the writer and kill it shortly after it reported batch `after`. Returns the last batch reported."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.stages.sink.writer", str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        last = -1
        for line in process.stdout:
            last = int(line)
            if last >= after:
                break
        for _ in range(spin):
            pass
        os.kill(process.pid, signal.SIGKILL)
        for line in process.stdout:
            last = int(line)
    return last


def test_a_warehouse_recovers_from_a_full_disk_at_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "calls.duckdb"
    token, port = "t" * 32, free_port()
    with Tables(path) as tables:
        tables.connection.execute("SET wal_autocheckpoint = '1KB'")
        tables.serve(token, port)
        stage = SinkStage(tables)
        stage.write(CallScript("before").whole(2))
        many = [record for number in range(20) for record in CallScript(f"call-{number}").whole(20)]
        with files_may_not_grow(path), pytest.raises(MachineFailure):
            stage.write(many)
        stage.write(CallScript("behind").whole(2))
        stored = {call_id for (call_id,) in read(tables, "SELECT call_id FROM audio_sessions")}
        assert {"before", "behind"} <= stored
        with duckdb.connect() as reader:
            load_extensions(reader)
            reader.execute(f"ATTACH 'quack:127.0.0.1:{port}' AS calls (TOKEN '{token}')")
            seen = reader.execute("SELECT count(*) FROM calls.audio_sessions").fetchone()
        assert seen == (len(stored),)
