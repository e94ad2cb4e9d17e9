"""The commands on a NATS server that asks for TLS and a password, by settings alone."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers.certificates import Authority
from tests.support.brokers.nats import NatsProcess
from tests.support.processes.deployment import Deployment

PASSWORD = "hunter2"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings with which such a server is reached."""
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("server")
    mine, mine_key = authority.issue("worker")
    configured = {
        "tls": {"cert_file": str(cert), "key_file": str(key), "ca_file": str(authority.ca_file), "verify": True},
        "authorization": {"user": "worker", "password": PASSWORD},
    }
    with NatsProcess(tmp_path / "nats", configured) as server:
        yield {
            "bus": f"tls://{server.address}",
            "bus_user": "worker",
            "bus_password": PASSWORD,
            "bus_ca_file": str(authority.ca_file),
            "bus_cert_file": str(mine),
            "bus_key_file": str(mine_key),
            "store_gb": "1",
        }


def test_up_uses_it_for_calls_and_for_who_watches_them_and_writes_no_password(
    tmp_path: Path, secured: dict[str, str]
) -> None:
    with Deployment(tmp_path / "data", **secured) as deployment:
        deployment.start()
        deadline = time.monotonic() + 60
        while (done := deployment.run("status", "--json", check=False)).returncode:
            assert deployment.alive, deployment.log_path(1).read_text()
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.2)
        status = json.loads(done.stdout)
        assert status["bus_url"] == status["live_url"] == secured["bus"]
        described = deployment.run("topics", "describe")
        assert "calls.transcripts" in described.stdout
        deployment.kill()
        written = [path for path in deployment.data.rglob("*") if path.is_file()]
        assert {deployment.data / "instance.json", deployment.log_path(1)} <= set(written)
        assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_a_wrong_password_ends_the_command_at_once_with_the_reason(tmp_path: Path, secured: dict[str, str]) -> None:
    deployment = Deployment(tmp_path / "data", **secured | {"bus_password": "hunter3"})
    began = time.monotonic()
    done = deployment.run("topics", "describe", check=False)
    assert time.monotonic() - began < 15
    assert done.returncode == 2
    assert done.stderr == f"callstream: the NATS server at {secured['bus']} refuses: it rejects these credentials\n"
