"""Runs a stage that takes records of all calls in small batches: one writer thread, write, then acknowledge."""

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Expired, Partition, Record, Subscription
from pipeline.errors import BusError
from pipeline.runtime.byte_budget import ByteBudget
from pipeline.runtime.deliveries import Deliveries
from pipeline.runtime.failures import Blame, blame
from pipeline.runtime.losses import Losses
from pipeline.runtime.movement import CHECK_EVERY_S, STANDSTILL_S, Health, Movement
from pipeline.runtime.publisher import Publisher
from pipeline.runtime.restarts import log_backlog, restarting, until_one_ends
from pipeline.telemetry.metrics import Metrics
from schemas.calls import CallRef
from stages.protocol import Output

_FLUSH_S = 0.25
_RESTART_PAUSES_S = (1.0, 2.0, 4.0, 8.0)


_Taken = tuple[Record, Partition, Any]
"""A record, its partition, and what the stage decoded."""


class BatchStage(Protocol):
    name: str

    def decode(self, topic: str, headers: Mapping[str, str], value: bytes, timestamp_s: float) -> Any:
        """Return what `write` takes. Raises RejectedInput for a record that cannot be read."""
        ...

    def write(self, records: list[Any]) -> list[Output]:
        """Store all records or none, durably, and return what to publish. Called from one thread.

        Raises stages.errors.MachineFailure where the store failed, whatever the records hold.
        """
        ...


