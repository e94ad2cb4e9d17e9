"""Brokers that can be killed, paused and restarted, each with its store in a separate folder."""

import secrets
import socket
from pathlib import Path
from typing import Protocol

from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.nats import NatsProcess

GAVE_UP = b"Critical write error"
"""Logged by nats-server 2.14 and 2.15 when a stream stops for good."""


class Broker(Protocol):
    """`url` is the value of CALLSTREAM_BUS and the same over restarts. `store` is the folder of the records."""

    store: Path

    @property
    def url(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    def start(self) -> None:
        """Start; returns when clients are served. Raises RuntimeError if the broker does not come up."""
        ...

    def kill(self) -> None:
        """kill -9."""
        ...

    def pause(self) -> None:
        """SIGSTOP."""
        ...

    def resume(self) -> None: ...

    def works(self) -> bool:
        """Return whether it serves. After a full disk a broker may have given up without ending."""
        ...


class JetStreamServer(NatsProcess):
    """A nats-server with the settings of the embedded one, syncing each record."""

    def __init__(self, folder: Path, *, max_store_bytes: int) -> None:
        self.store = folder / "store"
        super().__init__(
            folder,
            {
                "max_pending": 1_000_000_000,
                "write_deadline": "60s",
                "jetstream": {
                    "store_dir": str(self.store),
                    "max_file_store": max_store_bytes,
                    "max_memory_store": 64_000_000,
                    "sync_interval": "always",
                },
            },
        )
        self._logged_before = 0

    def start(self) -> None:
        self._logged_before = self.log.stat().st_size if self.log.exists() else 0
        super().start()

    def works(self) -> bool:
        """After a full disk a stream takes no records until the server is restarted; only the log tells."""
        return self._serves() and GAVE_UP not in self.log.read_bytes()[self._logged_before :]

    def _serves(self) -> bool:
        """Request the account's JetStream info, as any client would."""
        reply = f"_INBOX.{secrets.token_hex(8)}"
        connect = '{"verbose":false,"headers":true,"no_responders":true}'
        ask = f"CONNECT {connect}\r\nSUB {reply} 1\r\nPUB $JS.API.INFO {reply} 0\r\n\r\nPING\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(ask.encode())
                answer = b""
                while b"MSG " not in answer or b'"type"' not in answer:
                    if not (more := connection.recv(65536)) or b" 503" in answer:
                        return False
                    answer += more
        except OSError:
            return False
        return b'"error"' not in answer


class Kafka(KafkaServer):
    """An Apache Kafka broker with the default options of the JVM."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, java_options=())
        self.store = folder / "records"

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    def works(self) -> bool:
        """Kafka ends if it cannot write."""
        return self.alive


def broker_of(bus: str, folder: Path, *, max_store_bytes: int) -> Broker:
    return Kafka(folder) if bus == "kafka" else JetStreamServer(folder, max_store_bytes=max_store_bytes)
