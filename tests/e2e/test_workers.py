"""Each stage as a process of its own, on a broker that none of them started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers.kafka import KafkaServer
from tests.support.processes.deployment import COMMAND, SAMPLE_ROLES, Deployment

STAGES = ("separate", "transcribe", "merge", "summarize", "sink")


@pytest.fixture(params=["nats", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "kafka":
        with KafkaServer(tmp_path / "kafka") as kafka:
            kafka.start()
            yield f"kafka://{kafka.bootstrap}"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(sys.executable).parent / "nats-server"
    arguments = ["-js", "-sd", str(tmp_path / "jetstream"), "-a", "127.0.0.1", "-p", str(port)]
    with open(tmp_path / "nats.log", "wb") as log:
        server = subprocess.Popen([str(binary), *arguments], stdout=log, stderr=log)
    yield f"nats://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.mark.slow
def test_a_call_goes_through_five_workers(bus_url: str, short_call: Path, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "data", bus=bus_url)
    deployment.data.mkdir()
    logs = {stage: open(tmp_path / f"{stage}.log", "wb") for stage in STAGES}  # noqa: SIM115  # closed below
    workers = {
        stage: subprocess.Popen([COMMAND, "worker", stage], env=deployment.environment, stdout=log, stderr=log)
        for stage, log in logs.items()
    }
    try:
        deadline = time.monotonic() + 90
        while not all(b"ready" in (tmp_path / f"{stage}.log").read_bytes() for stage in STAGES):
            assert all(worker.poll() is None for worker in workers.values())
            assert time.monotonic() < deadline
            time.sleep(0.2)
        deployment.run("publish", str(short_call), "--call", "far", "--roles", SAMPLE_ROLES)
        document = deployment.wait_completed("far")
        assert [turn["speaker"] for turn in document["turns"]] == ["agent", "customer", "agent", "customer"]
        maps = {stage: (Path("/proc") / str(worker.pid) / "maps").read_text() for stage, worker in workers.items()}
        assert [stage for stage, text in maps.items() if "libtorch" in text] == ["transcribe"]
    finally:
        for worker in workers.values():
            worker.send_signal(signal.SIGTERM)
        codes = {stage: worker.wait(30) for stage, worker in workers.items()}
        for log in logs.values():
            log.close()
    assert codes == dict.fromkeys(STAGES, os.EX_OK)


def test_a_worker_without_a_bus_says_what_it_needs(tmp_path: Path) -> None:
    done = Deployment(tmp_path / "data").run("worker", "merge", check=False)
    assert done.returncode == 2
    assert "CALLSTREAM_BUS" in done.stderr


@pytest.mark.parametrize("scheme", ["nats", "kafka"])
def test_a_worker_that_waits_for_its_bus_ends_at_sigterm(scheme: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        deployment = Deployment(tmp_path / "data", bus=f"{scheme}://127.0.0.1:{port}")
        worker = subprocess.Popen([COMMAND, "worker", "merge"], env=deployment.environment, stderr=subprocess.DEVNULL)
        silent.settimeout(60)
        connection, _ = silent.accept()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == os.EX_OK
        connection.close()
