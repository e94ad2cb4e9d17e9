"""Runs one stage on one bus: decode, process, publish, acknowledge. Its guarantees are those of `stages.protocol`.

The path of a record: `StageRunner.on_record` decodes it and waits for room in the byte budget. `CallWork` submits it to
the call's processor, publishes the outputs in order, and acknowledges the inputs that the published checkpoint
releases. A call that fails starts again alone. After a failure of the bus all calls are dropped from memory, and the
bus delivers again from the floor: the same path as after a crash.
"""

import asyncio
from typing import Any

import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Expired, Partition, Record, Subscription
from pipeline.clock import unix_time_s
from pipeline.errors import BusError
from pipeline.runtime.byte_budget import ByteBudget
from pipeline.runtime.call_work import CallWork
from pipeline.runtime.decoding import Decoded, Decoder
from pipeline.runtime.deliveries import Deliveries
from pipeline.runtime.failures import Attempts, Blame, blame
from pipeline.runtime.losses import Losses
from pipeline.runtime.movement import CHECK_EVERY_S, STANDSTILL_S, Health, Movement
from pipeline.runtime.publisher import Publisher
from pipeline.runtime.restarts import log_backlog, restarting, until_one_ends
from pipeline.runtime.resting_calls import RestingCalls
from pipeline.telemetry.metrics import Metrics
from schemas.calls import CallRef
from stages.protocol import CallStage

