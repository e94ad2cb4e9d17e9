"""One queue for the utterances of all calls, in front of one engine: live calls first, equal windows together.

Within a lane tenants take turns, and so do a tenant's calls (`fair_queue`). Interims, versions of utterances that are
still being spoken, come after all final live rows and before backfill.

A decode cannot be interrupted, so a live row that finds all workers busy waits for the first of them: at most for the
longest batch. That is measured, and kept short by smaller batches of backfill. While live rows arrive, backfill leaves
one of several workers free for them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import msgspec
import numpy as np
import structlog

from schemas.calls import CallRef
from stages.errors import MachineFailure
from stages.transcribe.engine.out_of_memory import is_out_of_memory
from stages.transcribe.engine.protocol import EngineError, Row, SpeechEngine, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.scheduling.batching import next_batch
from stages.transcribe.scheduling.fair_queue import FairQueue, WaitingRow

FILL_S: Final = 0.05
"""How long a live row may wait for others to fill its batch. The pause that ends an utterance is far longer."""
FILL_BACKFILL_S: Final = 0.25

LIVE_EXPECTED_S: Final = 10.0
"""For so long after a live row another one is expected: a speaker's turn and the pause after it."""

PROBE: Final = Row(audio=np.zeros(SAMPLE_RATE_HZ, np.float32), voiced=[(0.0, 1.0)], language="en")
"""One second of silence, which every engine decodes."""


