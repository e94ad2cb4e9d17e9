"""Two users of one machine: what the other one can see and do of a deployment, which is nothing."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.deployment import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run the tests as root"),
]
OPEN_UMASK = 0o022


def announced(deployment: Deployment) -> dict[str, Any]:
    """Return the status of an instance, whose models may still be loading."""
    deadline = time.monotonic() + 60
    while (done := deployment.run("status", "--json", check=False)).returncode:
        assert deployment.alive, deployment.log_path(1).read_text()
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)
    status: dict[str, Any] = json.loads(done.stdout)
    return status


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """An instance on a data directory as an earlier version left it: open to all, with an open file in it."""
    umask = os.umask(OPEN_UMASK)
    try:
        with tempfile.TemporaryDirectory(prefix="callstream-users-") as folder:
            Path(folder).chmod(0o755)
            data = Path(folder) / "data"
            data.mkdir()
            (data / "callstream.toml").write_text("retention_days = 1.0\n")
            with Deployment(data, search="off") as deployment:
                deployment.start()
                announced(deployment)
                yield deployment
    finally:
        os.umask(umask)


@pytest.fixture(scope="module")
def found(deployment: Deployment) -> dict[str, Any]:
    """What the second user found."""
    status = deployment.status()
    addresses = [status[name] for name in ("nats_url", "quack_url", "metrics_url")]
    program = [sys.executable, "-m", "tests.support.processes.second_user", str(deployment.data), *addresses]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False, env=deployment.environment)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    assert results["user"] != 0
    return results


def test_another_user_reads_no_file_of_the_data_directory(found: dict[str, Any]) -> None:
    assert found["listed"] is None
    assert found["read"] == []


def test_another_user_does_not_get_onto_the_bus(found: dict[str, Any]) -> None:
    assert found["bus"] is None


def test_another_user_does_not_get_an_answer_to_sql(found: dict[str, Any]) -> None:
    assert found["sql"]["answer"] is None
    assert "token" in found["sql"]["said"].lower() or "auth" in found["sql"]["said"].lower()


def test_another_user_s_commands_say_that_they_may_not(deployment: Deployment, found: dict[str, Any]) -> None:
    for command in ("status", "calls", "credentials", "up"):
        said = found[command]["said"]
        assert found[command]["code"] == 2, said
        assert said.startswith(f"callstream: {deployment.data}")
        assert said.endswith(": Permission denied\n")
        assert len(said.splitlines()) == 1


def test_no_command_line_of_the_machine_shows_a_secret(deployment: Deployment, found: dict[str, Any]) -> None:
    secrets = [path.read_text().strip() for pattern in ("*.nk", "*token") for path in deployment.data.rglob(pattern)]
    assert len(secrets) >= 3
    assert [secret for secret in secrets if secret in found["command lines"]] == []
    assert "nats-server" in found["command lines"]


def test_another_user_may_read_metrics(found: dict[str, Any]) -> None:
    assert "callstream_ready" in found["metrics"]


def test_all_that_a_deployment_writes_is_for_its_user_alone(deployment: Deployment) -> None:
    modes = {}
    for path in (deployment.data, *deployment.data.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # the server replaces its files
            modes[path.name] = path.lstat().st_mode
    del modes["up-1.log"]  # the test's own
    assert len(modes) > 50
    assert {name: stat.filemode(mode) for name, mode in modes.items() if mode & 0o077 and not stat.S_ISLNK(mode)} == {}
