"""Who owns a data directory."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InstanceError
from pipeline.instance import INSTANCE_FILE, DataLock, InstanceInfo, read_instance

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.instance import DataLock, InstanceInfo
import os
with DataLock(Path(sys.argv[1])) as lock:
    lock.announce(InstanceInfo(pid=os.getpid(), bus_url="nats://x", quack_url=None, quack_token=None,
                               metrics_url=None, started_at=1.0))
    print("held", flush=True)
    time.sleep(60)
"""


def info(pid: int, *, ready: bool = False) -> InstanceInfo:
    return InstanceInfo(
        pid=pid,
        bus_url="nats://127.0.0.1:4222",
        quack_url="quack:127.0.0.1:1",
        quack_token="secret",
        metrics_url=None,
        started_at=1.0,
        ready=ready,
    )


def test_an_announced_instance_is_found_while_its_lock_is_held_and_not_after(tmp_path: Path) -> None:
    assert read_instance(tmp_path) is None
    with DataLock(tmp_path) as lock:
        assert read_instance(tmp_path) is None
        lock.announce(info(os.getpid()))
        lock.announce(info(os.getpid(), ready=True))
        assert read_instance(tmp_path) == info(os.getpid(), ready=True)
    assert read_instance(tmp_path) is None
    assert not (tmp_path / INSTANCE_FILE).exists()


def test_the_token_is_readable_by_its_user_only(tmp_path: Path) -> None:
    with DataLock(tmp_path) as lock:
        lock.announce(info(os.getpid()))
        assert stat.S_IMODE((tmp_path / INSTANCE_FILE).stat().st_mode) == 0o600


def test_a_second_owner_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    with DataLock(tmp_path), pytest.raises(InstanceError, match=f"in use by process {os.getpid()}"):
        DataLock(tmp_path).__enter__()
    with DataLock(tmp_path):
        pass


def test_an_announcement_of_a_process_that_does_not_hold_the_lock_is_not_believed(tmp_path: Path) -> None:
    with DataLock(tmp_path) as lock:
        lock.announce(info(os.getpid() + 1))
        assert read_instance(tmp_path) is None


def test_a_damaged_announcement_counts_as_none(tmp_path: Path) -> None:
    with DataLock(tmp_path):
        (tmp_path / INSTANCE_FILE).write_text("{")
        assert read_instance(tmp_path) is None


def test_kill_9_of_the_owner_frees_the_directory(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"held\n"
        found = read_instance(tmp_path)
        assert found is not None
        assert found.pid == process.pid
        os.kill(process.pid, signal.SIGKILL)
    assert read_instance(tmp_path) is None
    with DataLock(tmp_path):
        assert not (tmp_path / INSTANCE_FILE).exists()
