"""One partition as a JetStream consumer delivers it: pulled in overlapping requests, acknowledged up to a floor.

The consumer is durable, one for each group and partition, with `AckPolicy.ALL`. Whenever reading begins it is reset
(ADR-60): the server delivers everything after its floor again, in order and before anything new, with delivery numbers
that count from 1. Deliveries of before the reset cannot arrive any more, because their inbox is closed. Records that
the handler had already are recognised by their position.

So one method, `_begin`, answers every fault: a lost connection, a missing delivery number (another worker took the
record, or it was lost on the way), silence for longer than the heartbeats allow, a pull that ended for an unknown
reason.

A worker that hangs leaves pulls open, and the server would go on to serve them. So the next owner makes a consumer with
open pulls anew (`pipeline.bus.nats.consumer`).

A partition is also lost when an output is refused because another worker has published since
(`pipeline.bus.nats.outputs`).
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from pipeline.bus.assignment import revoked
from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Listening, NatsConnection, Session, SessionLost
from pipeline.bus.nats.consumer import DurableConsumer
from pipeline.bus.nats.outputs import NumberedOutputs, Superseded
from pipeline.bus.nats.subjects import delivery, stored_record
from pipeline.bus.protocol import Outgoing, Progress, Record
from pipeline.bus.tracker import PrefixTracker
from pipeline.errors import BusError
from pipeline.tasks import owned

PULLS: Final = 2
"""Requests that overlap: the server serves one while the other is on its way."""
EXPIRES_S: Final = 60.0
HEARTBEAT_S: Final = 15.0
SILENCE_S: Final = 2.5 * HEARTBEAT_S
ACK_S: Final = 0.05
_BATCH: Final = 1_000_000
_ANY_SIZE: Final = 1 << 30
"""A limit that never applies: the server reports a pull as complete only if the pull has a limit in bytes."""
_PAUSE_S: Final = 0.2


class _Store(Protocol):
    async def __call__(self, record: Outgoing, *, partition: int | None = None) -> None:
        """Store a record without progress, as `Bus.publish`."""
        ...


class PulledPartition:
    """A partition from assignment to revocation. `prefetch_bytes` bounds what is requested and not taken yet.

    `lose` is called with its number once another worker has published for it: it must be revoked and closed then.
    """

    def __init__(
        self,
        connection: NatsConnection,
        *,
        topic: str,
        group: str,
        number: int,
        prefetch_bytes: int,
        outputs: NumberedOutputs,
        store: _Store,
        lose: Callable[[int], None],
    ) -> None:
        self.topic = topic
        self.number = number
        self._connection = connection
        self._consumer = DurableConsumer(topic, group, number)
        self._pull_bytes = max(1, prefetch_bytes // PULLS)
        self._outputs = outputs
        self._store = store
        self._lose = lose
        self._tracker = PrefixTracker()
        self._intake: _Intake | None = None
        self._revoked = False
        self._superseded = False
        self._losing: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._acking: asyncio.Task[None] | None = None
        self._floor_risen = asyncio.Event()
        self._closing = asyncio.Event()
        self._log = structlog.get_logger("callstream.pull").bind(
            topic=topic, partition=number, consumer=self._consumer.name
        )

    def ack(self, position: int) -> None:
        if not self._revoked and not self._superseded and self._tracker.ack(position) is not None:
            self._ack_soon()

    async def publish(self, record: Outgoing, *, progress: Progress | None = None) -> None:
        """See `Partition.publish`. What is published after the partition was lost waits until it is closed."""
        try:
            if not self._superseded and not self._revoked:
                if progress is not None:
                    await self._outputs.publish(record, progress)
                elif record.topic == self._outputs.topic:
                    await self._outputs.put_beside(record)
                else:
                    await self._store(record, partition=self.number)
                return
        except Superseded as error:
            self._give_up(error)
        if self._superseded:
            await self._closing.wait()
        raise revoked(self)

    def _give_up(self, reason: Superseded) -> None:
        if not self._superseded:
            self._superseded = True
            self._log.warning("another worker has published, partition given up", reason=str(reason))
            # Later: two writers that share a topic by mistake are not to take turns without a pause.
            self._losing = asyncio.get_running_loop().call_later(_PAUSE_S, self._lose, self.number)

    async def progress(self, key: bytes) -> Progress | None:
        return await self._outputs.progress(key)

    async def records(self) -> AsyncIterator[Record]:
        while True:
            intake = await self._begin()
            try:
                while (arrived := await intake.take()) is not None:
                    if self._tracker.deliver(arrived.position):
                        yield arrived
                    elif arrived.position <= self._tracker.floor:
                        self._ack_soon()
            finally:
                await intake.close()
            if not intake.lost:
                self._log.info("partition re-read from its floor", reason=intake.fault)
                await asyncio.sleep(_PAUSE_S)

    def revoke(self) -> None:
        self._revoked = True

    async def close(self) -> None:
        self._closing.set()
        if self._losing is not None:
            self._losing.cancel()
        if self._acking is not None:
            await asyncio.gather(self._acking, return_exceptions=True)
        if self._intake is not None:
            await self._intake.close()

    async def _begin(self) -> "_Intake":
        """Reset the consumer and read from its floor. Raises BusError after the connection's `reconnect_s`."""

        async def begin(session: Session) -> "_Intake":
            intake = self._intake = _Intake(
                session, self._consumer.stream, self._consumer.name, self.topic, self._pull_bytes
            )
            try:
                if await self._consumer.begin(session, taking_over=not self._has_begun):
                    self._log.info("open pulls of another worker ended")
                self._has_begun = True
            except ApiError as error:
                raise BusError(
                    f"the consumer {self._consumer.name} of {self.topic} cannot be set up: {error}"
                ) from error
            await intake.begin()
            return intake

        return await self._connection.retrying(begin)

    def _ack_soon(self) -> None:
        """Acknowledge the floor within `ACK_S`, or when the partition is closed, so that many acks become one."""
        self._floor_risen.set()
        if self._acking is None or self._acking.done():
            self._acking = owned(self._ack_floors(), name="acknowledge", failed=self._ack_failed, ends=True)

    def _ack_failed(self, error: Exception) -> None:
        self._log.error("acknowledgement failed", error=repr(error), exc_info=error)
        if self._intake is not None:
            self._intake.fail(repr(error))

    async def _ack_floors(self) -> None:
        while self._floor_risen.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_S):
                    await self._closing.wait()
            self._floor_risen.clear()
            if self._intake is not None:
                try:
                    await self._intake.ack(self._tracker.floor)
                except SessionLost:
                    self._log.debug("acknowledgement lost with the connection")


