"""Time and memory that a stage needs to catch up after minutes without it.

Plain producers keep some calls open and send them at the speed of speech. Every stage is one worker; the transcriber's
text is a hash of its samples, so that the bus and the stage are measured and not the model. One stage's worker is
watched while it keeps up, ended with SIGTERM, left out for the given time and started again. Its memory is read until
its backlog is gone. At the end every call that was sent must be in the warehouse.

    python -m benchmarks.catch_up --bus kafka --stage separate --minutes 10 [--json FILE]

"Memory" is the worker's resident memory, read every 0.1 s. A stage may hold records up to its byte budget on top of its
usual memory.

What it does not show: a transcriber with its model, whose speed is the model's.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from benchmarks.harness.brokers import broker_of
from benchmarks.harness.clients import AWAY, PlainClient, connect, unacknowledged
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.harness.workers import Fleet, WorkerProcess
from pipeline.wiring.stage_list import REQUIRED_NAMES, stage_named
from tests.support.processes.deployment import Deployment

BUSES: Final = ("jetstream", "kafka")
PARTITIONS: Final = 8
STORE_GB: Final = 8.0
READ_EVERY_S: Final = 0.1
ASK_AGAIN_S: Final = 0.2
SETTLES_WITHIN_S: Final = 300.0
COMPLETED: Final = "SELECT call_id FROM audio_sessions WHERE status = 'completed' AND NOT provisional"


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. MB are 10^6 bytes.

    `waiting` counts records after the pause, `steady_waiting` the most while the stage kept up.
    """

    bus: str
    stage: str
    stopped_s: float
    waiting: int
    steady_waiting: int
    caught_up_s: float
    steady_mb: float
    peak_mb: float
    budget_mb: float
    calls: int
    audio_s: float
    lost: list[str]


class Setup:
    """A broker, workers and a producer, all ended when the context is left."""

    def __init__(self, folder: Path, given: argparse.Namespace, bus: str) -> None:
        folder.mkdir()
        self._given = given
        self._sent = folder / "sent.jsonl"
        self._log = folder / "producer.log"
        self.broker = broker_of(bus, folder / "broker", max_store_bytes=int(STORE_GB * 1e9))
        self.deployment = Deployment(
            folder / "data",
            bus=self.broker.url,
            store_gb=str(STORE_GB),
            metrics_port="off",
            partitions=str(PARTITIONS),
        )
        self.deployment.data.mkdir()
        self.fleet = Fleet(folder / "workers", self.deployment.environment, real_model=False)
        self._producer: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Setup":
        self.broker.start()
        self.fleet.start(1)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._producer is not None and self._producer.poll() is None:
            self._producer.kill()
            self._producer.wait()
        self.fleet.destroy()
        self.broker.kill()

    def produce(self) -> None:
        command = [sys.executable, "-m", "benchmarks.harness.producer", self.broker.url, "--every", "0:1"]
        command += ["--concurrent", str(self._given.calls), "--speed", str(self._given.speed), "--seconds", "30", "65"]
        with self._sent.open("wb") as out, self._log.open("wb") as log:
            self._producer = subprocess.Popen(command, stdout=out, stderr=log, stdin=subprocess.DEVNULL)

    def hang_up(self) -> list[dict[str, Any]]:
        """Let the producer finish the calls in progress. Returns the calls that were sent."""
        assert self._producer is not None
        self._producer.send_signal(signal.SIGTERM)
        if self._producer.wait(600):
            raise RuntimeError(f"the producer failed: {self._log.read_text()[-2000:]}")
        return [json.loads(line) for line in self._sent.read_text().splitlines()[1:]]

    def completed(self) -> set[str]:
        asked = self.deployment.run("sql", COMPLETED, "--format", "json", check=False)
        return {row["call_id"] for row in json.loads(asked.stdout)} if asked.returncode == 0 else set()


