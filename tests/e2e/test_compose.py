"""The services of `docker-compose.kafka.yml`, each started with its own `command` and `environment`, without Docker.

What is different from containers: the host names, ports and paths of the file are replaced by the test's, and the
brokers are the tests' Kafka, with the settings that the file gives to Kafka's image, and the nats-server of the wheel.
"""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import nats
import pytest

from pipeline.bus.nats.server import find_binary
from pipeline.wiring.stage_list import REQUIRED_NAMES
from tests.calls.wording import holds
from tests.support.brokers.kafka import KafkaServer
from tests.support.processes.compose import KAFKA_FILE, TLS_FILE, services
from tests.support.processes.deployment import COMMAND

CALL = "composed"
PASSWORD = "correcthorse"
VARIABLES = {"CALLSTREAM_BUS_PASSWORD": PASSWORD, "CALLSTREAM_TLS_DIR": "/tls"}
PLACES = {
    "node.id",
    "listeners",
    "advertised.listeners",
    "controller.quorum.voters",
    "log.dirs",
    "ssl.keystore.location",
}
"""What the test's broker has of its own: where it lies, and under which addresses it answers."""

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]


def broker_properties(environment: dict[str, str]) -> dict[str, str]:
    """What the broker's image makes of its environment: `KAFKA_A_B___C` is the property `a.b-c`."""
    names = {
        variable: variable.removeprefix("KAFKA_").lower().replace("___", "-").replace("__", "\0").replace("_", ".")
        for variable in environment
        if variable.startswith("KAFKA_") and variable != "KAFKA_HEAP_OPTS"
    }
    return {name.replace("\0", "_"): environment[variable] for variable, name in names.items() if name not in PLACES}


