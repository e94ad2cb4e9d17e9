"""CPU and wall seconds of a process and all its children."""

import time

import psutil


class Clock:
    """Measures the block: CPU seconds of this process and all its children, and wall seconds."""

    cpu_s: float
    wall_s: float

    def __enter__(self) -> "Clock":
        self._cpu_s, self._wall_s = self._used_s(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = round(self._used_s() - self._cpu_s, 3)
        self.wall_s = round(time.monotonic() - self._wall_s, 3)

    def _used_s(self) -> float:
        me = psutil.Process()
        times = [me.cpu_times(), *(process.cpu_times() for process in me.children(recursive=True))]
        return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))
