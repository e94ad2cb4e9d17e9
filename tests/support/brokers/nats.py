"""A nats-server for a test, configured as by an operator, as a process that can be killed, paused and restarted."""

import json
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.bus.nats.server import find_binary
from tests.support.processes.server import ServerProcess

READY_WITHIN_S = 60.0


class NatsProcess(ServerProcess):
    """One server with JetStream on records in `folder`; `start` after `kill` continues on the same records.

    `settings` are added to its configuration: `tls`, `authorization` and so on, as NATS names them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.settings = dict(settings or {})
        self.port = free_port()

    def __enter__(self) -> "NatsProcess":
        self.start()
        return self

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    @property
    def log(self) -> Path:
        """The output of all starts of the server."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start, and return when clients are served. Raises RuntimeError with the end of the log if that fails."""
        assert self._process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "listen": self.address,
            "max_payload": 8_388_608,
            "jetstream": {"store_dir": str(self.folder), "max_file_store": 4_000_000_000},
        } | self.settings
        config = self.folder / "server.conf"
        config.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([find_binary(), "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._serves():
            if not self.alive or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"nats-server serves nobody:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _serves(self) -> bool:
        return _greets(self.port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False