async def measure(folder: Path, given: argparse.Namespace, bus: str, stage: str) -> CatchUp:
    with Setup(folder, given, bus) as setup:
        await _until(lambda: all(worker.ready for worker in setup.fleet.workers), 300)
        client = await connect(setup.broker.url)
        setup.produce()
        [worker] = setup.fleet.of(stage)
        steady = await _watch(client, stage, worker, lambda _waiting, s: s >= given.steady)
        stopped_at = time.monotonic()
        setup.fleet.remove(worker)
        while time.monotonic() - stopped_at < 60 * given.minutes:
            setup.fleet.tend()
            await asyncio.sleep(0.2)
        waiting = await _waiting(client, stage)
        print(f"{bus}, {stage}: {waiting} records wait after {given.minutes:g} minutes", flush=True)
        stopped_s = time.monotonic() - stopped_at
        setup.fleet.add(stage)
        [worker] = setup.fleet.of(stage)
        after = await _watch(client, stage, worker, lambda left, _s: left <= steady.most_waiting)
        sent = await asyncio.to_thread(setup.hang_up)
        calls = {f"chaos/1 {call['number']}" for call in sent}
        with contextlib.suppress(TimeoutError):
            await _until(lambda: calls <= setup.completed(), SETTLES_WITHIN_S)
        lost = sorted(calls - setup.completed())
        await client.close()
    return CatchUp(
        bus=bus,
        stage=stage,
        stopped_s=round(stopped_s, 1),
        waiting=waiting,
        steady_waiting=steady.most_waiting,
        caught_up_s=round(after.seconds, 1),
        steady_mb=round(steady.peak_mb, 1),
        peak_mb=round(after.peak_mb, 1),
        budget_mb=stage_named(stage).budget_bytes / 1e6,
        calls=len(calls),
        audio_s=round(sum(call["duration_s"] for call in sent), 1),
        lost=lost,
    )


class _Watched(msgspec.Struct, frozen=True):
    seconds: float
    peak_mb: float
    most_waiting: int


async def _watch(
    client: PlainClient, stage: str, worker: WorkerProcess, enough: Callable[[int, float], bool]
) -> _Watched:
    """Read a worker's memory until `enough(waiting records, seconds since the start)` is true."""
    began, asked_at, most, peak = time.monotonic(), 0.0, 0, 0
    process = psutil.Process(worker.process.pid)
    while True:
        peak = max(peak, process.memory_info().rss)
        now = time.monotonic()
        if now - asked_at >= 1.0:
            asked_at = now
            waiting = await _waiting(client, stage)
            most = max(most, waiting)
            if worker.ready and enough(waiting, now - began):
                return _Watched(now - began, peak / 1e6, most)
        await asyncio.sleep(READ_EVERY_S)


async def _waiting(client: PlainClient, stage: str) -> int:
    """Return how many records the stage has not acknowledged. Asks again while the broker does not answer."""
    while True:
        with contextlib.suppress(*AWAY):
            return await unacknowledged(client, stage, PARTITIONS)
        await asyncio.sleep(ASK_AGAIN_S)


async def _until(true: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.5)


def show(found: CatchUp) -> str:
    return (
        f"{found.bus:<10} {found.stage:<11} stopped {found.stopped_s:.0f} s, {found.waiting} records waiting: caught "
        f"up in {found.caught_up_s:.0f} s; memory {found.steady_mb:.0f} MB before, at most {found.peak_mb:.0f} MB "
        f"after (budget {found.budget_mb:.0f} MB); {found.calls} calls, {found.audio_s:.0f} s of audio, "
        f"{len(found.lost)} lost"
    )


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("catch_up", __doc__)
    made.add_argument("--bus", nargs="+", choices=BUSES, default=BUSES, help="brokers to measure (both)")
    made.add_argument(
        "--stage",
        nargs="+",
        choices=REQUIRED_NAMES[:-1],
        default=["separate", "transcribe"],
        help="stages to stop (separate transcribe)",
    )
    made.add_argument("--minutes", type=float, default=10.0, help="minutes that the stage is stopped (10)")
    made.add_argument("--steady", type=float, default=60.0, help="seconds that it is watched before it is stopped (60)")
    made.add_argument("--calls", type=int, default=8, help="two-leg calls at a time (8)")
    made.add_argument("--speed", type=float, default=1.0, help="times the speed of speech (1)")
    add_outputs(made)
    return made


def main() -> int:
    given = parser().parse_args()
    rows: list[CatchUp] = []
    with tempfile.TemporaryDirectory(prefix="callstream-") as folder:
        for bus in given.bus:
            for stage in given.stage:
                rows.append(asyncio.run(measure(Path(folder, f"{bus}-{stage}"), given, bus, stage)))
                print(show(rows[-1]), flush=True)
    load = {"calls_at_a_time": given.calls, "speed": given.speed, "minutes": given.minutes}
    write_report("catch_up", {"rows": msgspec.to_builtins(rows)}, given.json, given=load, runs=1)
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
