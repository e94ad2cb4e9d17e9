"""One queue for the utterances of all calls, in front of one engine: live calls first, equal windows together.

Interims, versions of utterances that are still being spoken, come behind whatever is final and live, before backfill.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import structlog

from stages.transcribe.engine import Row, SpeechEngine, Transcription
from stages.transcribe.windows import SAMPLE_RATE_HZ


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """`busy_s` sums the time that workers spent in the engine, so its rate over wall time is the workers in use."""

    queued: int
    running: int
    oldest_wait_s: float
    utterances: int
    failed: int
    audio_s: float
    busy_s: float


class _Waiting(msgspec.Struct, frozen=True, eq=False):
    row: Row
    window_s: int
    since_s: float
    result: asyncio.Future[Transcription]


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
        self._live: deque[_Waiting] = deque()
        self._batch: deque[_Waiting] = deque()
        self._interims: deque[_Waiting] = deque()
        self._most_interims = max(1, workers - 1)
        self._running_interims = 0
        self._running: set[asyncio.Future[tuple[list[Transcription], float]]] = set()
        self._closed = False
        self._utterances = self._failed = 0
        self._audio_s = self._busy_s = 0.0

    def submit(self, row: Row, *, live: bool) -> asyncio.Future[Transcription]:
        """Queue a row; the work starts without being awaited. Cancelling the future takes the row back.

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
        queue.append(_Waiting(row, window_s, time.monotonic(), result))
        self._start_work()
        return result

    def withdraw_interim(self, result: asyncio.Future[Transcription]) -> bool:
        """Cancel an interim that still waits; False once its decoding has begun."""
        return any(item.result is result for item in self._interims) and result.cancel()

    def stats(self) -> SchedulerStats:
        waiting = [item.since_s for item in (*self._live, *self._batch, *self._interims) if not item.result.done()]
        return SchedulerStats(
            queued=len(waiting),
            running=len(self._running),
            oldest_wait_s=time.monotonic() - min(waiting) if waiting else 0.0,
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

    def _take(self) -> list[_Waiting]:
        """The next batch: the longest waiting live row, else interim, else batch row, and others with the same window.

        Interims never share a batch with what is final, and leave a worker free for it where there are several.
        """
        for lane in (self._live, self._interims, self._batch):
            while lane and lane[0].result.done():
                lane.popleft()
        interims = self._interims if self._running_interims < self._most_interims else None
        lane = self._live or interims or self._batch
        if not lane:
            return []
        items = [lane.popleft()]
        for lane in (self._interims,) if items[0].row.interim else (self._live, self._batch):
            rest: list[_Waiting] = []
            while lane and len(items) < self._max_batch:
                item = lane.popleft()
                if item.result.done():
                    continue
                (items if item.window_s == items[0].window_s else rest).append(item)
            lane.extendleft(reversed(rest))
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

    def _finish(self, items: list[_Waiting], work: asyncio.Future[tuple[list[Transcription], float]]) -> None:
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
