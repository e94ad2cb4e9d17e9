"""Whether a bus delivers what waits in the partitions that it has assigned.

A client may hold its partitions and deliver nothing. The bus's lag alone does not tell: it counts records that were
delivered and are not acknowledged too, as the last record of every open call is.
"""

import time
from collections.abc import Callable, Mapping

from pipeline.runtime.movement import STANDSTILL_S

Place = tuple[str, int]
"""Topic and partition."""


class _State:
    """`least` is the smallest lag seen since the last delivery, None before the first look after it."""

    __slots__ = ("least", "since")

    def __init__(self) -> None:
        self.least: int | None = None
        self.since: float | None = None
        """When records were first seen that are not delivered."""


class Deliveries:
    """What the assigned partitions of one group have delivered."""

    def __init__(self, *, standstill_s: float = STANDSTILL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._standstill_s = standstill_s
        self._clock = clock
        self._states: dict[Place, _State] = {}

    def begin(self, place: Place) -> None:
        """Note that a partition is assigned."""
        self._states[place] = _State()

    def end(self, place: Place) -> None:
        self._states.pop(place, None)

    def delivered(self, place: Place) -> None:
        """Note a delivery."""
        state = self._states.get(place)
        if state is not None:
            state.least = state.since = None

    def undelivered(self, lags: Mapping[Place, int], *, holding: set[Place], blocked: bool) -> int:
        """Return how many records wait that have not been delivered, as far as the lags tell.

        Of a partition in `holding`, records were delivered and are not acknowledged. What its lag grows by after the
        last delivery is not delivered. With `blocked` the reader takes nothing more, and no partition stands still.
        """
        total = 0
        for place, state in self._states.items():
            lag = lags.get(place, 0)
            held = 0
            if place in holding:
                held = state.least = lag if state.least is None else min(state.least, lag)
            if blocked or lag <= held:
                state.since = None
                continue
            total += lag - held
            if state.since is None:
                state.since = self._clock()
        return total

    def standing_still(self) -> list[Place]:
        """Return the partitions that have delivered nothing for too long, although records wait there."""
        now = self._clock()
        return sorted(
            place
            for place, state in self._states.items()
            if state.since is not None and now - state.since > self._standstill_s
        )
