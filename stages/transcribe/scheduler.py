"""One queue for the utterances of all calls, in front of one engine: live calls first, equal windows together.

Within a lane tenants take turns, and so do a tenant's calls (`fair_queue`). Interims, versions of utterances that are
still being spoken, come behind whatever is final and live, before backfill.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import structlog

from schemas.calls import CallRef
from stages.transcribe.engine import Row, SpeechEngine, Transcription
from stages.transcribe.fair_queue import FairQueue, WaitingRow
from stages.transcribe.windows import SAMPLE_RATE_HZ


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """`queued` counts the rows that wait in each queue (`live`, `interims`, `batch`), `oldest_wait_s` says how long the
    oldest of them has. `busy_s` sums the time that workers spent in the engine, so its rate over wall time is the
    workers in use.
    """

    queued: dict[str, int]
    oldest_wait_s: dict[str, float]
    running: int
    utterances: int
    failed: int
    audio_s: float
    busy_s: float


class Scheduler:
    """Feeds an engine from `workers` threads. Used from one event loop.

    On a CPU the gain lies in short windows and one thread per worker, so `max_batch` is 1 there: an utterance's text
    then depends on nothing but the utterance. On a GPU it lies in the batch.
    """

    def __init__(self, engine: SpeechEngine, *, workers: int = 2, max_batch: int = 1) -> None:
        self.engine = engine
        self._max_batch = max_batch
        self._free = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="transcribe")
        self._live, self._batch, self._interims = FairQueue(), FairQueue(), FairQueue()
        self._most_interims = max(1, workers - 1)
        self._running_interims = 0
        self._running: set[asyncio.Future[tuple[list[Transcription], float]]] = set()
        self._closed = False
        self._utterances = self._failed = 0
        self._audio_s = self._busy_s = 0.0

    def submit(self, row: Row, *, call: CallRef, live: bool) -> asyncio.Future[Transcription]:
        """Queue a row of `call`; the work starts without being awaited. Cancelling the future takes the row back.

        A row that the engine cannot decode gives a Transcription with `error`, not an exception.
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
        queue = self._interims if row.interim else self._live if live else self._batch
        queue.put(WaitingRow(row, call, window_s, time.monotonic(), result))
        self._start_work()
        return result

    def withdraw_interim(self, result: asyncio.Future[Transcription]) -> bool:
        """Cancel an interim that still waits; False once its decoding has begun."""
        return any(item.result is result for item in self._interims) and result.cancel()

    def stats(self) -> SchedulerStats:
        queues = {"live": self._live, "interims": self._interims, "batch": self._batch}
        since_s = {name: [item.since_s for item in queue] for name, queue in queues.items()}
        now_s = time.monotonic()
        return SchedulerStats(
            queued={name: len(times) for name, times in since_s.items()},
            oldest_wait_s={name: now_s - min(times, default=now_s) for name, times in since_s.items()},
            running=len(self._running),
            utterances=self._utterances,
            failed=self._failed,
            audio_s=self._audio_s,
            busy_s=self._busy_s,
        )

    async def close(self) -> None:
        """Cancel what waits, and wait for what runs: a decode cannot be interrupted."""
        self._closed = True
        for item in (*self._live, *self._batch, *self._interims):
            item.result.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown()

    def _start_work(self) -> None:
        while self._free and (items := self._take()):
            self._free -= 1
            self._running_interims += items[0].row.interim
            work = asyncio.get_running_loop().run_in_executor(self._pool, self._decode, [item.row for item in items])
            self._running.add(work)
            work.add_done_callback(partial(self._finish, items))

    def _take(self) -> list[WaitingRow]:
        """The next batch: the live row whose turn it is, else an interim, else a batch row, and others with its window.

        Interims never share a batch with what is final, and leave a worker free for it where there are several.
        """
        first = self._live.take()
        if first is None and self._running_interims < self._most_interims:
            first = self._interims.take()
        if first is None:
            first = self._batch.take()
        if first is None:
            return []
        items = [first]
        for queue in (self._interims,) if first.row.interim else (self._live, self._batch):
            while len(items) < self._max_batch and (item := queue.take(first.window_s)) is not None:
                items.append(item)
        return items

    def _decode(self, rows: Sequence[Row]) -> tuple[list[Transcription], float]:
        """In a worker's thread. A batch that fails is decoded row by row, so one bad row costs no other its text."""
        started_s = time.monotonic()
        try:
            done = self.engine.transcribe_batch(rows)
        except Exception as error:
            if len(rows) > 1:
                done = [transcription for row in rows for transcription in self._decode([row])[0]]
            else:
                structlog.get_logger().error("an utterance could not be transcribed", error=repr(error))
                done = [_failed(rows[0], f"{type(error).__name__}: {error}")]
        return done, time.monotonic() - started_s

    def _finish(self, items: list[WaitingRow], work: asyncio.Future[tuple[list[Transcription], float]]) -> None:
        self._running.discard(work)
        self._free += 1
        self._running_interims -= items[0].row.interim
        if work.cancelled():
            return
        transcriptions, busy_s = work.result()
        self._busy_s += busy_s
        for item, transcription in zip(items, transcriptions, strict=True):
            if not item.row.interim:
                self._utterances += 1
                self._failed += transcription.error is not None
                self._audio_s += len(item.row.audio) / SAMPLE_RATE_HZ
            if not item.result.done():
                item.result.set_result(transcription)
        if not self._closed:
            self._start_work()


def _failed(row: Row, error: str) -> Transcription:
    return Transcription.failed(row.language if isinstance(row.language, str) else "", error)
