"""The pipeline under test: `callstream up`, or a worker for each stage on a separate broker."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from benchmarks.harness.brokers import broker_of
from benchmarks.harness.workers import Fleet
from pipeline.bus.security import BusSecurity
from pipeline.instance import read_instance
from tests.support.processes.deployment import Deployment

BusKind = Literal["embedded", "jetstream", "kafka"]

READY_WITHIN_S: Final = 300.0
_STORE_GB: Final = 10


@contextlib.contextmanager
def running(bus: BusKind, folder: Path, settings: dict[str, str]) -> Iterator[tuple[str, BusSecurity]]:
    """Run a pipeline; yields its bus's URL and login once all models are loaded. Raises RuntimeError if that fails."""
    if bus == "embedded":
        with Deployment(folder / "data", **settings) as deployment:
            deployment.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            deployment.start()
            deployment.wait_ready(READY_WITHIN_S)
            instance = read_instance(folder / "data")
            if instance is None:
                raise RuntimeError(f"the instance has ended, see {deployment.log_path(1)}")
            credentials = instance.owner_credentials
            yield instance.bus_url, BusSecurity(credentials=None if credentials is None else Path(credentials))
        return
    broker = broker_of(bus, folder / "broker", max_store_bytes=2 * _STORE_GB * 10**9)
    broker.start()
    environment = Deployment(
        folder / "data", bus=broker.url, metrics_port="off", store_gb=str(_STORE_GB), **settings
    ).environment
    fleet = Fleet(folder / "workers", environment, real_model=True)
    try:
        fleet.start(1)
        deadline = time.monotonic() + READY_WITHIN_S
        while not all(worker.ready for worker in fleet.workers):
            ended = next((worker for worker in fleet.workers if not worker.alive), None)
            if ended is not None:
                raise RuntimeError(
                    f"the worker {ended.stage} has ended: {ended.log.read_text(errors='replace')[-1000:]}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers are not ready after {READY_WITHIN_S:.0f} s")
            time.sleep(0.2)
        yield broker.url, BusSecurity()
        fleet.end()
    finally:
        fleet.destroy()
        broker.kill()
