"""Deleting records that a group has read, from a JetStream store that nobody else reads: an edge's, once forwarded."""

from typing import Any

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session
from pipeline.bus.nats.subjects import stream_name
from pipeline.bus.protocol import Subscription
from pipeline.errors import BusError


async def drop_acknowledged(connection: NatsConnection, subscription: Subscription) -> int:
    """Delete the records up to the group's floor in each partition, and return their number.

    The floors are those of the group's consumers (`GROUP_PARTITION`). After a restart of the server, a producer's
    repeat of a deleted record is stored again. Raises BusError if the server is away for longer than the connection
    waits for it.
    """

    async def drop(session: Session) -> int:
        return sum([await _drop(session, stream_name(topic), subscription.group) for topic in subscription.topics])

    try:
        return await connection.retrying(drop)
    except ApiError as error:
        raise BusError(f"records that {subscription.group} has read cannot be deleted: {error}") from error


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
