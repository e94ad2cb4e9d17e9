"""Deleting records that groups have read, from a JetStream stream."""

from collections.abc import Iterable
from typing import Any

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session
from pipeline.bus.nats.subjects import stream_name
from pipeline.bus.protocol import Subscription
from pipeline.errors import BusError


async def drop_acknowledged(connection: NatsConnection, subscription: Subscription) -> int:
    """Delete the records up to the group's floor in each partition, and return their number.

    For a store that nobody else reads: an edge's, once forwarded. The floors are those of the group's consumers
    (`GROUP_PARTITION`). After a restart of the server, a producer's repeat of a deleted record is stored again. Raises
    BusError if the server is away for longer than the connection waits for it.
    """

    async def drop(session: Session) -> int:
        return sum([await _drop(session, stream_name(topic), subscription.group) for topic in subscription.topics])

    try:
        return await connection.retrying(drop)
    except ApiError as error:
        raise BusError(f"records that {subscription.group} has read cannot be deleted: {error}") from error


async def floors(session: Session, stream: str, groups: Iterable[str]) -> dict[int, int]:
    """Return the position up to which all of `groups` have read each partition. Raises ApiError.

    A partition that one of them never read is not among them.
    """
    wanted = set(groups)
    found: dict[int, dict[str, int]] = {}
    for consumer in await _consumers(session, stream):
        group, _, partition = consumer["name"].rpartition("_")
        if group in wanted:
            found.setdefault(int(partition), {})[group] = int(consumer["ack_floor"]["stream_seq"])
    return {partition: min(by_group.values()) for partition, by_group in found.items() if by_group.keys() == wanted}


async def purge(session: Session, stream: str, subjects: str, *, before: int) -> int:
    """Delete the records of `subjects` that are before a position, and return their number. Raises ApiError."""
    body = {"filter": subjects, "seq": before}
    return int((await session.api(f"STREAM.PURGE.{stream}", body))["purged"])


async def _drop(session: Session, stream: str, group: str) -> int:
    dropped = 0
    for consumer in await _consumers(session, stream):
        floor = int(consumer["ack_floor"]["stream_seq"])
        if floor and consumer["name"].rpartition("_")[0] == group:
            dropped += await purge(session, stream, consumer["config"]["filter_subject"], before=floor + 1)
    return dropped


async def _consumers(session: Session, stream: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    total = 1
    while len(found) < total:
        page: dict[str, Any] = await session.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        consumers, total = page["consumers"] or [], int(page["total"])
        if not consumers:
            break
        found.extend(consumers)
    return found
