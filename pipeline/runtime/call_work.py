"""One call in one stage while it is in memory: submit its records, publish the outputs, acknowledge, retry.

A call that fails starts again alone, from its checkpoint on the bus, and the other calls of its lane go on. Only a
failure of the bus restarts the lane.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Partition, Progress, Record, Subscription
from pipeline.runtime.byte_budget import ByteBudget
from pipeline.runtime.decoding import Decoded
from pipeline.runtime.failures import MAX_ATTEMPTS, Attempts, Blame, blame
from pipeline.runtime.inputs import Queued, Started, Unreleased
from pipeline.runtime.movement import Movement
from pipeline.runtime.publisher import TRACE_HEADER, Publisher
from pipeline.runtime.resting_calls import RestingCall
from pipeline.telemetry.logs import bind_call, bind_event
from pipeline.telemetry.metrics import Metrics
from schemas.calls import CallRef
from stages.errors import RejectedInput
from stages.protocol import CallProcessor, CallStage, Output

_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_LOOK_AHEAD = 8
"""The most inputs that a retry has read again and not finished: those after the one that fails are read in vain. A
stage finishes them without the next ones, as it must where the byte budget has room for no more."""

_MOST_REREAD = 32
"""A call with more inputs that are not acknowledged does not rest. On Kafka each is read by a client of its own."""


class ProcessingError(Exception):
    """The stage failed on `record`."""

    def __init__(self, record: Record, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.record = record
        self.cause = cause


class Runner(Protocol):
    """What a call needs of the runner that it belongs to."""

    stage: CallStage[Any]
    subscription: Subscription
    publisher: Publisher
    metrics: Metrics
    budget: ByteBudget
    attempts: Attempts
    movement: Movement

    async def reread(self, partition: Partition, position: int) -> tuple[Record, Decoded] | None:
        """Return a record of the partition again, None if the topic no longer holds it. Raises BusError."""
        ...

    def fail(self, error: BaseException) -> None:
        """Restart the lane from its floor."""
        ...

    def replace(self, work: "CallWork", replacement: "CallWork") -> bool:
        """Let `replacement` take the call's records. Returns False if `work` no longer does."""
        ...

    async def cancel(self, works: "list[CallWork]") -> None:
        """Cancel works, and wait for their end."""
        ...


