"""Whether the groups of a process move, and what they have lost: what `callstream status` tells an operator."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from pipeline.telemetry.metrics import Metrics
from stages.sink.losses import Loss

STANDSTILL_S: Final = 60.0
"""A group stands still if records wait and none was finished for this long."""
CHECK_EVERY_S: Final = 5.0


class Health:
    """The groups of a process that stand still, and the losses that its warehouse knows. `changed` is set whenever that
    changes.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.changed = asyncio.Event()
        self.lost: list[Loss] = []
        self._metrics = metrics
        self._stalled: set[str] = set()

    @property
    def stalled(self) -> list[str]:
        return sorted(self._stalled)

    def report(self, group: str, *, stalled: bool) -> None:
        self._metrics.group_stalled.labels(group).set(stalled)
        if stalled == (group in self._stalled):
            return
        self._stalled ^= {group}
        self.changed.set()

    def report_lost(self, lost: list[Loss]) -> None:
        if lost != self.lost:
            self.lost = lost
            self.changed.set()


class Movement:
    """The movement of one group in this process."""

    def __init__(
        self,
        group: str,
        health: Health,
        *,
        standstill_s: float = STANDSTILL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._health = health
        self._standstill_s = standstill_s
        self._clock = clock
        self._moved_at = clock()

    def moved(self) -> None:
        """Note that a record was finished."""
        self._moved_at = self._clock()

    def check(self, *, waiting: bool) -> None:
        """Report the group. `waiting`: records wait for it, or the bus does not tell."""
        if not waiting:
            self.moved()
        self._health.report(self._group, stalled=self._clock() - self._moved_at > self._standstill_s)
