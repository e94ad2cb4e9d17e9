"""One `Bus.run` on Kafka: a Faust app, and the partitions that it is assigned and loses."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from pipeline.bus.assignment import Store, TopicPartition, read_shared
from pipeline.bus.kafka.clients import KafkaClients
from pipeline.bus.kafka.faust_app import REBALANCE_S, ReaderApp, reader_app
from pipeline.bus.kafka.partition import KafkaPartition
from pipeline.bus.kafka.progress import ProgressIndex
from pipeline.bus.kafka.records import stored_record
from pipeline.bus.protocol import Handler, Progress, Subscription
from pipeline.errors import BusError

_START_S: Final = 60.0
_RELEASE_S: Final = 0.7 * REBALANCE_S


class _Start(NamedTuple):
    """Where the group reads next in a partition, and the first position that the partition still has."""

    position: int
    begins_at: int


class FaustReading:
    """Reads a subscription as a worker of its group. Also the `Shares` of `read_shared`, and the app's `Floors`."""

    def __init__(
        self,
        clients: KafkaClients,
        subscription: Subscription,
        *,
        data: Path,
        index: ProgressIndex | None,
        store: Store,
        floors: Callable[[str, list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
        begins: Callable[[list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]],
    ) -> None:
        """`floors` returns the committed positions of a group, `begins` the first positions that a topic still has."""
        self._clients = clients
        self._subscription = subscription
        self._index = index
        self._store = store
        self._read_floors = floors
        self._read_begins = begins
        self._starts: asyncio.Task[Mapping[TopicPartition, _Start]] | None = None
        """Of the partitions that were last assigned, without those that the group never read."""
        self._partitions: dict[TopicPartition, KafkaPartition] = {}
        self._held: frozenset[TopicPartition] = frozenset()
        self._reading: set[TopicPartition] = set()
        self._generation = -1
        self._change = asyncio.Event()
        self._step = asyncio.Event()
        self._log = structlog.get_logger("callstream.kafka").bind(group=subscription.group)
        self._app: ReaderApp = reader_app(
            clients,
            group=subscription.group,
            topics=subscription.topics,
            prefetch_bytes=subscription.prefetch_bytes,
            data=data,
            floors=self,
            take=self._take,
        )
        self._app.on_partitions_assigned.connect(self._on_assigned)
        self._app.on_partitions_revoked.connect(self._on_revoked)

    async def run(self, handler: Handler) -> None:
        """Read until cancelled. Raises what the handler raised, and BusError if Faust gives up."""
        async with self._clients.reading():
            pass  # raises the reason if there is no connection; Faust only reports that its thread has crashed
        app = self._app
        tasks: list[asyncio.Future[Any]] = []
        try:
            try:
                async with asyncio.timeout(_START_S):
                    await app.start()
            except Exception as error:
                raise BusError(f"the group {self._subscription.group} cannot be joined: {error!r}") from error
            tasks.append(asyncio.ensure_future(read_shared(self, self._open, handler)))
            tasks.append(asyncio.ensure_future(app._crashed.wait()))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].cancelled():
                raise BusError(f"reading as {self._subscription.group}: the Kafka client gave up")
            if tasks[0].done():
                tasks[0].result()
            raise BusError(f"reading as {self._subscription.group} ended: {app.crash_reason!r}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop()

    async def _stop(self) -> None:
        """Commit what is acknowledged and leave the group. This ends soon even if no broker answers.

        It is completed even if it is cancelled: a worker that has not left holds its partitions as long as this process
        lives.
        """
        stopping = asyncio.ensure_future(self._leave())
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def _leave(self) -> None:
        app = self._app
        try:
            if not app.crashed:
                await app.consumer.commit()
            if self._starts is not None:
                self._starts.cancel()
            if self._index is not None:
                await self._index.close()
            await app.stop()
        except Exception as error:
            self._log.warning("leaving failed, the group's session will expire", error=repr(error))
        finally:
            app.on_partitions_assigned.disconnect(self._on_assigned)
            app.on_partitions_revoked.disconnect(self._on_revoked)

    # -- the shares ----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> frozenset[TopicPartition]:
        return self._held

    async def changed(self) -> None:
        await self._change.wait()
        self._change.clear()

    async def release(self, partitions: set[TopicPartition]) -> None:
        self._reading -= partitions
        self._step.set()

    async def close(self) -> None:
        self._reading.clear()
        self._step.set()

    async def _open(self, tp: TopicPartition) -> KafkaPartition:
        self._reading.add(tp)
        start = await self._start_of(tp)
        partition = KafkaPartition(
            tp.topic,
            tp.partition,
            generation=self._generation,
            prefetch_bytes=self._subscription.prefetch_bytes,
            is_member=lambda: self._app.is_member,
            store=self._store,
            read_progress=self._progress,
            next_position=None if start is None else start.position,
            begins_at=partial(self._begins_at, tp),
        )
        if start is not None and start.begins_at > start.position:
            partition.lose(start.begins_at - 1)
        self._partitions[tp] = partition
        self._step.set()
        return partition

    async def _start_of(self, tp: TopicPartition) -> _Start | None:
        """Return the start of an assigned partition, None if the group never read it. Raises BusError."""
        starts = None
        while starts is not self._starts:
            starts = self._starts
            assert starts is not None
            await asyncio.wait([starts])
        assert starts is not None
        return starts.result().get(tp)

    async def _find_starts(self, held: frozenset[TopicPartition]) -> Mapping[TopicPartition, _Start]:
        floors = await self._read_floors(self._subscription.group, sorted(held))
        begins = await self._read_begins(list(floors))
        return {tp: _Start(floor, begins[tp]) for tp, floor in floors.items()}

    async def _begins_at(self, tp: TopicPartition) -> int:
        return (await self._read_begins([tp]))[tp]

    async def _progress(self, number: int, key: bytes) -> Progress | None:
        return None if self._index is None else await self._index.get(number, key)

    # -- from Faust ----------------------------------------------------------------------------------------------------

    async def _on_assigned(self, app: Any, assigned: Any, **_: object) -> None:
        self._generation = app.consumer_generation_id
        self._partitions.clear()
        if self._index is not None and assigned:
            self._index.begin({tp.partition for tp in assigned}, self._generation)
        self._held = frozenset(TopicPartition(tp.topic, tp.partition) for tp in assigned)
        if self._starts is not None:
            self._starts.cancel()
        self._starts = asyncio.create_task(self._find_starts(self._held), name="committed positions")
        self._starts.add_done_callback(_retrieve)
        self._log.info("partitions assigned", held=sorted((tp.topic, tp.partition) for tp in self._held))
        self._change.set()
        self._step.set()

    async def _on_revoked(self, app: Any, _revoked: Any, **_: object) -> None:
        """Wait until no reader works on the partitions any more. Each rebalance revokes all of them.

        Until then they are this worker's. `read_shared` revokes a partition when it stops its reader, so that the
        reader is stopped by that and not by a failure to publish, which would end the run.
        """
        held, self._held = self._held, frozenset()
        self._change.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                while self._reading & held:
                    self._step.clear()
                    await self._step.wait()
        for partition in self._partitions.values():
            partition.revoke()
        await app.consumer.commit()

    async def _take(self, message: Any) -> None:
        """Pass a message to its partition. One of an earlier generation is dropped: it will be delivered again."""
        tp = TopicPartition(message.topic, message.partition)
        while message.generation_id == self._app.consumer_generation_id and (
            message.generation_id != self._generation or (tp in self._held and tp not in self._partitions)
        ):
            self._step.clear()
            await self._step.wait()
        partition = self._partitions.get(tp)
        if partition is None or message.generation_id != partition.generation:
            return
        lag = self._app.lag(message.topic, message.partition, message.offset)
        await partition.put(stored_record(message, message.timestamp, lag=lag))

    def floors(self) -> tuple[int, dict[tuple[str, int], int]]:
        return self._generation, {
            (tp.topic, tp.partition): partition.floor for tp, partition in self._partitions.items()
        }


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a task that nobody may await any more."""
    if not task.cancelled():
        task.exception()
