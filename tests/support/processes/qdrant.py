"""A real Qdrant server for tests, if its program is on PATH."""

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from stages.adapters.duckdb_file.quack import free_port
from tests.support.requirements import missing

READY_WITHIN_S = 60.0


class QdrantServer:
    """Listens on the loopback interface and keeps its data in `folder`. It can be killed and restarted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = shutil.which("qdrant") or missing("qdrant", "put the program of a release of Qdrant's on PATH")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "QdrantServer":
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop(signal.SIGTERM)

    def start(self) -> None:
        """Start; returns when it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self._port),
            "QDRANT__SERVICE__GRPC_PORT": str(free_port()),
            "QDRANT__STORAGE__STORAGE_PATH": str(self._folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self._folder / "snapshots"),
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT__LOG_LEVEL": "WARN",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program], cwd=self._folder, env={**os.environ, **environment}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it. SIGKILL simulates a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
