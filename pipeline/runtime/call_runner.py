"""Runs one stage on one bus: decode, process, publish, acknowledge. Its guarantees are those of `stages.protocol`.

The path of a record: `StageRunner.on_record` decodes it and waits for room in the byte budget. `CallWork` submits it to
the call's processor, publishes the outputs in order, and acknowledges the inputs that the published checkpoint
releases. After any failure all calls are dropped from memory, and the bus delivers again from the floor: the same path
as after a crash.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Partition, Progress, Record, Subscription
from pipeline.clock import unix_time_s
from pipeline.errors import BusError
from pipeline.runtime.byte_budget import ByteBudget
from pipeline.runtime.decoding import Decoded, Decoder
from pipeline.runtime.publisher import TRACE_HEADER, Publisher
from pipeline.runtime.restarts import log_backlog, restarting, until_one_ends
from pipeline.telemetry.logs import bind_call, bind_event
from pipeline.telemetry.metrics import Metrics
from schemas.calls import CallRef
from stages.errors import RejectedInput
from stages.protocol import CallProcessor, CallStage, Output

MAX_ATTEMPTS = 3
"""A record that fails this often, for another reason than the bus, becomes a dead letter."""

_RESTART_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 60.0
"""After a run of this length the next pause is the first again."""
_KEEP_IDLE_CALL_S = 30.0
"""How long a call that is finished stays in memory."""


class ProcessingError(Exception):
    """A stage failed on the record `record_id`, which is given up after `MAX_ATTEMPTS`."""

    def __init__(self, record_id: str, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.record_id = record_id


class StageRunner:
    """Runs one stage in one lane. Also the handler that the bus calls."""

    def __init__(
        self,
        bus: Bus,
        stage: CallStage[Any],
        *,
        subscription: Subscription,
        decoder: Decoder,
        publisher: Publisher,
        metrics: Metrics,
        budget_bytes: int,
    ) -> None:
        self.stage = stage
        self.subscription = subscription
        self.publisher = publisher
        self.metrics = metrics
        self.budget = ByteBudget(budget_bytes)
        self._bus = bus
        self._decoder = decoder
        self._calls: dict[tuple[str, int, CallRef], CallWork] = {}
        self._attempts: Counter[str] = Counter()
        self._lag: dict[tuple[str, int], int] = {}
        self._cancelling: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._backoff = Backoff(_RESTART_PAUSES_S)
        self._log = structlog.get_logger("callstream.runner").bind(stage=stage.name, group=subscription.group)

    async def run(self) -> None:
        """Read until cancelled; restart from the floor after any failure."""
        await restarting(self._read, backoff=self._backoff, report=self._report_restart)

    async def _read(self) -> None:
        """Read until the bus or a call fails, which raises."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        await log_backlog(self._bus, self.subscription, self._log)
        self._failure = loop.create_future()
        sweeping = asyncio.create_task(self._sweep())
        try:
            await until_one_ends(self._failure, self._bus.run(self.subscription, self))
        except ProcessingError as error:
            self._attempts[error.record_id] += 1
            raise
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            await self._drop_calls()
            if loop.time() - started_at > _STEADY_S:
                self._backoff.reset()

    def _report_restart(self, error: Exception, pause_s: float) -> None:
        self.metrics.stage_restarts.labels(self.stage.name).inc()
        self._log.error("stage restarts", error=str(error), pause_s=pause_s, exc_info=error)

    # -- the bus's handler -------------------------------------------------------------------------------------------

    async def on_assigned(self, partition: Partition) -> None:
        self._log.debug("partition assigned", topic=partition.topic, partition=partition.number)

    async def on_record(self, record: Record, partition: Partition) -> None:
        self._count(record)
        self._lag[record.topic, record.partition] = record.lag
        try:
            decoded = self._decoder(record)
        except Exception as error:  # decoding depends on the record alone: a retry would end the same
            await self.publisher.reject(record, None, error, attempts=1)
            partition.ack(record.position)
            return
        await self.budget.take(record.size_bytes)
        self.metrics.inflight_bytes.labels(self.stage.name).set(self.budget.used_bytes)
        key = (record.topic, record.partition, decoded.call)
        work = self._calls.get(key)
        if work is None or work.ended:
            work = self._calls[key] = CallWork(self, decoded.call, partition)
        work.put(record, decoded)

    async def on_revoked(self, partition: Partition) -> None:
        lost = [key for key in self._calls if key[:2] == (partition.topic, partition.number)]
        await self._cancel([self._calls.pop(key) for key in lost])

    # -- for the calls -----------------------------------------------------------------------------------------------

    def open_calls(self) -> "list[CallWork]":
        """Return the calls in memory."""
        return [work for work in self._calls.values() if not work.ended]

    def _count(self, record: Record) -> None:
        self.metrics.records_in.labels(self.stage.name, record.topic).inc()
        self.metrics.record_bytes.labels(self.stage.name, record.topic).inc(record.size_bytes)
        self.metrics.queue_seconds.labels(self.stage.name).observe(max(0.0, unix_time_s() - record.timestamp_s))

    def has_lag(self, partition: Partition) -> bool:
        """Return True if records of the partition wait: on the bus after the last one read, or for room here."""
        return self.budget.exhausted or self._lag.get((partition.topic, partition.number), 0) > 0

    def given_up(self, record_id: str) -> bool:
        """Return True if a record has failed `MAX_ATTEMPTS` times."""
        return self._attempts[record_id] >= MAX_ATTEMPTS

    def forget(self, record_id: str) -> None:
        """Forget the failures of a record."""
        del self._attempts[record_id]

    def fail(self, error: BaseException) -> None:
        """End this run: `_read` raises `error`."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _sweep(self) -> None:
        """Drop finished calls from memory, and measure the group's lag."""
        while True:
            await asyncio.sleep(_KEEP_IDLE_CALL_S / 3)
            with contextlib.suppress(BusError):
                waiting = await self._bus.lag(self.subscription)
                self.metrics.queue_depth.labels(self.subscription.group).set(waiting)
            for key, work in list(self._calls.items()):
                if work.droppable(idle_for_s=_KEEP_IDLE_CALL_S):
                    del self._calls[key]
                    await self._cancel([work])

    async def _drop_calls(self) -> None:
        works = list(self._calls.values())
        self._calls.clear()
        await self._cancel(works)

    async def _cancel(self, works: "list[CallWork]") -> None:
        """Cancel works, and wait until none is being cancelled any more.

        The caller may itself be cancelled, as by a failure during a revocation. The works end all the same, and give
        back what they hold of the budget.
        """
        for work in works:
            cancelling = asyncio.create_task(work.cancel())
            self._cancelling.add(cancelling)
            cancelling.add_done_callback(self._cancelling.discard)
        if self._cancelling:
            await asyncio.wait(self._cancelling)