class CallWork:
    """One call in one stage, while it is in memory. The states of an input:

        put()              _start()              _publish_outputs()          _acknowledge()
          │                    │                         │                         │
          ▼                    ▼                         ▼                         ▼
        queued ────────────► started ──────────────► unreleased ────────────► acknowledged
                               │                                                   ▲
                               └──── RejectedInput ────► dead letter ──────────────┘

    - Queued: one task submits the inputs to the processor in the order of the bus.
    - Started: a second task publishes the outputs of numbered inputs, of one input before those of the next. An input
      without a number has a task of its own for its outputs, so that it holds up no other.
    - Unreleased: its outputs are on the bus, but after a crash the processor would need it again, because no published
      checkpoint releases it.
    - Acknowledged: the bus need not deliver it again.

    Queued and started inputs hold their bytes of the runner's budget. `cancel` gives them back.

    After a failure that is not the bus's, a new CallWork replaces this one. It reads every input again that was not
    acknowledged, by its position, and opens the processor from the checkpoint on the bus: the same path as after a
    crash. It reads few of them ahead, and until it has caught up it keeps the positions of new inputs alone. So a call
    that fails without end holds nothing that others need, and an attempt costs the same however many inputs are open.
    """

    def __init__(
        self,
        runner: Runner,
        call: CallRef,
        partition: Partition,
        *,
        retry_of: "CallWork | None" = None,
        rested: RestingCall | None = None,
    ) -> None:
        self.call = call
        self.partition = partition
        self.ended = False
        self.last_taken_at = self.last_numbered_at = asyncio.get_running_loop().time()
        self.last_record: Record | None = None
        self.taken_to = 0
        """The number after the highest of the call's inputs that came."""
        self.processor: CallProcessor[Any] | None = None
        self._runner = runner
        self._queued: asyncio.Queue[Queued] = asyncio.Queue()
        self._started: asyncio.Queue[Started] = asyncio.Queue()
        self._unpublished = 0
        """Inputs that are queued or started."""
        self._unreleased: deque[Unreleased] = deque()
        self._next_seq = 0
        self._published_seq = -1
        """The number of the last output on the bus."""
        self._released = 0
        """Inputs below this number are released by the last checkpoint on the bus."""
        self._state = b""
        """The checkpoint that the next output carries, unless it is the last one of its input."""
        self._open: dict[int, None] = {}
        """The positions of the inputs that are not acknowledged, in order."""
        self._to_reread: deque[int] | None = None
        """The positions to read again, None once there are none."""
        self._one_finished = asyncio.Event()
        self._backoff = Backoff(_RETRY_PAUSES_S)
        self._failed_at = -1
        """The position of the input whose failure the pauses count."""
        self._retrying: asyncio.Task[None] | None = None
        self._tasks = [
            asyncio.create_task(self._guarded(self._start)),
            asyncio.create_task(self._guarded(self._publish)),
        ]
        self._unnumbered: set[asyncio.Task[None]] = set()
        if retry_of is not None:
            self._to_reread = deque()
            self._backoff, self._failed_at = retry_of._backoff, retry_of._failed_at
            self.last_record = retry_of.last_record
            self.taken_to = retry_of.taken_to
        elif rested is not None:
            self._to_reread = deque(rested.positions)
            self._open = dict.fromkeys(rested.positions)
            self.taken_to = rested.taken_to
            self._retrying = asyncio.create_task(self._guarded(self._read_again))

    def put(self, record: Record, decoded: Decoded) -> None:
        """Take a record, for which the caller has taken room of the budget."""
        if decoded.seq is not None and decoded.seq >= self.taken_to:
            self.taken_to = decoded.seq + 1
        if self._to_reread is None:
            self._queue(record, decoded)
            return
        self._to_reread.append(record.position)
        self._open[record.position] = None
        self._runner.budget.give(record.size_bytes)

    def _queue(self, record: Record, decoded: Decoded) -> None:
        self._unpublished += 1
        self._open[record.position] = None
        self.last_taken_at = asyncio.get_running_loop().time()
        if decoded.seq is not None:
            self.last_numbered_at = self.last_taken_at
        self.last_record = record
        self._queued.put_nowait(Queued(record, decoded))

    async def cancel(self) -> None:
        """Stop all tasks and give back what the inputs hold of the budget."""
        self.ended = True
        await _cancelled([*self._tasks, *([] if self._retrying is None else [self._retrying])])
        await asyncio.sleep(0)  # a task that is cancelled before its first step gives nothing back
        await _cancelled(self._unnumbered)
        while not self._queued.empty():
            self._runner.budget.give(self._queued.get_nowait().record.size_bytes)
        while not self._started.empty():
            await self._abandon(self._started.get_nowait())

    @property
    def busy(self) -> bool:
        """True while inputs are not finished."""
        return self._unpublished > 0 or self._to_reread is not None

    def droppable(self, *, idle_for_s: float) -> bool:
        """Return True if the call was quiet for that long and its checkpoint on the bus holds everything of it."""
        return not self._open and self._is_quiet(idle_for_s)

    def rest(self, *, idle_for_s: float) -> RestingCall | None:
        """Return what it takes to open the call again; None if it was not quiet for that long, or has to stay.

        Which it does if its time is watched, or if reading its inputs again would take long.
        """
        timed = self.processor is None or self.processor.idle_position is not None
        if timed or len(self._open) > _MOST_REREAD or not self._is_quiet(idle_for_s):
            return None
        return RestingCall(self._open, self.taken_to)

    def _is_quiet(self, for_s: float) -> bool:
        return not self.busy and asyncio.get_running_loop().time() - self.last_taken_at >= for_s

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Restart the lane if the bus failed, else this call alone."""
        cause = error.cause if isinstance(error, ProcessingError) else error
        if blame(cause) is Blame.BUS:
            self._runner.fail(error)
            return
        if self.ended:
            return
        retry = CallWork(self._runner, self.call, self.partition, retry_of=self)
        if self._runner.replace(self, retry):
            retry._retrying = asyncio.create_task(retry._guarded(partial(retry._retry, self, error)))

    async def _retry(self, failed: "CallWork", error: Exception) -> None:
        """Count the failure, pause, and read again what `failed` had not finished."""
        bind_call(self.call, stage=self._runner.stage.name)
        await self._runner.cancel([failed])
        assert self._to_reread is not None
        self._to_reread.extendleft(reversed([position for position in failed._open if position not in self._open]))
        self._open = dict.fromkeys(self._to_reread)
        cause, attempt = error, 0
        if isinstance(error, ProcessingError):
            cause, self._failed_at = error.cause, error.record.position
            if blame(cause) is not Blame.MACHINE:
                attempt = await self._runner.attempts.add(error.record, self.call, cause)
        pause_s = self._backoff.next_s()
        self._runner.metrics.call_retries.labels(self._runner.stage.name, blame(cause).value).inc()
        structlog.get_logger("callstream.runner").error(
            "call retries", error=str(error), attempt=attempt, pause_s=pause_s, exc_info=cause
        )
        await asyncio.sleep(pause_s)
        await self._read_again()

    async def _read_again(self) -> None:
        """Queue the inputs that are to be read again, and after them those that came meanwhile."""
        while self._to_reread:
            while self._unpublished >= _LOOK_AHEAD:
                self._one_finished.clear()
                await self._one_finished.wait()
            again = await self._runner.reread(self.partition, self._to_reread[0])
            if again is not None:
                await self._runner.budget.take(again[0].size_bytes)
            position = self._to_reread.popleft()
            if again is None:
                self._acknowledge_one(position)
            else:
                self._queue(*again)
        self._to_reread = None

    async def _start(self) -> None:
        """Open the processor from the checkpoint on the bus, and submit the queued inputs to it."""
        bind_call(self.call, stage=self._runner.stage.name)
        progress = await self.partition.progress(self.call.key) if self._runner.subscription.progress_topic else None
        if progress is not None:
            self._published_seq, self._released, self._state = progress.seq, progress.released, progress.state
            self._next_seq = progress.released
        while True:
            queued = await self._queued.get()
            try:
                started = self._submit(queued)
            except Exception as error:
                self._runner.budget.give(queued.record.size_bytes)
                raise ProcessingError(queued.record, error) from error
            if started.is_numbered:
                self._started.put_nowait(started)
            else:
                task = asyncio.create_task(self._guarded(partial(self._finish, started)))
                self._unnumbered.add(task)
                task.add_done_callback(self._unnumbered.discard)

    def _submit(self, queued: Queued) -> Started:
        """Submit an input. One that has failed too often is given up; if that fails as often, without the stage."""
        record, decoded = queued.record, queued.decoded
        seq = self._next_seq if decoded.seq is None else decoded.seq
        if decoded.seq is not None:
            self._next_seq = max(self._next_seq, seq + 1)
        attempts = self._runner.attempts.of(record, self.call)
        reason = f"failed {attempts} times"
        outputs: AsyncIterator[Output]
        try:
            if attempts >= 2 * MAX_ATTEMPTS:
                raise RejectedInput(reason)
            if self.processor is None:
                self.processor = self._runner.stage.open(self.call, self._state or None)
            take = self.processor.submit if attempts < MAX_ATTEMPTS else partial(self.processor.give_up, reason=reason)
            outputs = take(decoded.content, decoded.event(record, seq))
        except RejectedInput as error:
            outputs = _raising(error)
        return Started(record, decoded, seq, outputs)

    async def _publish(self) -> None:
        """Finish the numbered inputs that are started, one after the other."""
        bind_call(self.call, stage=self._runner.stage.name)
        while True:
            await self._finish(await self._started.get())

    async def _finish(self, started: Started) -> None:
        from pipeline.telemetry import traces  # not with the module: see there

        metrics, stage = self._runner.metrics, self._runner.stage.name
        bind_event(started.decoded.event_id, traces.trace_id_of(started.record.headers.get(TRACE_HEADER, "")))
        began = perf_counter()
        try:
            await self._publish_outputs(started)
        except asyncio.CancelledError:
            await self._abandon(started)
            raise
        except Exception as error:
            await self._abandon(started)
            raise ProcessingError(started.record, error) from error
        metrics.stage_seconds.labels(stage).observe(perf_counter() - began)
        self._runner.budget.give(started.record.size_bytes)
        metrics.inflight_bytes.labels(stage).set(self._runner.budget.used_bytes)
        self._unpublished -= 1
        self._one_finished.set()
        self._runner.movement.moved()
        if started.record.position >= self._failed_at:
            self._backoff.reset()

    async def _publish_outputs(self, started: Started) -> None:
        """Publish an input's outputs. The last numbered one waits for the checkpoint that it carries."""
        record = started.record
        attempts = self._runner.attempts.of(record, self.call)
        traceparent = record.headers.get(TRACE_HEADER)
        last: Output | None = None
        try:
            async for output in started.outputs:
                if output.seq is None:
                    source = self.partition if output.same_partition else None
                    await self._runner.publisher.send(output, self.call, source=source, traceparent=traceparent)
                    continue
                if last is not None:
                    await self._send_numbered(last, traceparent)
                last = output
        except RejectedInput as error:
            await self._runner.publisher.reject(record, self.call, error, attempts=max(1, attempts))
            self._acknowledge_one(record.position)
            return
        if attempts >= MAX_ATTEMPTS:
            reason = RejectedInput(f"failed {attempts} times")
            await self._runner.publisher.reject(record, self.call, reason, attempts=attempts)
        assert self.processor is not None
        self._unreleased.append(Unreleased(record.position, started.seq, started.is_numbered))
        if not started.is_numbered:
            assert last is None, "an input without a number gave a numbered output"
        elif last is not None:
            checkpoint = self.processor.checkpoint()
            self._state = checkpoint.state
            await self._send_numbered(last, traceparent, released=checkpoint.released)
        elif self._published_seq < 0 and not (checkpoint := self.processor.checkpoint()).state:
            # Nothing is on the bus and there is nothing to restore: no output has to carry what is released.
            self._released = checkpoint.released
        self._acknowledge()

    async def _send_numbered(self, output: Output, traceparent: str | None, *, released: int | None = None) -> None:
        """Publish an output with the checkpoint in `_state`, unless it is a replay: the bus has its number already."""
        assert output.seq is not None
        released = self._released if released is None else released
        if output.seq > self._published_seq:
            progress = Progress(seq=output.seq, released=released, state=self._state)
            await self._runner.publisher.send(
                output, self.call, source=self.partition, progress=progress, traceparent=traceparent
            )
            self._published_seq = output.seq
        elif output.seq < self._published_seq:
            return
        self._released = released

    def _acknowledge(self) -> None:
        """Acknowledge the inputs that the checkpoint on the bus releases.

        While the processor is not finished the call's last record stays unacknowledged: after a restart it brings the
        call back into memory, where the idle limit finds it, even if its producer sends nothing more.
        """
        assert self.processor is not None
        finished = self.processor.finished
        still_unreleased: deque[Unreleased] = deque()
        while len(self._unreleased) > (0 if finished else 1):
            done = self._unreleased.popleft()
            if done.seq < self._released or (finished and not done.is_numbered):
                self._acknowledge_one(done.position)
            else:
                still_unreleased.append(done)
        self._unreleased.extendleft(reversed(still_unreleased))

    def _acknowledge_one(self, position: int) -> None:
        self._open.pop(position, None)
        self.partition.ack(position)

    async def _abandon(self, started: Started) -> None:
        self._runner.budget.give(started.record.size_bytes)
        close = getattr(started.outputs, "aclose", None)
        if close is not None:
            with contextlib.suppress(Exception):
                await close()


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _raising(error: Exception) -> AsyncIterator[Output]:
    raise error
    yield  # makes it a generator
