"""The choice of the next batch: waiting rows of one window, once they fill a batch or the oldest is due."""

import itertools
from collections.abc import Iterable

import msgspec

from stages.transcribe.scheduling.fair_queue import WaitingRow


class NextBatch(msgspec.Struct, frozen=True):
    """The window of the batch to start next, and in how many seconds; 0 to start it now."""

    window_s: int
    in_s: float


def next_batch(rows: Iterable[WaitingRow], *, size: int, fill_s: float, now_s: float) -> NextBatch | None:
    """Return the batch to start next; None without rows.

    Args:
        rows: in the order of their turns. Of batches that are due, that of the row whose turn comes first is taken.
        size: rows of a full batch, which is due at once.
        fill_s: how long a row waits for others to fill its batch.
        now_s: the time on the clock of the rows' `since_s`.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return None
    if size == 1 or fill_s == 0:
        return NextBatch(first.window_s, 0.0)
    counts: dict[int, int] = {}
    oldest_s: dict[int, float] = {}
    for row in itertools.chain([first], rows):
        counts[row.window_s] = counts.get(row.window_s, 0) + 1
        oldest_s[row.window_s] = min(oldest_s.get(row.window_s, row.since_s), row.since_s)
        if counts[row.window_s] == size:  # this batch is due: a long queue is not read to its end
            break
    batches = [
        NextBatch(window_s, 0.0 if counts[window_s] == size else max(0.0, since_s + fill_s - now_s))
        for window_s, since_s in oldest_s.items()
    ]
    return min(batches, key=lambda batch: batch.in_s)
