"""Freeing what a group has read: for a JetStream store that is there to be forwarded and is read by nobody else."""

from typing import Any

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session
from pipeline.bus.nats.subjects import stream_name
from pipeline.bus.protocol import Subscription
from pipeline.errors import BusError


async def drop_acknowledged(connection: NatsConnection, subscription: Subscription) -> int:
    """Remove the records up to the group's floor in each partition (a consumer each, `GROUP_PARTITION`); how many.

    A producer's repeat of one of them is stored again once the server was restarted. Raises BusError when the server
    is away for longer than the connection waits for it.
    """

    async def drop(session: Session) -> int:
        return sum([await _drop(session, stream_name(topic), subscription.group) for topic in subscription.topics])

    try:
        return await connection.retrying(drop)
    except ApiError as error:
        raise BusError(f"what {subscription.group} has read is not freed: {error}") from error


async def _drop(session: Session, stream: str, group: str) -> int:
    dropped, seen, total = 0, 0, 1
    while seen < total:
        page: dict[str, Any] = await session.api(f"CONSUMER.LIST.{stream}", {"offset": seen})
        consumers, total = page["consumers"] or [], int(page["total"])
        seen = seen + len(consumers) if consumers else total
        for consumer in consumers:
            floor = int(consumer["ack_floor"]["stream_seq"])
            if floor and consumer["name"].rpartition("_")[0] == group:
                body = {"filter": consumer["config"]["filter_subject"], "seq": floor + 1}
                dropped += int((await session.api(f"STREAM.PURGE.{stream}", body))["purged"])
    return dropped
