"""Brokers that may be killed, paused and started again, each with its store in a folder of its own."""

import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from pipeline.bus.nats.server import find_binary
from tests.support.brokers.kafka import KafkaServer

READY_WITHIN_S = 60.0
GAVE_UP = b"Critical write error"
"""What nats-server 2.14 and 2.15 log when a stream stops for good."""


class Broker(Protocol):
    """`url` is what CALLSTREAM_BUS is set to; it stays the same over restarts. `store` is where its records are."""

    url: str
    store: Path

    @property
    def alive(self) -> bool: ...

    def start(self) -> None:
        """Returns when clients are served. Raises RuntimeError where it does not come up."""
        ...

    def kill(self) -> None:
        """kill -9."""
        ...

    def pause(self) -> None:
        """SIGSTOP."""
        ...

    def resume(self) -> None: ...

    def works(self) -> bool:
        """Whether it serves; one whose disk was full may have given up without ending."""
        ...


class JetStreamServer:
    """A nats-server that no worker started, configured as the embedded one, syncing each record."""

    def __init__(self, folder: Path, *, max_store_bytes: int) -> None:
        folder.mkdir()
        self.store = folder / "store"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self._port}"
        self._log = folder / "nats-server.log"
        self._config = folder / "nats-server.conf"
        self._name = f"chaos-{secrets.token_hex(4)}"
        self._config.write_text(
            f"""
            server_name: {self._name}
            listen: "127.0.0.1:{self._port}"
            max_payload: 8MB
            max_pending: 1GB
            write_deadline: 60s
            log_file: "{self._log}"
            jetstream: {{
              store_dir: "{self.store}"
              max_file_store: {max_store_bytes}
              max_memory_store: 64MB
              sync_interval: always
            }}
            """
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert self._process is None
        self._logged_before = self._log.stat().st_size if self._log.exists() else 0
        self._process = subprocess.Popen([find_binary(), "-c", str(self._config)], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"nats-server does not come up, see {self._log}")
            time.sleep(0.02)

    def kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def works(self) -> bool:
        """A stream that met a full disk takes no records until the server is started again: only its log tells."""
        return self._answers() and GAVE_UP not in self._log.read_bytes()[self._logged_before :]

    def _answers(self) -> bool:
        """Ask for the account's JetStream figures, as any client would."""
        reply = f"_INBOX.{secrets.token_hex(8)}"
        ask = f"CONNECT {{}}\r\nSUB {reply} 1\r\nPUB $JS.API.INFO {reply} 0\r\n\r\nPING\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2) as connection:
                connection.sendall(ask.replace("{}", '{"verbose":false,"headers":true,"no_responders":true}').encode())
                answer = b""
                while b"MSG " not in answer or b'"type"' not in answer:
                    if not (more := connection.recv(65536)) or b" 503" in answer:
                        return False
                    answer += more
        except OSError:
            return False
        return b'"error"' not in answer

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


class Kafka:
    """An Apache Kafka broker with the Java machine's usual options."""

    def __init__(self, folder: Path) -> None:
        self._server = KafkaServer(folder, java_options=())
        self.store = folder / "records"
        self.url = f"kafka://{self._server.bootstrap}"

    @property
    def alive(self) -> bool:
        return self._server.alive

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def works(self) -> bool:
        """Kafka ends when it cannot write."""
        return self._server.alive


def broker_of(bus: str, folder: Path, *, max_store_bytes: int) -> Broker:
    return Kafka(folder) if bus == "kafka" else JetStreamServer(folder, max_store_bytes=max_store_bytes)
