"""The commands on a NATS server that asks for TLS and a password, by settings alone."""

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from pipeline.bus.nats.server import find_binary
from tests.support.brokers.certificates import Authority
from tests.support.brokers.nats import NatsProcess, free_port
from tests.support.processes.compose import KAFKA_FILE, TLS_FILE, services
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


@pytest.mark.parametrize("password", ["hunter2", "4711"])
async def test_the_container_for_live_updates_takes_its_password_from_the_environment(
    tmp_path: Path, password: str
) -> None:
    service = services(
        KAFKA_FILE, TLS_FILE, variables={"CALLSTREAM_BUS_PASSWORD": password, "CALLSTREAM_TLS_DIR": "/tls"}
    )["nats"]
    authority = Authority(tmp_path / "authority")
    both = tmp_path / "broker.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in authority.issue("server")))
    port = free_port()
    config = (TLS_FILE.parent / "nats.conf").read_text(encoding="utf-8").replace("4222", str(port))
    (tmp_path / "nats.conf").write_text(config.replace("/etc/callstream/broker.pem", str(both)))
    command = [part.replace("/etc/callstream", str(tmp_path)) for part in service["command"]]
    with subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [find_binary(), "--addr=127.0.0.1", *command], env=service["environment"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            trusted = ssl.create_default_context(cafile=authority.ca_file)
            client = await until_connected(f"tls://127.0.0.1:{port}", tls=trusted, user="callstream", password=password)
            await client.close()
            line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
            assert b"nats.conf" in line
            assert password.encode() not in line.replace(str(port).encode(), b"")
        finally:
            server.terminate()


async def until_connected(url: str, **login: Any) -> Any:
    deadline = time.monotonic() + 20
    while True:
        client = nats.NATS()
        try:
            await client.connect(url, allow_reconnect=False, max_reconnect_attempts=0, **login)
            return client
        except (nats.errors.Error, OSError):
            await client.close()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