class BatchRunner:
    """Runs a batch stage. Also the handler that the bus calls.

    Records are collected for `_FLUSH_S` seconds, written in batches of up to `max_records` and acknowledged after what
    `write` returned was published. If the machine fails nothing is acknowledged, and the bus delivers the records
    again. If writing fails for another reason the batch is halved until the record is found that cannot be written. It
    becomes a dead letter, if its neighbours were written at the same moment.
    """

    def __init__(
        self,
        bus: Bus,
        stage: BatchStage,
        *,
        subscription: Subscription,
        publisher: Publisher,
        metrics: Metrics,
        budget_bytes: int,
        writer: ThreadPoolExecutor,
        max_records: int,
        movement: Movement | None = None,
    ) -> None:
        self.stage = stage
        self.subscription = subscription
        self._movement = movement or Movement(subscription.group, Health(metrics))
        self._bus = bus
        self._publisher = publisher
        self._metrics = metrics
        self._budget = ByteBudget(budget_bytes)
        self._writer = writer
        self._max_records = max_records
        self._pending: list[_Taken] = []
        self._arrived = asyncio.Event()
        self._deliveries = Deliveries(standstill_s=STANDSTILL_S)
        self._losses = Losses(bus, publisher, metrics, stage=stage.name, group=subscription.group)
        self._backoff = Backoff(_RESTART_PAUSES_S)
        self._log = structlog.get_logger("callstream.runner").bind(stage=stage.name, group=subscription.group)

    async def run(self) -> None:
        """Read until cancelled; restart from the floor after any failure, later each time until a batch is written."""
        await restarting(self._read, backoff=self._backoff, report=self._report_restart)

    async def _read(self) -> None:
        """Read and write until the bus or the writer fails, which raises."""
        await log_backlog(self._bus, self.subscription, self._log)
        try:
            await until_one_ends(self._bus.run(self.subscription, self), self._write(), self._check())
        finally:
            self._forget()

    def _report_restart(self, error: Exception, pause_s: float) -> None:
        self._metrics.stage_restarts.labels(self.stage.name).inc()
        self._log.error("stage restarts", error=str(error), pause_s=pause_s, exc_info=error)

    async def on_assigned(self, partition: Partition) -> None:
        self._deliveries.begin((partition.topic, partition.number))

    async def on_expired(self, expired: Expired, partition: Partition) -> None:
        await self._losses.tell(expired, partition)

    async def on_record(self, record: Record, partition: Partition) -> None:
        self._metrics.records_in.labels(self.stage.name, record.topic).inc()
        self._deliveries.delivered((record.topic, record.partition))
        try:
            content = self.stage.decode(record.topic, record.headers, record.value, record.timestamp_s)
        except Exception as error:
            if blame(error) is Blame.MACHINE:
                raise
            await self._publisher.reject(record, None, error, attempts=1)
            partition.ack(record.position)
            return
        await self._budget.take(record.size_bytes)
        self._pending.append((record, partition, content))
        self._arrived.set()

    async def on_revoked(self, partition: Partition) -> None:
        self._deliveries.end((partition.topic, partition.number))
        self._forget(partition)

    def _forget(self, partition: Partition | None = None) -> None:
        """Drop the pending records of a partition, or of all."""
        kept = []
        for entry in self._pending:
            if partition is None or entry[1] is partition:
                self._budget.give(entry[0].size_bytes)
            else:
                kept.append(entry)
        self._pending = kept

    async def _check(self) -> None:
        """Measure the group's lag, and check that it moves.

        Raises BusError if the bus keeps records of a partition back for `STANDSTILL_S`: reading begins anew then.
        """
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            waiting, kept_back = 1, 0
            with contextlib.suppress(BusError):
                lags = await self._bus.lag_by_partition(self.subscription)
                waiting = sum(lags.values())
                self._metrics.queue_depth.labels(self.subscription.group).set(waiting)
                holding = set(lags) if self._budget.used_bytes else set()
                kept_back = self._deliveries.undelivered(lags, holding=holding, blocked=self._budget.exhausted)
            self._movement.check(waiting=waiting > 0)
            if kept_back and (places := self._deliveries.standing_still()):
                raise BusError(f"{kept_back} records wait, and {places} deliver nothing")

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await asyncio.sleep(_FLUSH_S)
            while self._pending:
                batch, self._pending = self._pending[: self._max_records], self._pending[self._max_records :]
                try:
                    await self._write_batch(batch)
                finally:
                    for record, _, _ in batch:
                        self._budget.give(record.size_bytes)
                self._backoff.reset()
                self._movement.moved()

    async def _write_batch(self, batch: "list[_Taken]") -> None:
        """Write a batch, and give up the records that alone prevent it.

        Raises what `write` raises if none of the records can be written: then nothing shows that it is theirs.
        """
        failed = await self._write_halves(batch)
        if len(failed) == len(batch):
            raise failed[0][1]
        for taken, _ in failed:
            for (record, partition, _), error in await self._write_halves([taken]):  # now that others were written
                await self._publisher.reject(record, None, error, attempts=2)
                partition.ack(record.position)

    async def _write_halves(self, batch: "list[_Taken]") -> "list[tuple[_Taken, Exception]]":
        """Write and acknowledge a batch, halved until it succeeds. Returns the records that fail alone, with the error.

        Raises an error that is the machine's or the bus's.
        """
        try:
            await self._write_all(batch)
        except Exception as error:
            if blame(error) in (Blame.MACHINE, Blame.BUS):
                raise
            if len(batch) == 1:
                return [(batch[0], error)]
            self._log.warning("batch failed, halved", records=len(batch), error=str(error))
            middle = len(batch) // 2
            return await self._write_halves(batch[:middle]) + await self._write_halves(batch[middle:])
        return []

    async def _write_all(self, batch: "list[_Taken]") -> None:
        contents = [content for _, _, content in batch]
        with self._metrics.stage_seconds.labels(self.stage.name).time():
            outputs = await asyncio.get_running_loop().run_in_executor(self._writer, self.stage.write, contents)
        for output in outputs:
            await self._publisher.send(output, _call_of(output))
        for record, partition, _ in batch:
            partition.ack(record.position)


def _call_of(output: Output) -> CallRef:
    record: Any = output.record
    return CallRef(record.tenant, record.call_id)
