"""Storing records on JetStream: the checks before and the errors after, and records beside a key's progress."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session, check_publish
from pipeline.bus.nats.subjects import EVENT_ID_HEADER, PROGRESS_HEADERS, KeyLocation, to_wire
from pipeline.bus.protocol import Outgoing
from pipeline.errors import BusError, RecordTooLargeError, StoreFullError

T = TypeVar("T")

EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"
"""With this header the server stores a record only if the last record of its subject is at this position; 0: none."""
ANOTHER_CAME_BEFORE: Final = frozenset({10071, 10164})
"""Error codes of JetStream: the position in `EXPECTED_LAST` is not that of the subject's last record."""
_STORE_FULL: Final = frozenset({10023, 10028, 10047, 10077})
"""Error codes of JetStream: insufficient resources, resource limits exceeded, insufficient storage, store failed."""
_HEADER_LIMIT: Final = 64 * 1024


def wire_headers(record: Outgoing) -> dict[str, str]:
    """Return the record's headers as NATS spells them, with its event id, by which the server drops repeats."""
    headers = to_wire(record.headers)
    headers[EVENT_ID_HEADER] = record.event_id
    return headers


async def storing(
    connection: NatsConnection, record: Outgoing, headers: dict[str, str], send: Callable[[Session], Awaitable[T]]
) -> T:
    """Run `send`, which publishes `record` with `headers`; again on each new session.

    Raises RecordTooLargeError, StoreFullError, and BusError if the server refuses or is lost for good.
    """
    header_bytes = _header_bytes(headers)

    async def checked(session: Session) -> T:
        size_bytes, limit_bytes = len(record.value) + header_bytes, session.max_payload_bytes
        if size_bytes > limit_bytes:
            raise RecordTooLargeError(record.topic, size_bytes, limit_bytes)
        if header_bytes > _HEADER_LIMIT:
            raise RecordTooLargeError(record.topic, header_bytes, _HEADER_LIMIT)
        try:
            return await send(session)
        except ApiError as error:
            raise refusal(error, record.topic) from error

    return await connection.retrying(checked)


async def put_beside(session: Session, location: KeyLocation, value: bytes, headers: dict[str, str]) -> tuple[int, int]:
    """Store a record without progress on a topic whose records have it.

    It repeats the progress of its key's last record, and is stored directly after that record or not at all. Returns
    the position of that record, 0 if there was none, and its own.
    """
    while True:
        last = (await session.request(location.last_record_subject)).headers or {}
        kept = {name: text for name, text in last.items() if name in PROGRESS_HEADERS}
        before = last.get("Nats-Sequence", "0")
        expected = {EXPECTED_LAST: before}
        try:
            answer = await session.request(location.publish_subject, value, headers=headers | kept | expected)
            return int(before), check_publish(answer)
        except ApiError as error:
            if error.code not in ANOTHER_CAME_BEFORE:
                raise


def refusal(error: ApiError, topic: str) -> BusError:
    if error.code in _STORE_FULL:
        return StoreFullError(f"the store is full and accepts no more records for {topic}: {error}")
    return BusError(f"the broker refuses a request for {topic}: {error}")


def _header_bytes(headers: dict[str, str]) -> int:
    """Return their size on the wire: a first line, and each name and text with a colon, a space and a line end."""
    texts = "".join(headers.values())
    n_bytes = len(texts) if texts.isascii() else len(texts.encode())
    return n_bytes + sum(map(len, headers)) + 4 * len(headers) + 12