class _Queued(msgspec.Struct, frozen=True):
    record: Record
    decoded: Decoded


class _Started(msgspec.Struct, frozen=True):
    """An input that the processor has taken. `seq` is its number, or without one that of the next numbered input."""

    record: Record
    decoded: Decoded
    seq: int
    outputs: AsyncIterator[Output]

    @property
    def is_numbered(self) -> bool:
        return self.decoded.seq is not None


class _Unreleased(msgspec.Struct, frozen=True):
    """An input whose outputs are published, not acknowledged yet."""

    position: int
    seq: int
    is_numbered: bool


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

    Queued and started inputs hold their bytes of the runner's budget. `cancel` gives them back, and the bus delivers
    every input again that was not acknowledged. An exception in any task fails the runner, which cancels all work.
    """

    def __init__(self, runner: StageRunner, call: CallRef, partition: Partition) -> None:
        self.call = call
        self.partition = partition
        self.ended = False
        self.last_taken_at = self.last_numbered_at = asyncio.get_running_loop().time()
        self.last_record: Record | None = None
        self.processor: CallProcessor[Any] | None = None
        self._runner = runner
        self._queued: asyncio.Queue[_Queued] = asyncio.Queue()
        self._started: asyncio.Queue[_Started] = asyncio.Queue()
        self._unpublished = 0
        """Inputs that are queued or started."""
        self._unreleased: deque[_Unreleased] = deque()
        self._next_seq = 0
        self._published_seq = -1
        """The number of the last output on the bus."""
        self._released = 0
        """Inputs below this number are released by the last checkpoint on the bus."""
        self._state = b""
        """The checkpoint that the next output carries, unless it is the last one of its input."""
        self._tasks = [
            asyncio.create_task(self._guarded(self._start)),
            asyncio.create_task(self._guarded(self._publish)),
        ]
        self._unnumbered: set[asyncio.Task[None]] = set()

    def put(self, record: Record, decoded: Decoded) -> None:
        self._unpublished += 1
        self.last_taken_at = asyncio.get_running_loop().time()
        if decoded.seq is not None:
            self.last_numbered_at = self.last_taken_at
        self.last_record = record
        self._queued.put_nowait(_Queued(record, decoded))

    async def cancel(self) -> None:
        """Stop all tasks and give back what the inputs hold of the budget."""
        self.ended = True
        await _cancelled(self._tasks)
        await asyncio.sleep(0)  # a task that is cancelled before its first step gives nothing back
        await _cancelled(self._unnumbered)
        while not self._queued.empty():
            self._runner.budget.give(self._queued.get_nowait().record.size_bytes)
        while not self._started.empty():
            await self._abandon(self._started.get_nowait())

    def droppable(self, *, idle_for_s: float) -> bool:
        """Return True if the call was quiet for that long and its checkpoint on the bus holds everything of it."""
        quiet_s = asyncio.get_running_loop().time() - self.last_taken_at
        finished = self.processor is not None and self.processor.finished
        return finished and not self._unpublished and not self._unreleased and quiet_s >= idle_for_s

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._runner.fail(error)

    async def _start(self) -> None:
        """Open the processor from the checkpoint on the bus, and submit the queued inputs to it."""
        bind_call(self.call, stage=self._runner.stage.name)
        progress = await self.partition.progress(self.call.key) if self._runner.subscription.progress_topic else None
        if progress is not None:
            self._published_seq, self._released, self._state = progress.seq, progress.released, progress.state
            self._next_seq = progress.released
        self.processor = self._runner.stage.open(self.call, self._state or None)
        while True:
            started = self._submit(self.processor, await self._queued.get())
            if started.is_numbered:
                self._started.put_nowait(started)
            else:
                task = asyncio.create_task(self._guarded(partial(self._finish, started)))
                self._unnumbered.add(task)
                task.add_done_callback(self._unnumbered.discard)

    def _submit(self, processor: CallProcessor[Any], queued: _Queued) -> _Started:
        record, decoded = queued.record, queued.decoded
        seq = self._next_seq if decoded.seq is None else decoded.seq
        if decoded.seq is not None:
            self._next_seq = max(self._next_seq, seq + 1)
        outputs: AsyncIterator[Output]
        if self._runner.given_up(decoded.event_id):
            outputs = _raising(RejectedInput(f"failed {MAX_ATTEMPTS} times"))
        else:
            try:
                outputs = processor.submit(decoded.content, decoded.event(record, seq))
            except RejectedInput as error:
                outputs = _raising(error)
            except Exception as error:
                raise ProcessingError(decoded.event_id, error) from error
        return _Started(record, decoded, seq, outputs)

    async def _publish(self) -> None:
        """Finish the numbered inputs that are started, one after the other."""
        bind_call(self.call, stage=self._runner.stage.name)
        while True:
            await self._finish(await self._started.get())

    async def _finish(self, started: _Started) -> None:
        from pipeline.telemetry import traces  # not with the module: see there

        metrics, stage = self._runner.metrics, self._runner.stage.name
        event_id = started.decoded.event_id
        bind_event(event_id, traces.trace_id_of(started.record.headers.get(TRACE_HEADER, "")))
        began = perf_counter()
        try:
            await self._publish_outputs(started)
        except asyncio.CancelledError:
            await self._abandon(started)
            raise
        except Exception as error:
            await self._abandon(started)
            if isinstance(error, BusError) and error.retryable:
                raise
            raise ProcessingError(event_id, error) from error
        metrics.stage_seconds.labels(stage).observe(perf_counter() - began)
        self._runner.budget.give(started.record.size_bytes)
        metrics.inflight_bytes.labels(stage).set(self._runner.budget.used_bytes)
        self._unpublished -= 1

    async def _publish_outputs(self, started: _Started) -> None:
        """Publish an input's outputs. The last numbered one waits for the checkpoint that it carries."""
        record, decoded = started.record, started.decoded
        assert self.processor is not None
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
            attempts = MAX_ATTEMPTS if self._runner.given_up(decoded.event_id) else 1
            await self._runner.publisher.reject(record, self.call, error, attempts=attempts)
            self._runner.forget(decoded.event_id)
            self.partition.ack(record.position)
            return
        self._unreleased.append(_Unreleased(record.position, started.seq, started.is_numbered))
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
        still_unreleased: deque[_Unreleased] = deque()
        while len(self._unreleased) > (0 if finished else 1):
            done = self._unreleased.popleft()
            if done.seq < self._released or (finished and not done.is_numbered):
                self.partition.ack(done.position)
            else:
                still_unreleased.append(done)
        self._unreleased.extendleft(reversed(still_unreleased))

    async def _abandon(self, started: _Started) -> None:
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
