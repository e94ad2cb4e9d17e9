"""Forwards records from an edge's bus to a central one: a branch office stores what its producers send.

A record reaches the target with its key, headers and value, and is acknowledged at the source once the target has
stored it. Records of a key are stored one after the other, so retries keep their order. Keys do not wait for each
other, and neither do the lanes. While either side is away the bridge waits, with a bounded number of bytes in memory.

A bridge that was killed repeats records with the same `ce_id` and `ce_source`, which the stages drop. A record that the
target can never store becomes a dead letter at the source.
"""

import asyncio
import hashlib
from collections import deque
from typing import Final

import structlog

from pipeline.backoff import Backoff
from pipeline.bus.protocol import Bus, Expired, Outgoing, Partition, Record, Subscription, TopicSpec
from pipeline.clock import SECONDS_PER_DAY
from pipeline.errors import BusError, CallstreamError, RecordTooLargeError
from pipeline.runtime.byte_budget import ByteBudget
from pipeline.runtime.publisher import Publisher
from pipeline.runtime.restarts import restarting, until_one_ends
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.topics import Lane

NAME: Final = "bridge"
LANES: Final[dict[Lane, Subscription]] = {
    "live": Subscription(group=NAME, topics=(topics.AUDIO,), prefetch_bytes=500_000),
    "batch": Subscription(group=f"{NAME}-batch", topics=(topics.AUDIO_BATCH,), prefetch_bytes=500_000),
}
BUDGET_BYTES: Final = 8_000_000
"""The most bytes of records that a lane has taken and the target has not stored."""

_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_REPORT_S: Final = 30.0
_EDGE_SHARES: Final = {topics.AUDIO: 0.6, topics.AUDIO_BATCH: 0.3, topics.DEAD_LETTERS: None}


def edge_specs(*, partitions: int, retention_days: float, store_bytes: int, freed: bool = False) -> list[TopicSpec]:
    """Return the topics of an edge: those of its producers, which may fill most of its store, and dead letters.

    With `freed`, forwarded records are deleted. The others then have no age limit.
    """
    return [
        TopicSpec(
            name=name,
            partitions=partitions,
            retention_s=retention_days * SECONDS_PER_DAY,
            max_bytes=None if share is None else int(store_bytes * share),
            readers=tuple(lane for lane in LANES.values() if freed and name in lane.topics),
        )
        for name, share in _EDGE_SHARES.items()
    ]


async def ensure_edge(source: Bus, specs: list[TopicSpec]) -> None:
    """Create missing topics at the edge. Existing ones stay as their operator made them."""
    existing = {state.name for state in await source.describe(tuple(spec.name for spec in specs))}
    missing = [spec for spec in specs if spec.name not in existing]
    if missing:
        await source.ensure_topics(missing)


class Bridge:
    """Forwards both lanes. `records` and `bytes` count what the target has stored."""

    def __init__(self, source: Bus, target: Bus, *, metrics: Metrics, budget_bytes: int = BUDGET_BYTES) -> None:
        self.records = 0
        self.bytes = 0
        self.metrics = metrics
        self._source = source
        self._target = target
        self._budget_bytes = budget_bytes
        self._away_since: float | None = None
        self._log = structlog.get_logger("callstream.bridge")

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane, subscription in LANES.items():
                publisher = Publisher(self._source, stage=NAME, lane=lane, metrics=self.metrics)
                runner = _LaneRunner(self, self._source, subscription, publisher, ByteBudget(self._budget_bytes))
                group.create_task(runner.run())
            group.create_task(self._report())

    async def store(self, record: Record) -> None:
        """Store a record at the target, however long it is away. Raises RecordTooLargeError."""
        backoff = Backoff(_PAUSES_S)
        while True:
            try:
                with self.metrics.publish_seconds.labels(record.topic).time():
                    await self._target.publish(
                        Outgoing(
                            record.topic,
                            key=record.key,
                            value=record.value,
                            event_id=event_id(record),
                            headers=record.headers,
                        )
                    )
                break
            except BusError as error:
                if not error.retryable:
                    raise
                self._missed(error)
                self.metrics.publish_retries.labels(record.topic).inc()
            await backoff.pause()
        self._reached()
        self.records += 1
        self.bytes += record.size_bytes
        self.metrics.records_out.labels(NAME, record.topic).inc()

    def _missed(self, error: BusError) -> None:
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            self._log.warning("target unavailable", error=str(error))

    def _reached(self) -> None:
        if self._away_since is not None:
            waited_s = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            self._log.info("target available", waited_s=round(waited_s, 1))

    async def _report(self) -> None:
        """Log regularly how much was forwarded and how much waits, if it has changed."""
        reported: tuple[int, int] | None = None
        while True:
            await asyncio.sleep(_REPORT_S)
            try:
                waiting = {group.group: await self._source.lag(group) for group in LANES.values()}
            except BusError:
                continue
            for group, records in waiting.items():
                self.metrics.queue_depth.labels(group).set(records)
            if (now := (self.records, sum(waiting.values()))) != reported:
                self._log.info("forwarded", records=self.records, bytes=self.bytes, waiting=now[1])
                reported = now