class _Intake:
    """The records after one reset, on one session. `fault` says why they have ended; None before that."""

    def __init__(self, session: Session, stream: str, consumer: str, topic: str, pull_bytes: int) -> None:
        self.fault: str | None = None
        self._session = session
        self._stream = stream
        self._consumer = consumer
        self._topic = topic
        self._pull_bytes = pull_bytes
        self._inbox = session.new_inbox()
        self._listening: Listening | None = None
        self._arrived: deque[Record] = deque()
        self._replies: deque[tuple[int, str]] = deque()
        self._held_bytes = 0
        self._open_pulls = 0
        self._one_large = False
        """The next record is larger than a pull: it is requested alone."""
        self._last_delivery = 0
        self._last_heard_at = 0.0
        self._wake = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """True if the connection was lost, whose return is waited for anyway."""
        return self._session.lost.is_set()

    async def begin(self) -> None:
        self._last_heard_at = asyncio.get_running_loop().time()
        self._listening = await self._session.subscribe(f"{self._inbox}.*", self._on_message)
        self._watch = owned(
            self._watch_session(), name="watch a session", failed=lambda error: self.fail(repr(error)), ends=True
        )
        await self._top_up()

    async def take(self) -> Record | None:
        """Wait for the next record and return it; None after a fault."""
        while True:
            if self.fault is not None:
                return None
            if self._arrived:
                record = self._arrived.popleft()
                self._held_bytes -= record.size_bytes
                if self._open_pulls < PULLS:
                    await self._top_up()
                return record
            self._wake.clear()
            await self._wake.wait()

    async def ack(self, floor: int) -> None:
        """Acknowledge the last record of this reset that is not after `floor`."""
        reply = None
        while self._replies and self._replies[0][0] <= floor:
            _, reply = self._replies.popleft()
        if reply is not None:
            await self._session.publish(reply)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._listening is not None:
            await self._listening.close()
            self._listening = None

    async def _watch_session(self) -> None:
        """Notice faults that no message reports: a lost connection, and silence."""
        loop = asyncio.get_running_loop()
        while self.fault is None:
            try:
                async with asyncio.timeout_at(self._last_heard_at + SILENCE_S):
                    await self._session.lost.wait()
                self.fail("the connection was lost")
            except TimeoutError:
                if not self._open_pulls:
                    self._last_heard_at = loop.time()
                elif loop.time() >= self._last_heard_at + SILENCE_S:
                    self.fail("the server is silent")

    async def _top_up(self) -> None:
        """Request as much as there is room for: each open pull may still deliver `pull_bytes`."""
        try:
            if self._one_large:
                if not self._open_pulls and not self._arrived:
                    self._one_large = False
                    await self._pull({"batch": 1, "max_bytes": _ANY_SIZE})
                return
            while self._open_pulls < PULLS and self._held_bytes + self._open_pulls * self._pull_bytes <= (
                (PULLS - 1) * self._pull_bytes
            ):
                await self._pull({"batch": _BATCH, "max_bytes": self._pull_bytes})
        except SessionLost as error:
            self.fail(str(error))

    async def _pull(self, request: dict[str, int]) -> None:
        self._open_pulls += 1
        self._last_heard_at = asyncio.get_running_loop().time()
        body = request | {"expires": int(EXPIRES_S * NANOSECONDS), "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS)}
        await self._session.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
            json.dumps(body).encode(),
            reply=f"{self._inbox}.status",
        )

    async def _on_message(self, message: Any) -> None:
        if self.fault is not None:
            return
        self._last_heard_at = asyncio.get_running_loop().time()
        if message.subject.startswith(self._inbox):
            await self._on_status(message.headers or {})
            return
        delivered = delivery(message)
        if delivered.number != self._last_delivery + 1:
            self.fail(f"delivery {delivered.number} follows {self._last_delivery}")
            return
        self._last_delivery = delivered.number
        record = stored_record(self._topic, message, delivered)
        self._replies.append((record.position, message.reply))
        self._held_bytes += record.size_bytes
        self._arrived.append(record)
        self._wake.set()

    async def _on_status(self, headers: Mapping[str, str]) -> None:
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            last = headers.get("Nats-Last-Consumer")
            if last is not None and int(last) != self._last_delivery:
                self.fail(f"{self._last_delivery} of {last} deliveries arrived")
            return
        self._open_pulls -= 1
        if status == "409" and description == "Message Size Exceeds MaxBytes":
            self._one_large = self._one_large or headers.get("Nats-Pending-Bytes") == str(self._pull_bytes)
        elif status != "408" and description != "Batch Completed":
            self.fail(f"the pull ended: {status} {description}")
            return
        await self._top_up()

    def fail(self, reason: str) -> None:
        self.fault = self.fault or reason
        self._wake.set()
