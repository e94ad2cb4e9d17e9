"""The pipeline that live calls are sent to: `callstream up`, or a worker for each stage on a broker of its own."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from benchmarks.chaos.brokers import Broker, JetStreamServer, Kafka
from benchmarks.chaos.workers import Fleet
from pipeline.instance import read_instance
from tests.deployment import Deployment

BusKind = Literal["embedded", "jetstream", "kafka"]

READY_WITHIN_S: Final = 300.0
_STORE_BYTES: Final = 10_000_000_000


@contextlib.contextmanager
def running(bus: BusKind, folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """The bus's URL, when all models are loaded. Raises RuntimeError where the workers do not come up."""
    if bus == "embedded":
        with Deployment(folder / "data", **settings) as deployment:
            deployment.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            deployment.start()
            deployment.wait_ready(READY_WITHIN_S)
            instance = read_instance(folder / "data")
            if instance is None:
                raise RuntimeError(f"the instance has ended, see {deployment.log_path(1)}")
            yield instance.bus_url
        return
    broker: Broker
    broker = (
        Kafka(folder / "broker") if bus == "kafka" else JetStreamServer(folder / "broker", max_store_bytes=_STORE_BYTES)
    )
    broker.start()
    environment = Deployment(folder / "data", bus=broker.url, metrics_port="off", **settings).environment
    fleet = Fleet(folder / "workers", environment, real_model=True)
    try:
        fleet.start(1)
        deadline = time.monotonic() + READY_WITHIN_S
        while not all(worker.ready for worker in fleet.workers):
            fleet.tend()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers do not come up, see {folder / 'workers'}")
            time.sleep(0.2)
        yield broker.url
        fleet.end()
    finally:
        fleet.destroy()
        broker.kill()
