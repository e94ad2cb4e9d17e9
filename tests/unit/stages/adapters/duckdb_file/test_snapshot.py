"""Copies of a DuckDB file that another process writes."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from stages.adapters.duckdb_file import snapshot
from stages.errors import MachineFailure

ROOT = Path(__file__).parents[5]
WRITER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE t (i BIGINT PRIMARY KEY, filling VARCHAR)")
for number in range(1_000_000):
    rows = f"SELECT {number} - (range % 3), repeat('x', 2000) || range FROM range(20)"
    connection.execute(f"INSERT OR REPLACE INTO t {rows}")
    if number % 3 == 0:
        connection.execute("CHECKPOINT")
    print(number, flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that commits number after number, names each when it is stored, and checkpoints every third time."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "live.duckdb")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        yield process
        process.kill()


def test_a_copy_holds_what_was_committed_before_it_began_also_between_checkpoints(
    writer: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert writer.stdout is not None
    for _ in range(25):
        committed = int(writer.stdout.readline())
        snapshot.take(tmp_path / "live.duckdb", tmp_path / "copy.duckdb")
        with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as copy:
            found = copy.execute("SELECT max(i), count(*), min(len(filling)) FROM t").fetchone()
        assert found is not None
        last, rows, shortest = found
        assert last >= committed
        assert (rows, shortest) == (last + 3, 2001)
    assert writer.poll() is None


def test_a_log_that_ends_anywhere_gives_whole_transactions(tmp_path: Path) -> None:
    live, copy = tmp_path / "live.duckdb", tmp_path / "copy.duckdb"
    with duckdb.connect(str(live)) as connection:
        connection.execute("CREATE TABLE t (i BIGINT)")
        connection.execute("CHECKPOINT")
        for _ in range(30):
            connection.execute("INSERT INTO t SELECT range FROM range(7)")
        shutil.copy(live, copy)
        log = Path(f"{live}.wal").read_bytes()
    for end in random.Random(1).sample(range(len(log)), 20):
        Path(f"{copy}.wal").write_bytes(log[:end])
        with duckdb.connect(str(copy), read_only=True) as opened:
            assert opened.execute("SELECT count(*) % 7 FROM t").fetchall() == [(0,)]


def test_a_disk_without_room_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb.connect(str(tmp_path / "live.duckdb")).close()
    monkeypatch.setattr(snapshot, "room_bytes", lambda folder: 100)
    with pytest.raises(MachineFailure, match="no room"):
        snapshot.take(tmp_path / "live.duckdb", tmp_path / "copy.duckdb")
    assert not (tmp_path / "copy.duckdb").exists()