_RESTART_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 60.0
"""After a run of this length the next pause is the first again."""
_KEEP_IDLE_CALL_S = 30.0
"""How long a call of which nothing is open stays in memory."""
_REST_AFTER_S = 600.0
"""How long any other call stays in memory where no idle limit ends it: see `pipeline.runtime.resting_calls`."""


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
        movement: Movement | None = None,
    ) -> None:
        self.stage = stage
        self.subscription = subscription
        self.publisher = publisher
        self.metrics = metrics
        self.budget = ByteBudget(budget_bytes)
        self.movement = movement or Movement(subscription.group, Health(metrics))
        self._bus = bus
        self._decoder = decoder
        self._calls: dict[tuple[str, int, CallRef], CallWork] = {}
        self._resting = RestingCalls()
        self.attempts = Attempts(bus, publisher, job=stage.name)
        self._losses = Losses(
            bus,
            publisher,
            metrics,
            stage=stage.name,
            group=subscription.group,
            has_progress=subscription.progress_topic is not None,
            decoder=decoder,
        )
        self._lag: dict[tuple[str, int], int] = {}
        self._deliveries = Deliveries(standstill_s=STANDSTILL_S)
        self._cancelling: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._backoff = Backoff(_RESTART_PAUSES_S)
        self._log = structlog.get_logger("callstream.runner").bind(stage=stage.name, group=subscription.group)

    async def run(self) -> None:
        """Read until cancelled; restart from the floor after each failure of the bus."""
        await restarting(self._read, backoff=self._backoff, report=self._report_restart)

    async def _read(self) -> None:
        """Read until the bus fails, which raises. A call that fails retries by itself."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        await log_backlog(self._bus, self.subscription, self._log)
        self._failure = loop.create_future()
        try:
            await until_one_ends(self._failure, self._bus.run(self.subscription, self), self._sweep())
        finally:
            await self._drop_calls()
            if loop.time() - started_at > _STEADY_S:
                self._backoff.reset()

    def _report_restart(self, error: Exception, pause_s: float) -> None:
        self.metrics.stage_restarts.labels(self.stage.name).inc()
        self._log.error("stage restarts", error=str(error), pause_s=pause_s, exc_info=error)

    # -- the bus's handler -------------------------------------------------------------------------------------------

    async def on_assigned(self, partition: Partition) -> None:
        self._deliveries.begin((partition.topic, partition.number))
        self._log.debug("partition assigned", topic=partition.topic, partition=partition.number)

    async def on_expired(self, expired: Expired, partition: Partition) -> None:
        def read_to(call: CallRef) -> int:
            work = self._calls.get((partition.topic, partition.number, call)) or self._resting.get(partition, call)
            return 0 if work is None else work.taken_to

        await self._losses.tell(expired, partition, read_to)

    async def on_record(self, record: Record, partition: Partition) -> None:
        self._count(record)
        place = (record.topic, record.partition)
        self._deliveries.delivered(place)
        self._lag[place] = record.lag
        try:
            decoded = self._decoder(record)
        except Exception as error:
            if blame(error) is Blame.MACHINE:
                raise
            await self.publisher.reject(record, None, error, attempts=1)
            partition.ack(record.position)
            return
        await self.budget.take(record.size_bytes)
        self.metrics.inflight_bytes.labels(self.stage.name).set(self.budget.used_bytes)
        key = (record.topic, record.partition, decoded.call)
        work = self._calls.get(key)
        if work is None or work.ended:
            rested = self._resting.take(partition, decoded.call)
            work = self._calls[key] = CallWork(self, decoded.call, partition, rested=rested)
        work.put(record, decoded)

    async def on_revoked(self, partition: Partition) -> None:
        self._lag.pop((partition.topic, partition.number), None)
        self._deliveries.end((partition.topic, partition.number))
        lost = [key for key in self._calls if key[:2] == (partition.topic, partition.number)]
        self._resting.drop(partition)
        await self.cancel([self._calls.pop(key) for key in lost])

    # -- for the calls -----------------------------------------------------------------------------------------------

    def open_calls(self) -> list[CallWork]:
        """Return the calls in memory."""
        return [work for work in self._calls.values() if not work.ended]

    def _count(self, record: Record) -> None:
        self.metrics.records_in.labels(self.stage.name, record.topic).inc()
        self.metrics.record_bytes.labels(self.stage.name, record.topic).inc(record.size_bytes)
        self.metrics.queue_seconds.labels(self.stage.name).observe(max(0.0, unix_time_s() - record.timestamp_s))

    def has_lag(self, partition: Partition) -> bool:
        """Return True if records of the partition wait: on the bus after the last one read, or for room here."""
        return self.budget.exhausted or self._lag.get((partition.topic, partition.number), 0) > 0

    async def reread(self, partition: Partition, position: int) -> tuple[Record, Decoded] | None:
        """Return a record of the partition again, None if the topic no longer holds it. Raises BusError."""
        record = await self._bus.read(partition.topic, partition.number, position)
        return None if record is None else (record, self._decoder(record))

    def replace(self, work: CallWork, replacement: CallWork) -> bool:
        """Let `replacement` take the call's records. Returns False if `work` no longer does."""
        key = (work.partition.topic, work.partition.number, work.call)
        if self._calls.get(key) is not work:
            return False
        self._calls[key] = replacement
        return True

    def fail(self, error: BaseException) -> None:
        """End this run: `_read` raises `error`."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _sweep(self) -> None:
        """Measure the group's lag, check that it moves, and drop finished calls from memory.

        Raises BusError if the bus keeps records of a partition back for `STANDSTILL_S`: reading begins anew then.
        """
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            works = list(self._calls.items())
            blocked = self.budget.exhausted
            waiting = blocked or any(self._lag.values()) or any(work.busy for _, work in works)
            try:
                lags = await self._bus.lag_by_partition(self.subscription)
                self.metrics.queue_depth.labels(self.subscription.group).set(sum(lags.values()))
                holding = {(topic, number) for (topic, number, _), _ in works} | self._resting.places()
                kept_back = self._deliveries.undelivered(lags, holding=holding, blocked=blocked)
            except BusError:
                waiting, kept_back = True, 0
            self.movement.check(waiting=waiting or kept_back > 0)
            if kept_back and (places := self._deliveries.standing_still()):
                raise BusError(f"{kept_back} records wait, and {places} deliver nothing")
            await self._forget_quiet(works)

    async def _forget_quiet(self, works: list[tuple[tuple[str, int, CallRef], CallWork]]) -> None:
        """Drop quiet calls from memory. Of those with inputs that are not acknowledged, keep where these are."""
        for key, work in works:
            if self._calls.get(key) is not work:
                continue
            if not work.droppable(idle_for_s=_KEEP_IDLE_CALL_S):
                resting = work.rest(idle_for_s=_REST_AFTER_S)
                if resting is None:
                    continue
                self._resting.put(work.partition, work.call, resting)
            del self._calls[key]
            await self.cancel([work])

    async def _drop_calls(self) -> None:
        works = list(self._calls.values())
        self._calls.clear()
        self._resting.clear()
        await self.cancel(works)

    async def cancel(self, works: list[CallWork]) -> None:
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
