"""The durable consumer of one group and partition: it keeps the group's floor, and delivers what comes after it.

A worker that hangs leaves pulls open on it, and the server would serve those for as long as they asked for. So a worker
that begins to read a partition makes a consumer with open pulls anew, at its floor: the pulls end with the old one.
Meanwhile a second consumer keeps the floor. A worker that is killed between two of the steps leaves that one, and the
next finds it.
"""

from typing import Any, Final

from pipeline.bus.nats.connection import NANOSECONDS, ApiError, Session
from pipeline.bus.nats.subjects import stream_name, subject_base
from pipeline.clock import SECONDS_PER_DAY

CONSUMER_NOT_FOUND: Final = 10014


def consumer_name(group: str, number: int) -> str:
    return f"{group}_{number}"


class DurableConsumer:
    """The consumer of `group` on partition `number` of `topic`. `begin` raises ApiError and SessionLost."""

    def __init__(self, topic: str, group: str, number: int) -> None:
        self.stream = stream_name(topic)
        self.name = consumer_name(group, number)
        self._filter = f"{subject_base(topic)}.{number}.>"

    async def begin(self, session: Session, *, taking_over: bool) -> bool:
        """Deliver everything after the floor again, in order, before anything new. Numbers of deliveries begin at 1.

        A consumer that is missing is created. With `taking_over`, the pulls that are open on it end: returns True if
        there were any.
        """
        info = await self._create(session, self.name)
        were_open = taking_over and await self._end_pulls(session, info)
        await session.api(f"CONSUMER.RESET.{self.stream}.{self.name}")
        return were_open

    async def _end_pulls(self, session: Session, info: dict[str, Any]) -> bool:
        known = _floor(info)
        floor = known or await self._kept_floor(session)
        if info["num_waiting"]:
            await self._make_anew(session, floor)
            return True
        if floor > known:
            await self._set_floor(session, self.name, floor)
            await self._delete(session, self._keeper)
        return False

    async def _make_anew(self, session: Session, floor: int) -> None:
        if floor:
            await self._create(session, self._keeper)
            await self._set_floor(session, self._keeper, floor)
        await self._delete(session, self.name)
        await self._create(session, self.name)
        if floor:
            await self._set_floor(session, self.name, floor)
            await self._delete(session, self._keeper)

    @property
    def _keeper(self) -> str:
        return f"floor-of-{self.name}"

    async def _kept_floor(self, session: Session) -> int:
        """Return the floor that was kept while the consumer was made anew; 0 if none is kept."""
        try:
            return _floor(await session.api(f"CONSUMER.INFO.{self.stream}.{self._keeper}"))
        except ApiError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise
            return 0

    async def _set_floor(self, session: Session, name: str, floor: int) -> None:
        await session.api(f"CONSUMER.RESET.{self.stream}.{name}", {"seq": floor + 1})

    async def _delete(self, session: Session, name: str) -> None:
        try:
            await session.api(f"CONSUMER.DELETE.{self.stream}.{name}")
        except ApiError as error:
            if error.code != CONSUMER_NOT_FOUND:
                raise

    async def _create(self, session: Session, name: str) -> dict[str, Any]:
        """Create a consumer if there is none of that name. Returns what the server tells of it."""
        config = {
            "name": name,
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "all",
            "ack_wait": int(SECONDS_PER_DAY) * NANOSECONDS,
            "max_deliver": -1,
            "max_ack_pending": -1,
            "filter_subject": self._filter,
        }
        return await session.api(
            f"CONSUMER.CREATE.{self.stream}.{name}.{self._filter}",
            {"stream_name": self.stream, "config": config, "action": ""},
        )


def _floor(info: dict[str, Any]) -> int:
    return int(info["ack_floor"]["stream_seq"])
