"""Listing what a JetStream stream holds without its values: the newest record of every subject, or all of some."""

import asyncio
from typing import Any, Final, NamedTuple

from pipeline.bus.nats.connection import NANOSECONDS, Session, SessionLost
from pipeline.bus.nats.subjects import RELEASED_HEADER, SEQ_HEADER, delivery, partition_number

_SILENCE_S: Final = 5.0


class Listed(NamedTuple):
    """A record without its value. `number` and `released` are its progress's `seq` and `released`, -1 without one."""

    subject: str
    position: int
    timestamp_s: float
    number: int
    released: int

    @property
    def partition(self) -> int:
        return partition_number(self.subject.rsplit(".", 2)[1])

    @property
    def place(self) -> str:
        """Partition and token: the same for a key on all topics of stages."""
        _, partition, token = self.subject.rsplit(".", 2)
        return f"{partition}.{token}"


async def newest_by_subject(session: Session, stream: str, subjects: str) -> list[Listed]:
    """Return the newest record of each subject, in the order of the stream. Raises ApiError and SessionLost."""
    return await _listed(session, stream, subjects, "last_per_subject")


async def all_records(session: Session, stream: str, subjects: str) -> list[Listed]:
    """Return the records of `subjects`, in the order of the stream. Raises ApiError and SessionLost."""
    return await _listed(session, stream, subjects, "all")


async def _listed(session: Session, stream: str, subjects: str, policy: str) -> list[Listed]:
    """Let a consumer that ends by itself deliver the headers."""
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    inbox = session.new_inbox()
    listening = await session.subscribe(inbox, arrived.put)
    try:
        config = {
            "deliver_policy": policy,
            "deliver_subject": inbox,
            "filter_subject": subjects,
            "ack_policy": "none",
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": NANOSECONDS,
        }
        request = {"stream_name": stream, "config": config, "action": ""}
        made = await session.api(f"CONSUMER.CREATE.{stream}", request)
        found: list[Listed] = []
        waiting = int(made["num_pending"]) + int(made["delivered"]["consumer_seq"])
        while waiting:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    message = await arrived.get()
            except TimeoutError:
                raise SessionLost(f"no answer to a listing of {stream}") from None
            delivered = delivery(message)
            found.append(_record(message, delivered.position, delivered.timestamp_s))
            waiting = delivered.lag
        return found
    finally:
        await listening.close()


def _record(message: Any, position: int, timestamp_s: float) -> Listed:
    headers = message.headers or {}
    seq, released = (headers.get(name, "") for name in (SEQ_HEADER, RELEASED_HEADER))
    return Listed(
        message.subject,
        position,
        timestamp_s,
        int(seq) if seq.isdecimal() else -1,
        int(released) if released.isdecimal() else -1,
    )
