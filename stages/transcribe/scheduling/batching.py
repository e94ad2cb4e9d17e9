"""Which waiting rows make the next batch: those of one window, once they fill it or the oldest has waited its time."""

import itertools
from collections.abc import Iterable

import msgspec

from stages.transcribe.scheduling.fair_queue import WaitingRow


class Ripe(msgspec.Struct, frozen=True):
    """The window whose batch is to start next, and in how many seconds: 0 where it is to start now."""

    window_s: int
    in_s: float


def ripest(rows: Iterable[WaitingRow], *, size: int, fill_s: float, now_s: float) -> Ripe | None:
    """The window to start with; None without rows. `rows` come in their turn, and so do windows that are ripe."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return None
    if size == 1 or fill_s == 0:
        return Ripe(first.window_s, 0.0)
    counts: dict[int, int] = {}
    oldest_s: dict[int, float] = {}
    for row in itertools.chain([first], rows):
        counts[row.window_s] = counts.get(row.window_s, 0) + 1
        oldest_s[row.window_s] = min(oldest_s.get(row.window_s, row.since_s), row.since_s)
        if counts[row.window_s] == size:  # enough to begin with: a long queue is not read to its end
            break
    waits = [
        Ripe(window_s, 0.0 if counts[window_s] == size else max(0.0, since_s + fill_s - now_s))
        for window_s, since_s in oldest_s.items()
    ]
    return min(waits, key=lambda ripe: ripe.in_s)
