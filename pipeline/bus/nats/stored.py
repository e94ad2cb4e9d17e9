"""Reading the records of a JetStream stream without a consumer: direct gets by position, singly or in batches (ADR-31).

The server keeps no state of the reader, so a restart of it between two batches makes no difference.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session, SessionLost
from pipeline.bus.nats.subjects import direct_record, key_spellings, stream_name, subject_base
from pipeline.bus.protocol import Record
from pipeline.errors import BusError

BATCH_BYTES: Final = 1_000_000
"""A batch ends with the record that reaches this. One batch at a time is in memory."""
_BATCH_RECORDS: Final = 1000
_SILENCE_S: Final = 5.0
_END_OF_BATCH: Final = "204"
_NOT_FOUND: Final = "404"


async def stored_records(
    connection: NatsConnection, topic: str, key: bytes | None, start: tuple[int, int] | None = None
) -> AsyncIterator[Record]:
    """Yield the records that the stream holds when iteration begins, in the stream's order. See `Bus.stored`."""

    async def last_position(session: Session) -> int:
        try:
            return int((await session.api(f"STREAM.INFO.{stream_name(topic)}"))["state"]["last_seq"])
        except ApiError as error:
            raise BusError(f"there is no topic {topic}: {error}") from error

    last = await connection.retrying(last_position)
    tokens = ["*"] if key is None else key_spellings(topic, key)
    number, first = ("*", 1) if start is None else start
    readers = [_matching(connection, topic, f"{subject_base(topic)}.{number}.{token}", first, last) for token in tokens]
    heads = {reader: await anext(reader, None) for reader in readers}
    while found := [(head.position, reader, head) for reader, head in heads.items() if head is not None]:
        _, reader, head = min(found, key=lambda entry: entry[0])
        yield head
        heads[reader] = await anext(reader, None)


async def record_at(connection: NatsConnection, topic: str, position: int) -> Record | None:
    """Return the record at `position`, None if the stream does not hold it."""
    if position < 1:
        return None

    async def get(session: Session) -> Record | None:
        return await _record(session, topic, {"seq": position})

    return await connection.retrying(get)


async def record_at_or_after(session: Session, topic: str, subjects: str, position: int) -> Record | None:
    """Return the first record of `subjects` from `position` on, None if there is none. Raises SessionLost."""
    return await _record(session, topic, {"seq": max(1, position), "next_by_subj": subjects})


async def _record(session: Session, topic: str, which: dict[str, Any]) -> Record | None:
    message = await session.request(f"$JS.API.DIRECT.GET.{stream_name(topic)}", json.dumps(which).encode())
    status = _status(message.headers)
    if status == _NOT_FOUND:
        return None
    if status is not None:
        raise SessionLost(f"{topic} answers a read with {status}")
    return direct_record(topic, message)


async def _matching(
    connection: NatsConnection, topic: str, subject: str, first: int, last: int
) -> AsyncIterator[Record]:
    position = max(1, first)
    while position <= last:

        async def batch(session: Session, position: int = position) -> list[Record]:
            return await _batch(session, topic, subject, position)

        records = await connection.retrying(batch)
        if not records:
            return
        for record in records:
            if record.position > last:
                return
            yield record
        position = records[-1].position + 1


async def _batch(session: Session, topic: str, subject: str, position: int) -> list[Record]:
    """Return the next records of `subject` from `position` on; none at the end. Raises SessionLost."""
    records: list[Record] = []
    arrived: asyncio.Queue[Any] = asyncio.Queue()
    inbox = session.new_inbox()
    listening = await session.subscribe(inbox, arrived.put)
    lost = asyncio.ensure_future(session.lost.wait())
    try:
        body = {"seq": position, "next_by_subj": subject, "batch": _BATCH_RECORDS, "max_bytes": BATCH_BYTES}
        await session.publish(f"$JS.API.DIRECT.GET.{stream_name(topic)}", json.dumps(body).encode(), reply=inbox)
        while True:
            message = await _next(arrived, lost)
            status = _status(message.headers)
            if status in (_END_OF_BATCH, _NOT_FOUND):
                return records
            if status is not None:
                raise SessionLost(f"{topic} answers a read with {status}")
            if records and int(message.headers["Nats-Last-Sequence"]) != records[-1].position:
                raise SessionLost(f"a record of {topic} after {records[-1].position} was lost on the way")
            records.append(direct_record(topic, message))
    finally:
        lost.cancel()
        await listening.close()


async def _next(arrived: "asyncio.Queue[Any]", lost: "asyncio.Future[Any]") -> Any:
    """Return the next message. Raises SessionLost if the connection ends or nothing arrives for `_SILENCE_S`."""
    taking = asyncio.ensure_future(arrived.get())
    await asyncio.wait({taking, lost}, timeout=_SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if taking.done():
        return taking.result()
    taking.cancel()
    raise SessionLost("the connection was lost" if lost.done() else "no answer to a read in time")


def _status(headers: Mapping[str, str] | None) -> str | None:
    """Return the status of an answer that is not a record, None for a record, which may have such a header too."""
    given = headers or {}
    return None if "Nats-Sequence" in given else given.get("Status", "")
