"""The clock of one run: processor time of this process and of the broker, between two records."""

import asyncio
import time

import psutil

from benchmarks.bus.load import Figures, Load


class Meter:
    """`tick` is called when a record is about to be relayed; `done` is set at the last one.

    From the first record behind the warm-up to the last, both not yet published: as many are in flight at the
    beginning as at the end. Time of all threads counts, user's and system's.
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
