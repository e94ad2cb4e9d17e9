"""The choice of the next batch and its start."""

import asyncio
from collections.abc import Sequence

import pytest

from schemas.calls import CallRef
from stages.transcribe.engine.protocol import Row
from stages.transcribe.scheduling.batching import NextBatch, next_batch
from stages.transcribe.scheduling.fair_queue import WaitingRow
from tests.unit.stages.transcribe.engines import audio


def waiting(rows: Sequence[tuple[int, float]]) -> list[WaitingRow]:
    """Return rows with these windows and start times of their wait."""
    row = Row(audio=audio(1), voiced=[(0.0, 1.0)], language="en")
    loop = asyncio.get_running_loop()
    call = CallRef("default", "call-1")
    return [WaitingRow("live", row, call, window_s, since_s, loop.create_future()) for window_s, since_s in rows]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([(10, 9.95)], NextBatch(10, 0.15)),
        ([(10, 9.95), (10, 9.85)], NextBatch(10, 0.05)),
        ([(10, 9.95), (30, 9.9)], NextBatch(30, 0.1)),
        ([(10, 9.95), (30, 9.7), (15, 9.6)], NextBatch(30, 0.0)),
        ([(10, 9.99), (30, 9.99), (30, 9.99), (30, 9.99)], NextBatch(30, 0.0)),
        ([(10, 9.7), (30, 9.99), (30, 9.99), (30, 9.99)], NextBatch(10, 0.0)),
    ],
)
async def test_a_batch_is_due_once_full_or_once_its_oldest_row_has_waited(
    rows: list[tuple[int, float]], expected: NextBatch | None
) -> None:
    batch = next_batch(waiting(rows), size=3, fill_s=0.2, now_s=10.0)
    if batch is None or expected is None:
        assert batch is expected
    else:
        assert batch.window_s == expected.window_s
        assert batch.in_s == pytest.approx(expected.in_s)


@pytest.mark.parametrize(("size", "fill_s"), [(1, 60.0), (16, 0.0)])
async def test_without_a_fill_time_the_first_row_in_turn_starts(size: int, fill_s: float) -> None:
    assert next_batch(waiting([(30, 10.0), (10, 1.0)]), size=size, fill_s=fill_s, now_s=10.0) == NextBatch(30, 0.0)


async def test_a_long_queue_is_read_until_a_batch_is_full() -> None:
    rows = iter(waiting([(10, 10.0)] * 5))
    assert next_batch(rows, size=3, fill_s=60.0, now_s=10.0) == NextBatch(10, 0.0)
    assert len(list(rows)) == 2
