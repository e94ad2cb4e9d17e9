"""A worker process for each stage on one bus; each can be killed and restarted."""

import signal
import subprocess
import time
from pathlib import Path

from tests.support.processes.deployment import Deployment

STAGES = ("separate", "transcribe", "merge", "summarize", "sink")


class Workers:
    """`callstream worker STAGE` for each of `stages`, on the bus of the deployment's settings.

    The output of a worker's last start is in `log_path`.
    """

    def __init__(self, deployment: Deployment, *, stages: tuple[str, ...] = STAGES) -> None:
        self.deployment = deployment
        self.stages = stages
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = dict.fromkeys(stages, 0)

    def __enter__(self) -> "Workers":
        self.deployment.data.mkdir(parents=True, exist_ok=True)
        for stage in self.stages:
            self.start(stage)
        return self

    def __exit__(self, *_error: object) -> None:
        self.terminate()

    def start(self, stage: str) -> None:
        """Start a worker that is not running, and return at once."""
        assert stage not in self._processes
        self._starts[stage] += 1
        with open(self.log_path(stage), "wb") as log:
            self._processes[stage] = subprocess.Popen(
                [self.deployment.command, "worker", stage], env=self.deployment.environment, stdout=log, stderr=log
            )

    def kill(self, stage: str) -> None:
        """kill -9."""
        process = self._processes.pop(stage)
        process.kill()
        process.wait()

    def terminate(self) -> dict[str, int]:
        """Send SIGTERM to all of them. Returns their exit codes."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {stage: process.wait(60) for stage, process in self._processes.items()}
        self._processes.clear()
        return codes

    def wait_ready(self, timeout_s: float = 240.0) -> None:
        """Wait until all of them are ready. Fails with the log of one that has ended."""
        deadline = time.monotonic() + timeout_s
        for stage, process in self._processes.items():
            while b"\nready: " not in (said := self.log_path(stage).read_bytes()):
                assert process.poll() is None, said.decode(errors="replace")
                assert time.monotonic() < deadline, f"{stage} is not ready: {said.decode(errors='replace')}"
                time.sleep(0.1)

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of running workers by stage."""
        return {stage: process.pid for stage, process in self._processes.items() if process.poll() is None}

    def log_path(self, stage: str) -> Path:
        """Return the file with the worker's output since its last start."""
        return self.deployment.data / f"{stage}-{self._starts[stage]}.log"
