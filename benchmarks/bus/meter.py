"""The clock of one run: CPU time of this process and of the broker between two records."""

import asyncio
import time

import psutil

from benchmarks.bus.load import Figures, Load


class Meter:
    """Call `tick` before each record is relayed; `done` is set at the last one.

    The measurement runs from the first record after the warm-up to the last, neither of them published yet: equally
    many are in flight at both ends. User and system time of all threads count.
    """

    def __init__(self, load: Load) -> None:
        self.done = asyncio.Event()
        self._load = load
        self._broker = psutil.Process(load.broker_pid)
        self._ticks = 0
        self._began = (0.0, 0.0, 0.0)
        self._ended = (0.0, 0.0, 0.0)

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks == self._load.warm_up + 1:
            self._began = self._now()
        if self._ticks == self._load.records:
            self._ended = self._now()
            self.done.set()

    def figures(self) -> Figures:
        cpu_s, broker_cpu_s, wall_s = (ended - began for began, ended in zip(self._began, self._ended, strict=True))
        records = self._load.records - 1 - self._load.warm_up
        return Figures(records=records, cpu_s=cpu_s, broker_cpu_s=broker_cpu_s, wall_s=wall_s)

    def _now(self) -> tuple[float, float, float]:
        broker = self._broker.cpu_times()
        return time.process_time(), broker.user + broker.system, time.monotonic()
