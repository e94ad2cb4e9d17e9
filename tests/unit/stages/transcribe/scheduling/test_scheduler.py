"""The queue in front of the engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from schemas.calls import CallRef
from stages.errors import MachineFailure
from stages.transcribe.engine.protocol import EngineError, Row, Transcription
from stages.transcribe.scheduling.scheduler import LIVE_EXPECTED_S, BatchRun, Scheduler
from tests.unit.stages.transcribe.engines import FakeEngine, audio, until

CALL = CallRef("default", "call-1")


def row(level: int, seconds: float = 1.0, *, interim: bool = False) -> Row:
    return Row(audio=audio(level, seconds), voiced=[(0.0, seconds)], language="en", interim=interim)


class SlowEngine(FakeEngine):
    """Takes its time for each row."""

    ROW_S = 0.01

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        time.sleep(self.ROW_S * len(rows))
        return super().transcribe_batch(rows)


@asynccontextmanager
async def scheduler(
    engine: FakeEngine,
    *,
    workers: int = 1,
    max_batch: int | None = None,
    max_batch_backfill: int | None = None,
    fill_s: float = 0.0,
    fill_backfill_s: float = 0.0,
    ran: Callable[[BatchRun], None] = lambda _: None,
) -> AsyncIterator[Scheduler]:
    opened = Scheduler(
        engine,
        workers=workers,
        max_batch=max_batch,
        max_batch_backfill=max_batch_backfill,
        fill_s=fill_s,
        fill_backfill_s=fill_backfill_s,
        ran=ran,
    )
    try:
        yield opened
    finally:
        engine.gate.set()
        await opened.close()


async def test_each_row_gets_its_own_text() -> None:
    async with scheduler(FakeEngine(), workers=2, max_batch=3) as queue:
        texts = await asyncio.gather(
            *(queue.submit(row(level), call=CALL, live=level % 2 == 0) for level in range(1, 30))
        )
    assert [text.text for text in texts] == [f"en {level}" for level in range(1, 30)]


async def test_work_starts_before_anyone_awaits_it() -> None:
    engine = FakeEngine()
    async with scheduler(engine) as queue:
        queue.submit(row(1), call=CALL, live=True)
        await until(lambda: engine.batches == [[1]])


async def test_live_rows_pass_batch_rows() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine) as queue:
        first = queue.submit(row(1), call=CALL, live=False)
        waiting = [queue.submit(row(level), call=CALL, live=level > 10) for level in (2, 3, 11, 12)]
        engine.gate.set()
        await asyncio.gather(first, *waiting)
    assert engine.batches == [[1], [11], [12], [2], [3]]


async def test_tenants_take_turns_and_so_do_the_calls_of_one() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    calls = {1: "acme/a", 2: "acme/a", 3: "acme/a", 4: "acme/b", 5: "acme/b", 6: "other/c", 7: "other/c"}
    async with scheduler(engine) as queue:
        first = queue.submit(row(9), call=CALL, live=False)
        waiting = [queue.submit(row(level), call=CallRef(*calls[level].split("/")), live=False) for level in calls]
        waiting[0].cancel()
        engine.gate.set()
        await asyncio.gather(first, *waiting[1:])
    assert [level for (level,) in engine.batches] == [9, 2, 6, 4, 7, 3, 5]


async def test_a_batch_is_filled_from_all_calls_in_turn() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, max_batch=3) as queue:
        first = queue.submit(row(9), call=CALL, live=True)
        other = CallRef("default", "call-2")
        rows = {1: CALL, 2: CALL, 3: CALL, 4: CALL, 5: other}
        waiting = [queue.submit(row(level), call=call, live=True) for level, call in rows.items()]
        engine.gate.set()
        await asyncio.gather(first, *waiting)
    assert engine.batches == [[9], [1, 5, 2], [3, 4]]


async def test_interims_come_after_live_rows_before_backfill_in_own_batches() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, max_batch=4, max_batch_backfill=4) as queue:
        first = queue.submit(row(1), call=CALL, live=True)
        rows = [row(2), row(21, interim=True), row(22, interim=True), row(11), row(12)]
        waiting = [queue.submit(row, call=CALL, live=number > 0) for number, row in enumerate(rows)]
        engine.gate.set()
        await asyncio.gather(first, *waiting)
    assert engine.batches == [[1], [11, 12, 2], [21, 22]]


async def test_interims_leave_a_worker_free() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, workers=3) as queue:
        waiting = [queue.submit(row(level, interim=True), call=CALL, live=True) for level in (21, 22, 23)]
        await until(lambda: engine.running == 2)
        waiting.append(queue.submit(row(1), call=CALL, live=False))
        await until(lambda: engine.running == 3)
        assert sorted(engine.batches) == [[1], [21], [22]]
        engine.gate.set()
        await asyncio.gather(*waiting)


async def test_an_interim_can_be_withdrawn_until_its_decoding_begins() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine) as queue:
        running, waiting = (queue.submit(row(level, interim=True), call=CALL, live=True) for level in (1, 2))
        await until(lambda: engine.running == 1)
        assert not queue.withdraw_interim(running)
        assert queue.withdraw_interim(waiting)
        assert not queue.withdraw_interim(waiting)
        engine.gate.set()
        assert (await running).text == "en 1"
    assert waiting.cancelled()
    assert engine.batches == [[1]]


async def test_a_batch_takes_rows_of_one_window_and_keeps_the_others_order() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, max_batch=3) as queue:
        first = queue.submit(row(1), call=CALL, live=True)
        lengths = {2: 1.0, 3: 12.0, 4: 1.0, 5: 12.0, 6: 1.0, 7: 1.0}
        waiting = [queue.submit(row(level, seconds), call=CALL, live=True) for level, seconds in lengths.items()]
        engine.gate.set()
        await asyncio.gather(first, *waiting)
    assert engine.batches == [[1], [2, 4, 6], [3, 5], [7]]


async def test_as_many_batches_run_as_there_are_workers() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, workers=3) as queue:
        waiting = [queue.submit(row(level), call=CALL, live=True) for level in range(1, 10)]
        await until(lambda: engine.running == 3)
        assert queue.stats().running == 3
        assert queue.stats().queued == {"live": 6, "interims": 0, "batch": 0}
        engine.gate.set()
        await asyncio.gather(*waiting)
    assert engine.most_running == 3


async def test_a_bad_row_costs_no_other_its_text() -> None:
    engine = FakeEngine(broken=frozenset({3}))
    engine.gate.clear()
    async with scheduler(engine, max_batch=4) as queue:
        first = queue.submit(row(1), call=CALL, live=True)
        waiting = [queue.submit(row(level), call=CALL, live=True) for level in (2, 3, 4)]
        engine.gate.set()
        done = await asyncio.gather(first, *waiting)
        assert queue.stats().failed == 1
    assert [text.text for text in done] == ["en 1", "en 2", "", "en 4"]
    assert done[2].error == "RuntimeError: broken audio"


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: the GPU has fallen off the bus"),
        EngineError("cannot be loaded"),
        MemoryError(),
    ],
)
async def test_a_device_that_fails_costs_no_row_its_text(failure: Exception) -> None:
    engine = FakeEngine()
    async with scheduler(engine, max_batch=4) as queue:
        engine.failure = failure
        rows = [queue.submit(row(level), call=CALL, live=True) for level in (1, 2, 3)]
        for outcome in await asyncio.gather(*rows, return_exceptions=True):
            assert isinstance(outcome, MachineFailure)
        engine.failure = None
        again = await asyncio.gather(*(queue.submit(row(level), call=CALL, live=True) for level in (1, 2, 3)))
        assert queue.stats().failed == 0
    assert [text.text for text in again] == ["en 1", "en 2", "en 3"]


async def test_a_row_that_is_too_long_fails_alone_and_at_once() -> None:
    engine = FakeEngine()
    async with scheduler(engine) as queue:
        done = await queue.submit(row(1, 31.0), call=CALL, live=True)
    assert done.error == "too long"
    assert engine.batches == []


async def test_a_cancelled_row_is_not_decoded() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine) as queue:
        first, second, third = (queue.submit(row(level), call=CALL, live=True) for level in (1, 2, 3))
        second.cancel()
        assert queue.stats().queued["live"] == 1
        engine.gate.set()
        await asyncio.gather(first, third)
    assert engine.batches == [[1], [3]]


async def test_cancelling_a_row_in_progress_affects_no_other() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine) as queue:
        first, second = (queue.submit(row(level), call=CALL, live=True) for level in (1, 2))
        await until(lambda: engine.running == 1)
        first.cancel()
        engine.gate.set()
        assert (await second).text == "en 2"


async def test_closing_cancels_waiting_rows_and_lets_running_ones_finish() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    queue = Scheduler(engine, workers=1)
    first, second = (queue.submit(row(level), call=CALL, live=True) for level in (1, 2))
    await until(lambda: engine.running == 1)
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(0)
    engine.gate.set()
    await closing
    assert (await first).text == "en 1"
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit(row(3), call=CALL, live=True)


async def test_the_figures_count_rows_and_their_audio() -> None:
    async with scheduler(FakeEngine(), workers=2) as queue:
        await asyncio.gather(*(queue.submit(row(level, 2.0), call=CALL, live=True) for level in range(5)))
        stats = queue.stats()
    assert (stats.utterances, stats.audio_s, stats.running) == (5, 10.0, 0)
    assert set(stats.queued.values()) == set(stats.oldest_wait_s.values()) == {0}
    assert stats.busy_s > 0


async def test_rows_that_arrive_within_the_fill_time_share_a_batch() -> None:
    engine = FakeEngine()
    async with scheduler(engine, max_batch=4, fill_s=0.2) as queue:
        waiting = [queue.submit(row(1), call=CALL, live=True)]
        await asyncio.sleep(0.02)
        assert engine.batches == []
        waiting.append(queue.submit(row(2), call=CALL, live=True))
        await asyncio.gather(*waiting)
    assert engine.batches == [[1, 2]]


async def test_a_full_batch_waits_for_nothing() -> None:
    engine = FakeEngine()
    async with scheduler(engine, max_batch=2, fill_s=60.0, fill_backfill_s=60.0) as queue:
        lengths = {1: 1.0, 2: 12.0, 3: 12.0}
        waiting = [queue.submit(row(level, seconds), call=CALL, live=True) for level, seconds in lengths.items()]
        await asyncio.wait_for(asyncio.gather(*waiting[1:]), 5)
        assert engine.batches == [[2, 3]]
        assert not waiting[0].done()


async def test_a_row_on_a_cpu_waits_for_nothing() -> None:
    async with scheduler(FakeEngine(), fill_s=60.0, fill_backfill_s=60.0) as queue:
        await asyncio.wait_for(queue.submit(row(1), call=CALL, live=False), 5)


async def test_backfill_waits_longer_and_starts_nothing_while_a_live_batch_fills() -> None:
    engine = FakeEngine()
    async with scheduler(engine, max_batch=8, max_batch_backfill=2, fill_s=0.1, fill_backfill_s=60.0) as queue:
        backfill = [queue.submit(row(1), call=CALL, live=False)]
        live = queue.submit(row(11, 12.0), call=CALL, live=True)
        backfill += [queue.submit(row(level), call=CALL, live=False) for level in (2, 3)]
        await asyncio.gather(live, *backfill[:2])
        assert engine.batches == [[11], [1, 2]]
        assert not backfill[2].done()


async def test_a_batch_with_backfill_in_it_is_smaller() -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with scheduler(engine, max_batch=4) as queue:
        first = queue.submit(row(99), call=CALL, live=True)
        backfill = [queue.submit(row(level), call=CALL, live=False) for level in range(1, 6)]
        live = [queue.submit(row(11), call=CALL, live=True)]
        live += [queue.submit(row(level, 12.0), call=CALL, live=True) for level in range(12, 16)]
        engine.gate.set()
        await asyncio.gather(first, *live, *backfill)
    assert engine.batches == [[99], [11, 1], [12, 13, 14, 15], [2, 3], [4, 5]]


async def test_the_engine_may_change_its_batch_size() -> None:
    engine = FakeEngine()
    async with scheduler(engine) as queue:
        for size in (3, 1):
            engine.max_batch = size
            engine.gate.clear()
            first = queue.submit(row(9), call=CALL, live=True)
            await until(lambda: engine.running == 1)
            waiting = [queue.submit(row(level), call=CALL, live=True) for level in (1, 2, 3)]
            engine.gate.set()
            await asyncio.gather(first, *waiting)
    assert engine.batches == [[9], [1, 2, 3], [9], [1], [2], [3]]


async def test_closing_while_a_batch_fills_cancels_its_rows() -> None:
    queue = Scheduler(FakeEngine(), max_batch=4, fill_s=60.0)
    waiting = queue.submit(row(1), call=CALL, live=True)
    await queue.close()
    assert waiting.cancelled()


async def test_a_live_row_waits_no_longer_than_the_longest_measured_batch() -> None:
    runs: list[BatchRun] = []
    engine = SlowEngine()
    async with scheduler(engine, workers=2, max_batch=4, ran=runs.append) as queue:
        backfill = [queue.submit(row(level), call=CALL, live=False) for level in range(1, 201)]
        for level in range(201, 211):
            await asyncio.sleep(0.011)
            await queue.submit(row(level), call=CALL, live=True)
        longest_s = max(queue.stats().longest_batch_s.values())
        await asyncio.gather(*backfill)
    live = [run for run in runs if run.queue == "live"]
    assert len(live) == 10
    margin_s = 0.25  # the event loop's, on a busy machine; the backfill before them takes a second
    assert max(run.waited_s[0] for run in live) <= longest_s + margin_s
    assert {len(run.waited_s) for run in runs if run.queue == "batch"} <= {1, 2}
    assert sum(len(run.waited_s) for run in runs) == 210
    assert all(run.engine_s >= SlowEngine.ROW_S for run in runs)


async def test_backfill_leaves_a_worker_free_while_live_rows_arrive() -> None:
    now_s = 0.0
    engine = FakeEngine()
    engine.gate.clear()
    queue = Scheduler(engine, workers=3, clock=lambda: now_s)
    try:
        spoken = queue.submit(row(11), call=CALL, live=True)
        recorded = [queue.submit(row(level), call=CALL, live=False) for level in range(1, 6)]
        await until(lambda: len(engine.batches) == 3)
        engine.gate.set()
        await asyncio.gather(spoken, *recorded)

        engine.gate.clear()
        engine.batches.clear()
        recorded = [queue.submit(row(level), call=CALL, live=False) for level in range(1, 6)]
        await until(lambda: queue.stats().running == 2)
        spoken = queue.submit(row(12), call=CALL, live=True)
        await until(lambda: [12] in engine.batches)
        engine.gate.set()
        await asyncio.gather(spoken, *recorded)

        engine.gate.clear()
        now_s += LIVE_EXPECTED_S
        recorded = [queue.submit(row(level), call=CALL, live=False) for level in range(1, 6)]
        await until(lambda: queue.stats().running == 3)
    finally:
        engine.gate.set()
        await queue.close()
    assert all(one.done() for one in recorded)


async def test_a_single_worker_takes_backfill_while_live_rows_arrive_too() -> None:
    async with scheduler(FakeEngine(), workers=1) as queue:
        texts = await asyncio.gather(*(queue.submit(row(level), call=CALL, live=level == 1) for level in (1, 2)))
    assert [text.text for text in texts] == ["en 1", "en 2"]