class _LaneRunner:
    """Forwards one lane: the handler at the source, with a task for each key."""

    def __init__(
        self, bridge: Bridge, source: Bus, subscription: Subscription, publisher: Publisher, budget: ByteBudget
    ) -> None:
        self._bridge = bridge
        self._source = source
        self._subscription = subscription
        self._publisher = publisher
        self._budget = budget
        self._works: dict[tuple[str, int, bytes], _KeyWork] = {}
        self._failure: asyncio.Future[None] | None = None
        self._backoff = Backoff(_PAUSES_S)
        self._log = structlog.get_logger("callstream.bridge").bind(group=subscription.group)

    async def run(self) -> None:
        """Read until cancelled; restart from the floor after any failure."""
        await restarting(self._read, backoff=self._backoff, report=self._report_restart)

    async def _read(self) -> None:
        """Read until the source or a key fails, which raises."""
        self._failure = asyncio.get_running_loop().create_future()
        stored = self._bridge.records
        try:
            await until_one_ends(self._failure, self._source.run(self._subscription, self))
        finally:
            await asyncio.gather(*(work.cancel() for work in list(self._works.values())))
            if self._bridge.records > stored:
                self._backoff.reset()

    def _report_restart(self, error: Exception, pause_s: float) -> None:
        """Log a traceback for a defect, not for a broker that is merely unreachable."""
        self._bridge.metrics.stage_restarts.labels(NAME).inc()
        trace = None if isinstance(error, CallstreamError) else error
        self._log.warning("forwarding restarts", reason=str(error), pause_s=pause_s, exc_info=trace)

    async def on_assigned(self, partition: Partition) -> None:
        self._log.debug("partition assigned", topic=partition.topic, partition=partition.number)

    async def on_expired(self, expired: Expired, partition: Partition) -> None:
        """Count them. The source has no ledger."""
        records = expired.last - expired.first + 1
        self._bridge.metrics.records_expired_unread.labels(NAME, expired.topic).inc(records)
        self._log.error("records expired unread", topic=expired.topic, partition=partition.number, records=records)

    async def on_record(self, record: Record, partition: Partition) -> None:
        metrics = self._bridge.metrics
        metrics.records_in.labels(NAME, record.topic).inc()
        metrics.record_bytes.labels(NAME, record.topic).inc(record.size_bytes)
        await self._budget.take(record.size_bytes)
        assert self._failure is not None
        if self._failure.done():  # a later record must not overtake one that failed
            self._budget.give(record.size_bytes)
            await asyncio.Event().wait()
        metrics.inflight_bytes.labels(NAME).set(self._budget.used_bytes)
        name = (record.topic, record.partition, record.key)
        work = self._works.get(name)
        if work is None:
            work = self._works[name] = _KeyWork(self, name, partition)
        work.put(record)

    async def on_revoked(self, partition: Partition) -> None:
        lost = [work for name, work in self._works.items() if name[:2] == (partition.topic, partition.number)]
        await asyncio.gather(*(work.cancel() for work in lost))

    # -- for the keys ------------------------------------------------------------------------------------------------

    async def forward(self, record: Record, partition: Partition) -> None:
        try:
            await self._bridge.store(record)
        except RecordTooLargeError as error:
            await self._publisher.reject(record, None, error, attempts=1)
        partition.ack(record.position)

    def release(self, size_bytes: int) -> None:
        self._budget.give(size_bytes)

    def ended(self, name: tuple[str, int, bytes]) -> None:
        self._works.pop(name, None)

    def fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)


class _KeyWork:
    """Forwards the records of one key, one after the other, until none is left."""

    def __init__(self, lane: _LaneRunner, name: tuple[str, int, bytes], partition: Partition) -> None:
        self._lane = lane
        self._name = name
        self._partition = partition
        self._records: deque[Record] = deque()
        self._task = asyncio.create_task(self._run())

    def put(self, record: Record) -> None:
        self._records.append(record)

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._end()

    async def _run(self) -> None:
        try:
            while self._records:
                record = self._records[0]
                await self._lane.forward(record, self._partition)
                self._records.popleft()
                self._lane.release(record.size_bytes)
        except Exception as error:
            self._lane.fail(error)
        self._end()

    def _end(self) -> None:
        self._lane.ended(self._name)
        while self._records:
            self._lane.release(self._records.popleft().size_bytes)


def event_id(record: Record) -> str:
    """Return the record's id for the target's broker: the same for the same bytes, whichever bridge sends them.

    `ce_id` alone is not enough: two producers may count alike, and a damaged record has none.
    """
    digest = hashlib.blake2b(record.key, digest_size=16)
    for text in [record.topic, *(f"{name}={record.headers[name]}" for name in sorted(record.headers))]:
        digest.update(b"\0" + text.encode("utf-8", "surrogateescape"))
    digest.update(b"\0" + record.value)
    return f"{NAME}/{digest.hexdigest()}"