class BatchRun(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that has left the engine.

    - `queue`: that of its first row.
    - `waited_s`: each row's time in the queue.
    - `engine_s`: the time in the engine.
    """

    queue: str
    window_s: int
    waited_s: list[float]
    engine_s: float


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures since the start, and of the moment.

    - `queued`, `oldest_wait_s`: by queue (`live`, `interims`, `batch`), the waiting rows and the wait of the oldest.
    - `running`: batches in the engine.
    - `utterances`, `audio_s`: final rows that have left the engine, and their audio. `failed`: those without a text.
    - `busy_s`: the time of all workers in the engine; its rate over wall time is the number of workers in use.
    - `longest_batch_s`: by queue, the longest time of a batch in the engine. A live row that finds all workers busy,
      and no live row before it, waits no longer.
    """

    queued: dict[str, int]
    oldest_wait_s: dict[str, float]
    running: int
    utterances: int
    failed: int
    audio_s: float
    busy_s: float
    longest_batch_s: dict[str, float]


class Scheduler:
    """Feeds an engine from `workers` threads. Used from one event loop.

    A batch holds rows of one window. On a CPU it is a single row, so an utterance's text depends on the utterance
    alone. On a GPU a free worker waits for the batch to fill, but no longer than the fill time of its oldest row; rows
    that arrive while all workers are busy fill batches without waiting.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        *,
        workers: int = 2,
        max_batch: int | None = None,
        max_batch_backfill: int | None = None,
        fill_s: float = 0.0,
        fill_backfill_s: float = 0.0,
        ran: Callable[[BatchRun], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        engine: may change its `max_batch`.
        workers: threads that are inside the engine at once.
        max_batch: rows at once; the engine's number if None.
        max_batch_backfill: rows at once in a batch with backfill; half of `max_batch` if None.
        fill_s, fill_backfill_s: how long a row waits for others to fill its batch.
        ran: called for each batch, in the event loop.
        clock: seconds.
        """
        self.engine = engine
        self._asked_batch = max_batch
        self._asked_backfill = max_batch_backfill
        self._fill_s, self._fill_backfill_s = fill_s, fill_backfill_s
        self._ran = ran
        self._clock = clock
        self._free = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="transcribe")
        self._live, self._batch, self._interims = FairQueue(), FairQueue(), FairQueue()
        self._queues = {"live": self._live, "interims": self._interims, "batch": self._batch}
        self._most_interims = max(1, workers - 1)
        self._running_interims = 0
        self._workers = workers
        self._running_backfill = 0
        self._last_live_s = -LIVE_EXPECTED_S
        self._running: set[asyncio.Future[tuple[list[Transcription], float]]] = set()
        self._filling: asyncio.TimerHandle | None = None
        self._closed = False
        self._utterances = self._failed = 0
        self._audio_s = self._busy_s = 0.0
        self._longest_batch_s = dict.fromkeys(self._queues, 0.0)

    def submit(self, row: Row, *, call: CallRef, live: bool) -> asyncio.Future[Transcription]:
        """Queue a row of `call`. The work starts without being awaited. Cancelling the future withdraws the row.

        A row that the engine cannot decode gives a Transcription with `error`, not an exception. The future raises
        MachineFailure if the engine can decode nothing. Raises RuntimeError once the scheduler is closed.
        """
        if self._closed:
            raise RuntimeError("the scheduler is closed")
        result: asyncio.Future[Transcription] = asyncio.get_running_loop().create_future()
        try:
            window_s = self.engine.window_s(row)
        except ValueError as error:
            self._failed += 1
            result.set_result(_failed(row, str(error)))
            return result
        queue = "interims" if row.interim else "live" if live else "batch"
        if live:
            self._last_live_s = self._clock()
        self._queues[queue].put(WaitingRow(queue, row, call, window_s, self._clock(), result))
        self._start_work()
        return result

    def withdraw_interim(self, result: asyncio.Future[Transcription]) -> bool:
        """Cancel an interim that still waits. Return False if its decoding has begun."""
        return any(item.result is result for item in self._interims) and result.cancel()

    def stats(self) -> SchedulerStats:
        since_s = {name: [item.since_s for item in queue] for name, queue in self._queues.items()}
        now_s = self._clock()
        return SchedulerStats(
            queued={name: len(times) for name, times in since_s.items()},
            oldest_wait_s={name: now_s - min(times, default=now_s) for name, times in since_s.items()},
            running=len(self._running),
            utterances=self._utterances,
            failed=self._failed,
            audio_s=self._audio_s,
            busy_s=self._busy_s,
            longest_batch_s=dict(self._longest_batch_s),
        )

    async def close(self) -> None:
        """Cancel waiting rows, and wait for running ones: a decode cannot be interrupted."""
        self._closed = True
        if self._filling is not None:
            self._filling.cancel()
        for item in (*self._live, *self._batch, *self._interims):
            item.result.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown()

    def _start_work(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
        while self._free and (items := self._take()):
            self._free -= 1
            self._running_interims += items[0].row.interim
            self._running_backfill += items[0].queue == "batch"
            work = asyncio.get_running_loop().run_in_executor(self._pool, self._decode, [item.row for item in items])
            self._running.add(work)
            work.add_done_callback(partial(self._finish, items, self._clock()))

    def _take(self) -> list[WaitingRow]:
        """Take the next batch: the live row whose turn it is, else an interim, else backfill, and others of its window.

        Interims never share a batch with final rows, and leave them one of several workers. While live rows wait for
        their batch to fill, nothing after them is started: it would delay them for longer.
        """
        max_batch = self._asked_batch or self.engine.max_batch
        max_backfill = min(max_batch, self._asked_backfill or max(1, max_batch // 2))
        now_s = self._clock()
        queues = (
            (self._live, max_batch, self._fill_s),
            (self._interims, max_batch, self._fill_s),
            (self._batch, max_backfill, self._fill_backfill_s),
        )
        for queue, size, fill_s in queues:
            if queue is self._interims and self._running_interims >= self._most_interims:
                continue
            if queue is self._batch and self._running_backfill >= self._most_backfill:
                continue
            batch = next_batch(queue, size=size, fill_s=fill_s, now_s=now_s)
            if batch is None:
                continue
            if batch.in_s > 0:
                self._filling = asyncio.get_running_loop().call_later(batch.in_s, self._start_work)
                return []
            items: list[WaitingRow] = []
            _fill(items, queue, batch.window_s, size)
            if queue is self._live:
                _fill(items, self._batch, batch.window_s, max_backfill)
            return items
        return []

    @property
    def _most_backfill(self) -> int:
        """The number of workers that backfill may use."""
        expects_live = self._clock() - self._last_live_s < LIVE_EXPECTED_S
        return max(1, self._workers - 1) if expects_live else self._workers

    def _decode(self, rows: Sequence[Row]) -> tuple[list[Transcription], float]:
        """Decode a batch in a worker's thread. If it fails, decode its rows one by one: only a bad one fails then.

        Raises MachineFailure if the engine fails, whatever the row.
        """
        started_s = self._clock()
        try:
            done = self.engine.transcribe_batch(rows)
        except Exception as error:
            if len(rows) > 1:
                done = [transcription for row in rows for transcription in self._decode([row])[0]]
            else:
                done = [self._decode_again(rows[0], error)]
        return done, self._clock() - started_s

    def _decode_again(self, row: Row, error: Exception) -> Transcription:
        """Decode a row that has failed. It is to blame if it fails while known audio is decoded.

        Raises MachineFailure if the known audio cannot be decoded either: a device has failed, and no text may be lost.
        """
        log = structlog.get_logger()
        if not isinstance(error, EngineError) and not is_out_of_memory(error):
            try:
                self.engine.transcribe_batch([PROBE])
            except Exception as failure:
                log.warning("known audio cannot be decoded", error=repr(failure))
            else:
                try:
                    return self.engine.transcribe_batch([row])[0]
                except Exception as again:
                    log.error("decoding failed", error=repr(again))
                    return _failed(row, f"{type(again).__name__}: {again}")
        log.error("speech engine failed", error=repr(error))
        raise MachineFailure(f"the speech engine fails: {error!r}") from error

    def _finish(
        self, items: list[WaitingRow], started_s: float, work: asyncio.Future[tuple[list[Transcription], float]]
    ) -> None:
        self._running.discard(work)
        self._free += 1
        self._running_interims -= items[0].row.interim
        self._running_backfill -= items[0].queue == "batch"
        if work.cancelled():
            return
        failure = work.exception()
        if failure is not None:
            for item in items:
                if not item.result.done():
                    item.result.set_exception(failure)
            if not self._closed:
                self._start_work()
            return
        transcriptions, busy_s = work.result()
        self._busy_s += busy_s
        self._report(items, started_s, busy_s)
        for item, transcription in zip(items, transcriptions, strict=True):
            if not item.row.interim:
                self._utterances += 1
                self._failed += transcription.error is not None
                self._audio_s += len(item.row.audio) / SAMPLE_RATE_HZ
            if not item.result.done():
                item.result.set_result(transcription)
        if not self._closed:
            self._start_work()

    def _report(self, items: list[WaitingRow], started_s: float, engine_s: float) -> None:
        queue = items[0].queue
        self._longest_batch_s[queue] = max(self._longest_batch_s[queue], engine_s)
        waited_s = [started_s - item.since_s for item in items]
        self._ran(BatchRun(queue=queue, window_s=items[0].window_s, waited_s=waited_s, engine_s=engine_s))


def _fill(items: list[WaitingRow], queue: FairQueue, window_s: int, size: int) -> None:
    while len(items) < size and (item := queue.take(window_s)) is not None:
        items.append(item)


def _failed(row: Row, error: str) -> Transcription:
    return Transcription.failed(row.language if isinstance(row.language, str) else "", error)
