"""A real Apache Kafka broker for a test, as a process that can be killed, paused and restarted."""

import contextlib
import random
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.brokers.certificates import Authority
from tests.support.processes.server import ServerProcess
from tests.support.requirements import SCRIPTS, require_built

LOG_CONFIGURATION = SCRIPTS / "kafka" / "log4j2.properties"
READY_WITHIN_S = 300.0
STARTED = b"Kafka Server started"
"""Logged when all listeners are open; one of them answers earlier."""

PORTS = range(20000, 32000)
"""Below the ephemeral ports, so that no connection gets the port of a stopped broker."""

QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Starts with 40 % less CPU time. In the long run the C1 compiler's code is slower."""


def require_kafka() -> Path:
    """Return the folder of the broker's jars. Without them the test skips, or fails if CALLSTREAM_REQUIRE has kafka."""
    return Path(require_built("kafka", "fetches it in about a minute (needs Java and Maven)")["KAFKA_LIBS"])


class KafkaServer(ServerProcess):
    """One broker with its records in `folder`; `start` after `stop` or `kill` continues on the same records.

    Clients connect to `bootstrap`: in plain text, with `tls` over TLS 1.3 (`ca_file` verifies the certificate), with
    `scram_user` (name, password) by a SCRAM-SHA-512 login; with both it is SASL_SSL. `inside` is always plain text
    without a login, for the test's own queries.

    Limits are Kafka's defaults: records of up to 1 MB. Topics are not created automatically. `extra` adds or replaces
    lines of server.properties; it may be changed between a stop and a start. A benchmark passes `java_options=()`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scram_user: tuple[str, str] | None = None,
        tls: bool = False,
        extra: Mapping[str, str] | None = None,
        java_options: Sequence[str] = QUICK_START,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.tls = tls
        self.scram_user = scram_user
        self.extra = dict(extra or {})
        self._java_options = java_options
        self._libs = require_kafka()
        self._port, self._inside_port, self._controller_port = _free_ports(3)

    def __enter__(self) -> "KafkaServer":
        return self

    @property
    def security_protocol(self) -> str:
        """The protocol of `bootstrap`, as Kafka names it."""
        return {
            (False, False): "PLAINTEXT",
            (True, False): "SASL_PLAINTEXT",
            (False, True): "SSL",
            (True, True): "SASL_SSL",
        }[self.scram_user is not None, self.tls]

    @property
    def bootstrap(self) -> str:
        """host:port for clients; the same over restarts."""
        return f"127.0.0.1:{self._port}"

    @property
    def inside(self) -> str:
        """host:port in plain text without a login, whatever `bootstrap` requires."""
        return f"127.0.0.1:{self._inside_port}"

    @property
    def ca_file(self) -> Path:
        """The authority of the broker's certificate. It exists once the broker was started with `tls`."""
        assert self.tls
        return self.folder / "tls" / "ca.pem"

    @property
    def log(self) -> Path:
        """The output of all starts of the broker."""
        return self.folder / "kafka.log"

    def start(self) -> None:
        """Start, and return when clients are served. Raises RuntimeError with the end of the log if that fails."""
        assert self._process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tls and not self.key_and_certificate.exists():
            certificate, key = Authority(self.folder / "tls").issue("broker")
            self.key_and_certificate.write_text(key.read_text() + certificate.read_text())
        self._properties_file.write_text("".join(f"{name}={text}\n" for name, text in self._properties().items()))
        if not (self.folder / "records" / "meta.properties").exists():
            self._format()
        with self.log.open("ab") as log:
            log_starts_at = log.tell()
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties_file)), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self._wait_ready(log_starts_at)
        except BaseException:
            self.kill()
            raise

    # -- how it is run -----------------------------------------------------------------------------------------------

    @property
    def key_and_certificate(self) -> Path:
        return self.folder / "tls" / "keystore.pem"

    @property
    def _properties_file(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, main: str, *arguments: str) -> list[str]:
        options = [*self._java_options, "-Xmx512m", f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}"]
        return ["java", *options, "-cp", f"{self._libs}/*", main, *arguments]

    def _properties(self) -> dict[str, str]:
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"CLIENTS://{self.bootstrap},INSIDE://{self.inside},"
            f"CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"CLIENTS://{self.bootstrap},INSIDE://{self.inside}",
            "inter.broker.listener.name": "INSIDE",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": f"CLIENTS:{self.security_protocol},INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.folder / "records"),
            # A single broker, whose own topics are small.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill -9 the broker waits for its own old lease.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # Compaction and deletion by age take effect within a second if a topic's own settings require them.
            "log.cleaner.dedupe.buffer.size": "16777216",
            "log.cleaner.backoff.ms": "200",
            "log.retention.check.interval.ms": "500",
            "log.initial.task.delay.ms": "500",
        }
        if self.tls:
            properties |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self.key_and_certificate),
                "ssl.enabled.protocols": "TLSv1.3",
            }
        if self.scram_user is not None:
            login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            properties |= {
                "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.clients.scram-sha-512.sasl.jaas.config": login,
            }
        return properties | self.extra

    def _format(self) -> None:
        arguments = ["format", "--cluster-id", "callstream-test-000000", "--config", str(self._properties_file)]
        if self.scram_user is not None:
            name, password = self.scram_user
            arguments += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", *arguments), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the Kafka broker's folder cannot be formatted:\n{done.stdout}{done.stderr}")

    def _wait_ready(self, log_starts_at: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN_S
        while not (STARTED in self.log.read_bytes()[log_starts_at:] and _serves_metadata(self._inside_port)):
            if self._process.poll() is not None:
                raise RuntimeError(f"the Kafka broker ended with {self._process.returncode}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the Kafka broker serves nobody after {READY_WITHIN_S:.0f} s:\n{self._log_tail()}")
            time.sleep(0.05)

    def _log_tail(self, n_lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-n_lines:])


def _free_ports(n_ports: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < n_ports:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def _serves_metadata(port: int) -> bool:
    """Return whether the broker answers a metadata request (version 1, no topics) with at least one broker."""
    header = struct.pack(">hhih", 3, 1, 7, -1)  # api key, version, correlation id, no client id
    body = struct.pack(">i", 0)
    request = header + body
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answers:
                answer = answers.read(12)
    except OSError:
        return False
    if len(answer) < 12:
        return False
    _size, correlation_id, n_brokers = struct.unpack(">iii", answer)
    return bool(correlation_id == 7 and n_brokers > 0)
