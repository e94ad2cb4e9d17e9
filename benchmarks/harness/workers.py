"""The workers of a run: processes of the installed command that are killed, paused, added and removed.

A worker that ends by itself is noted and restarted after a moment, as a service supervisor does.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.wiring.stage_list import REQUIRED_NAMES
from tests.support.processes.deployment import COMMAND

ENDS_WITHIN_S = 30.0
AGAIN_AFTER_S = 1.0


class WorkerProcess:
    """One worker from its start to its end."""

    def __init__(self, stage: str, log: Path, environment: Mapping[str, str], *, real_model: bool) -> None:
        self.stage = stage
        self.name = log.stem
        self.log = log
        self.frozen = False
        self._ready = False
        command = [COMMAND, "worker", stage]
        if stage == "transcribe" and not real_model:
            command = [sys.executable, "-m", "benchmarks.harness.hash_transcriber"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Return whether it has logged that it is ready, and runs."""
        return self.was_ready and self.alive

    @property
    def was_ready(self) -> bool:
        """Return whether it has ever been ready. Before that, SIGTERM ends it as any process."""
        self._ready = self._ready or b"\nready: " in self.log.read_bytes()
        return self._ready

    def held(self) -> dict[str, frozenset[int]]:
        """Return the partitions that it holds by its log, for each consumer group."""
        held: dict[str, frozenset[int]] = {}
        for line in self.log.read_text(errors="replace").splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "partitions assigned" and "numbers" in said:
                held[said["group"]] = frozenset(said["numbers"])
            elif said.get("event") == "partitions assigned" and "held" in said:
                held[said["group"]] = frozenset(number for _, number in said["held"])
            elif said.get("event") == "lease expired, partitions given up":
                held[said["group"]] = frozenset()
        return held

    def freeze(self) -> None:
        self.frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Fleet:
    """All workers. `start` starts `n` of each stage but one of the sink, which owns the warehouse.

    `environment_of` returns what a worker of that name has in its environment besides `environment`.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        real_model: bool,
        environment_of: Callable[[str], Mapping[str, str]] = lambda _name: {},
    ) -> None:
        folder.mkdir()
        self.workers: list[WorkerProcess] = []
        self.leaving: list[tuple[WorkerProcess, float]] = []
        self.ended_by_themselves: list[str] = []
        self.ended_badly: list[str] = []
        self._folder = folder
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._real_model = real_model
        self._environment_of = environment_of
        self._due: list[tuple[float, str]] = []
        self._started = 0

    def start(self, n: int) -> None:
        for stage in REQUIRED_NAMES:
            for _ in range(1 if stage == "sink" else n):
                self.add(stage)

    def add(self, stage: str) -> None:
        self._started += 1
        log = self._folder / f"{self._started:04d}-{stage}.log"
        environment = {**self._environment, **self._environment_of(log.stem)}
        self.workers.append(WorkerProcess(stage, log, environment, real_model=self._real_model))

    def add_later(self, stage: str, after_s: float) -> None:
        self._due.append((time.monotonic() + after_s, stage))

    def of(self, stage: str) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.stage == stage]

    def remove(self, worker: WorkerProcess) -> None:
        """Remove it for good, with SIGTERM."""
        self.workers.remove(worker)
        worker.process.terminate()
        self.leaving.append((worker, time.monotonic() + ENDS_WITHIN_S))

    def kill(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        worker.kill()

    def tend(self) -> None:
        """Start the workers that are due and note those that have ended. Call it often."""
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            self.add(entry[1])
        for worker in [worker for worker in self.workers if not worker.alive]:
            self.workers.remove(worker)
            self.ended_by_themselves.append(f"{worker.log.name}: {worker.process.returncode}")
            self.add_later(worker.stage, AGAIN_AFTER_S)
        for worker, deadline in list(self.leaving):
            if worker.alive and now < deadline:
                continue
            self.leaving.remove((worker, deadline))
            if worker.alive:
                worker.kill()
                self.ended_badly.append(f"{worker.log.name}: still there {ENDS_WITHIN_S:.0f} s after SIGTERM")
            elif worker.process.returncode and (worker.was_ready or worker.process.returncode != -signal.SIGTERM):
                self.ended_badly.append(f"{worker.log.name}: {worker.process.returncode} after SIGTERM")

    def end(self) -> None:
        """End all with SIGTERM, noting those that do not end well."""
        self._due.clear()
        for worker in list(self.workers):
            self.remove(worker)
        while self.leaving:
            self.tend()
            time.sleep(0.05)

    def destroy(self) -> None:
        """End all that is left with kill -9."""
        for worker in [*self.workers, *(worker for worker, _ in self.leaving)]:
            if worker.alive:
                worker.kill()
        self.workers.clear()
        self.leaving.clear()
