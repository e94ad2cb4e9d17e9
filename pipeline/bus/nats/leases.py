"""Leases of partitions on NATS: workers of a group share an entry in a key-value bucket, by compare and set.

The entry lists the members, each with a heartbeat counter that it raises every second, and the owner of each partition
number (`pipeline.bus.nats.fair_share` decides). A member whose counter stands still for `LEASE_S` by another member's
clock is removed. By then it has given up its partitions, `LAPSE_S` after its last successful write by its own clock.
No two clocks are compared.

The bucket is in memory, so a restarted server has none. Members that are reading then write again what they hold, so a
restart moves no partition, and a worker on a fresh embedded server has nobody to wait for.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from pipeline.bus.assignment import TopicPartition
from pipeline.bus.nats.connection import (
    NANOSECONDS,
    ApiError,
    Listening,
    NatsConnection,
    Session,
    SessionLost,
    check_publish,
)
from pipeline.bus.nats.fair_share import LAPSE_S, LEASE_S, Entry, FairShare, without
from pipeline.errors import BusError

BEAT_S: Final = 1.0
_REQUEST_S: Final = 1.0
_LATE_S: Final = 0.25
_BUCKET: Final = "callstream-leases"
_STREAM: Final = f"KV_{_BUCKET}"
_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_ROUNDS: Final = 5


class LeaseShares:
    """One worker's share of a group's partitions: the `Shares` that `read_shared` follows."""

    def __init__(
        self,
        connection: NatsConnection,
        *,
        group: str,
        member: str,
        partitions: Mapping[int, frozenset[TopicPartition]],
    ) -> None:
        self._connection = connection
        self._group = group
        self._member = member
        self._partitions = partitions
        self._share = FairShare(member, partitions)
        self._known: tuple[frozenset[str], dict[int, str]] = (frozenset(), {})
        self._entry: tuple[Entry, int] | None = None
        self._change = asyncio.Event()
        self._wake = asyncio.Event()
        self._lapse: asyncio.TimerHandle | None = None
        self._listening: Listening | None = None
        self._listening_on: Session | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("callstream.leases").bind(group=group, member=member)

    @property
    def held(self) -> frozenset[TopicPartition]:
        return frozenset().union(*(self._partitions[number] for number in self._share.held))

    async def start(self) -> None:
        """Take a first share. Raises BusError if the broker does not answer."""
        await self._connection.retrying(self._round)
        self._keeping = asyncio.create_task(self._keep(), name=f"leases of {self._group}")

    async def changed(self) -> None:
        """Wait for a change of `held`. Raises what ended the task that renews the lease: nothing changes after it."""
        changing = asyncio.ensure_future(self._change.wait())
        tasks = [task for task in (changing, self._keeping) if task is not None]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()
        self._change.clear()

    async def release(self, partitions: set[TopicPartition]) -> None:
        self._share.release({tp.partition for tp in partitions})
        self._wake.set()

    def lose(self, number: int) -> None:
        """Give up a partition that another worker has published for, whatever the lease says.

        If it is this worker's by the entry, it is read anew from its floor.
        """
        self._share.lose(number)
        self._entry = None
        self._change.set()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._lapse is not None:
            self._lapse.cancel()
        try:
            async with asyncio.timeout(_REQUEST_S):
                await self._leave(await self._connection.session(_REQUEST_S))
        except (SessionLost, ApiError, BusError, TimeoutError) as error:
            self._log.debug("leaving failed, the lease will expire", error=str(error))
        if self._listening is not None:
            await self._listening.close()

    # -- one round: read, decide, compare and set ----------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + BEAT_S
        while True:
            try:
                async with asyncio.timeout_at(next_beat):
                    await self._wake.wait()
            except TimeoutError:
                next_beat = loop.time() + BEAT_S
            self._wake.clear()
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._round(await self._connection.session(BEAT_S))
            except (SessionLost, ApiError, BusError, TimeoutError) as error:
                self._entry = None
                self._log.debug("lease not renewed", error=str(error) or type(error).__name__)

    async def _round(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        await self._listen(session)
        for _ in range(_ROUNDS):
            started = loop.time()
            before, revision = self._entry or await self._read(session)
            after = self._share.decide(before, started, lost=revision == 0)
            self._known = after.arrangement()
            written = await self._write(session, after, revision)
            if written is not None:
                self._entry = (after, written)
                self._settle(after, started)
                return
            self._entry = None

    def _settle(self, entry: Entry, started: float) -> None:
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = asyncio.get_running_loop().call_at(started + LAPSE_S, self._on_lapse, True)
        before = self._share.held
        self._share.settle(entry)
        if self._share.held != before:
            self._log.info("partitions assigned", numbers=sorted(self._share.held), members=len(entry.beats))
            self._change.set()

    def _on_lapse(self, first: bool) -> None:
        """Give up the partitions: the lease was not renewed in time.

        If this process stood still, not the broker, it first asks who owns them now.
        """
        loop = asyncio.get_running_loop()
        assert self._lapse is not None
        self._entry = None
        if first and loop.time() > self._lapse.when() + _LATE_S:
            self._lapse = loop.call_later(BEAT_S, self._on_lapse, False)
            self._wake.set()
            return
        if self._share.held:
            self._log.warning("lease expired, partitions given up")
        self._share.lapse()
        self._change.set()

    async def _leave(self, session: Session) -> None:
        for _ in range(_ROUNDS):
            entry, revision = await self._read(session)
            if self._member not in entry.beats:
                return
            if await self._write(session, without(entry, self._member), revision) is not None:
                return

    # -- the bucket ----------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"$KV.{_BUCKET}.{self._group}"

    async def _read(self, session: Session) -> tuple[Entry, int]:
        """Return the entry and its revision, or an empty one and 0 if there is none.

        Raises BusError for an entry that cannot be read, such as another version's. The partitions are given up in
        time, and taken again once it has expired: to overwrite it would take them from members that can read it.
        """
        message = await session.request(f"$JS.API.DIRECT.GET.{_STREAM}.{self._key}", timeout_s=_REQUEST_S)
        headers = message.headers or {}
        if headers.get("Status") == "404":
            return Entry(), 0
        try:
            return msgspec.json.decode(message.data, type=Entry), int(headers["Nats-Sequence"])
        except msgspec.MsgspecError as error:
            self._log.warning("lease entry unreadable", error=str(error))
            raise BusError(f"the lease entry of {self._group} cannot be read: {error}") from error

    async def _write(self, session: Session, entry: Entry, revision: int) -> int | None:
        """Return the new revision, None if another member has written since `revision`."""
        message = await session.request(
            self._key,
            msgspec.json.encode(entry),
            headers={"Nats-Expected-Last-Subject-Sequence": str(revision)},
            timeout_s=_REQUEST_S,
        )
        try:
            return check_publish(message)
        except ApiError as error:
            if error.code in _WRONG_SEQUENCE:
                return None
            raise

    async def _listen(self, session: Session) -> None:
        """Once in each session, create the bucket if it is missing and subscribe to what others write into it."""
        if self._listening_on is session:
            return
        await session.api(
            f"STREAM.CREATE.{_STREAM}",
            {
                "name": _STREAM,
                "subjects": [f"$KV.{_BUCKET}.>"],
                "storage": "memory",
                "retention": "limits",
                "discard": "new",
                "max_msgs_per_subject": 1,
                "max_age": int(LEASE_S * NANOSECONDS),
                "duplicate_window": int(LEASE_S * NANOSECONDS),
                "allow_direct": True,
                "allow_rollup_hdrs": True,
                "deny_delete": True,
            },
        )
        self._listening = await session.subscribe(self._key, self._on_write)
        self._listening_on = session
        self._entry = None

    async def _on_write(self, message: Any) -> None:
        entry = msgspec.json.decode(message.data, type=Entry)
        if entry.arrangement() != self._known:
            self._entry = None
            self._wake.set()