class Container:
    """One service as a process. `volume` stands for /data, in the environment too."""

    def __init__(self, name: str, service: dict[str, Any], folder: Path, replaced: dict[str, str]) -> None:
        self.name = name
        self.volume = folder / name
        self.volume.mkdir()
        self.log = folder / f"{name}.log"
        self._service = service
        self._replaced = {**replaced, "/data": str(self.volume)}
        self._metrics_port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        given = {variable: self._here(text) for variable, text in self._service["environment"].items()}
        given["CALLSTREAM_METRICS_PORT"] = str(self._metrics_port)
        return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.volume), **given}

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [COMMAND, *self._service["command"]],
                env=self.environment,
                cwd=self.volume,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int | None:
        """SIGTERM, and the exit code; None for a service that was not started."""
        if self._process is None:
            return None
        self._process.terminate()
        return self._process.wait(60)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def healthy(self) -> bool:
        """Whether the service's own health check succeeds."""
        kind, *command = self._service["healthcheck"]["test"]
        assert kind == "CMD"
        checked = subprocess.run(command, env=self.environment, cwd=self.volume, capture_output=True, check=False)
        return checked.returncode == 0

    def execute(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What `docker compose exec SERVICE callstream …` does."""
        return subprocess.run(
            [COMMAND, *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _here(self, text: str) -> str:
        for name, replacement in self._replaced.items():
            text = text.replace(name, replacement)
        return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(params=["plain", "tls"])
def described(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The services of the file, without and with the TLS override."""
    files = [KAFKA_FILE] if request.param == "plain" else [KAFKA_FILE, TLS_FILE]
    return services(*files, variables=VARIABLES)


@pytest.fixture
def broker(described: dict[str, dict[str, Any]], tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker with the properties that the file gives to Kafka's image."""
    secured = "user" in described
    properties = broker_properties(described["kafka"]["environment"])
    login = ("callstream", PASSWORD) if secured else None
    with KafkaServer(tmp_path / "kafka", scram_user=login, tls=secured, extra=properties) as server:
        server.start()
        yield server


@pytest.fixture
def live_port(described: dict[str, dict[str, Any]], broker: KafkaServer, tmp_path: Path) -> Iterator[int]:
    """A nats-server with the command of the file's, on loopback."""
    port = _free_port()
    command = [part.replace("4222", str(port)) for part in described["nats"]["command"]]
    if broker.tls:
        config = (TLS_FILE.parent / "nats.conf").read_text(encoding="utf-8")
        certificate = str(broker.key_and_certificate)
        here = tmp_path / "nats.conf"
        here.write_text(config.replace("/etc/callstream/broker.pem", certificate).replace("4222", str(port)))
        command = [part.replace("/etc/callstream/nats.conf", str(here)) for part in command]
    environment = {**os.environ, **described["nats"].get("environment", {})}
    with (tmp_path / "nats.log").open("wb") as log:
        server = subprocess.Popen(
            [find_binary(), "--addr=127.0.0.1", *command], env=environment, stdout=log, stderr=log
        )
    yield port
    server.terminate()
    server.wait()


@pytest.fixture
def containers(
    described: dict[str, dict[str, Any]], broker: KafkaServer, live_port: int, tmp_path: Path
) -> Iterator[dict[str, Container]]:
    """The services of ours that run at once on a machine without a GPU, and the topics' one; none is started."""
    replaced = {
        "kafka:9092": broker.bootstrap,
        "nats:4222": f"127.0.0.1:{live_port}",
        "ollama:11434": "127.0.0.1:9",
    }
    if broker.tls:
        replaced["/etc/callstream/ca.pem"] = str(broker.ca_file)
    made = {
        name: Container(name, described[name], tmp_path, replaced) for name in ("topics", *REQUIRED_NAMES, "fanout")
    }
    yield made
    for container in made.values():
        if container.alive:
            container.stop()


async def publish(broker: KafkaServer, path: Path) -> None:
    """The recording as one call, from a plain Kafka client."""
    with wave.open(str(path)) as audio:
        start = {
            "encoding": "pcm_s16le",
            "sample_rate_hz": audio.getframerate(),
            "channels": audio.getnchannels(),
            "roles": ["agent", "customer"],
        }
        data = audio.readframes(audio.getnframes())
    size = start["sample_rate_hz"] // 5 * start["channels"] * 2
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    events = [
        ("callstream.call.started", json.dumps(start).encode()),
        *(("callstream.audio.chunk", chunk) for chunk in chunks),
        ("callstream.call.ended", json.dumps({"events": len(chunks) + 2}).encode()),
    ]
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker.inside, acks="all")
    await producer.start()
    try:
        for seq, (event_type, value) in enumerate(events):
            attributes = {"specversion": "1.0", "id": str(seq), "source": "/pbx", "type": event_type}
            headers = [
                (f"ce_{name}", text.encode())
                for name, text in {**attributes, "subject": CALL, "callseq": str(seq)}.items()
            ]
            await producer.send_and_wait("calls.audio", value, key=CALL.encode(), headers=headers)
    finally:
        await producer.stop()


def until_healthy(workers: list[Container], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = workers
    while waiting := [worker for worker in waiting if not worker.healthy]:
        for worker in waiting:
            assert worker.alive, worker.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, worker.log.read_text(errors="replace")[-3000:]
        time.sleep(0.5)


def until_completed(sink: Container, workers: list[Container], timeout_s: float = 240.0) -> dict[str, Any]:
    """The call's document, as `exec sink callstream show` prints it once the call is summarized."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        shown = sink.execute("show", CALL, "--json")
        if shown.returncode == 0:
            document: dict[str, Any] = json.loads(shown.stdout)
            if document["status"] == "completed" and document["summary"]:
                return document
        time.sleep(1)
    logs = "\n\n".join(f"{worker.name}: {worker.log.read_text(errors='replace')[-3000:]}" for worker in workers)
    raise AssertionError(f"the call is not completed after {timeout_s:.0f} s: {shown.stdout}{shown.stderr}\n{logs}")


async def viewer(broker: KafkaServer, port: int) -> Any:
    """A plain NATS client, on the host that the certificate names, with the password of the override."""
    if not broker.tls:
        return await nats.connect(f"nats://127.0.0.1:{port}", connect_timeout=10)
    trusted = ssl.create_default_context(cafile=broker.ca_file)
    return await nats.connect(
        f"tls://127.0.0.1:{port}", tls=trusted, user="callstream", password=PASSWORD, connect_timeout=10
    )


async def test_a_call_goes_through_the_services_as_the_file_starts_them(
    containers: dict[str, Container], broker: KafkaServer, live_port: int, short_call: Path
) -> None:
    topics = containers.pop("topics")
    topics.start()
    assert topics.wait(60) == os.EX_OK, topics.log.read_text()
    workers = list(containers.values())
    assert not workers[0].healthy
    for worker in workers:
        worker.start()
    await asyncio.to_thread(until_healthy, workers)
    watching = await viewer(broker, live_port)
    shown = await watching.subscribe(f"live.default.{CALL}")
    await publish(broker, short_call)
    document = await asyncio.to_thread(until_completed, containers["sink"], workers)
    assert [turn["speaker"] for turn in document["turns"]] == ["agent", "customer", "agent", "customer"]
    assert holds(document["turns"][0]["text"], "Northwind")
    assert document["summary"]["method"] == "extractive"
    lines = containers["sink"].execute("sql", "SELECT call_id FROM calls", "--format", "csv").stdout.split()
    assert lines == ["call_id", CALL]
    types = {(await shown.next_msg(timeout=10)).headers["ce-type"] for _ in range(shown.pending_msgs)}
    assert {"callstream.segment", "callstream.turn", "callstream.transcript.completed", "callstream.summary"} <= types
    await watching.close()
    assert {worker.name: worker.stop() for worker in workers} == dict.fromkeys((*REQUIRED_NAMES, "fanout"), os.EX_OK)
    assert not workers[0].healthy
