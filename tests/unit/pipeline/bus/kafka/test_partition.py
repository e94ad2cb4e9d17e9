import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from pipeline.bus.kafka.partition import KafkaPartition
from pipeline.bus.protocol import Expired, Outgoing, Progress, Record
from pipeline.errors import BusError


def partition(
    stored: list[bytes] | None = None,
    *,
    prefetch_bytes: int = 1_000,
    is_member: Callable[[], bool] = lambda: True,
    next_position: int | None = None,
    begins: list[int] | None = None,
) -> KafkaPartition:
    """`begins`: what the broker answers, request by request, to the question where the topic begins."""

    async def store(output: Outgoing, _number: int, _progress: Progress | None) -> None:
        assert stored is not None
        stored.append(output.value)

    async def read_progress(_number: int, _key: bytes) -> Progress | None:
        return None

    async def begins_at() -> int:
        assert begins is not None, "nobody should ask"
        return begins.pop(0)

    return KafkaPartition(
        "calls.audio",
        0,
        generation=1,
        prefetch_bytes=prefetch_bytes,
        is_member=is_member,
        store=store,
        read_progress=read_progress,
        next_position=next_position,
        begins_at=begins_at,
    )


def record(position: int, *, size: int = 10) -> Record:
    return Record(
        topic="calls.audio", partition=0, position=position, key=b"", value=bytes(size), headers={}, timestamp_s=0.0
    )


async def taken(of: KafkaPartition, count: int) -> list[int | Expired]:
    """Return the positions of the next records, and what has expired in place of some."""
    records = of.records()
    async with asyncio.timeout(5):
        found = [await anext(records) for _ in range(count)]
    return [one if isinstance(one, Expired) else one.position for one in found]


async def is_waiting(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait({task}, timeout=0.02)
    return not done


async def test_records_come_in_order_without_repeats() -> None:
    held = partition()
    for position in (4, 5, 5, 4, 6):
        await held.put(record(position))
    assert await taken(held, 3) == [4, 5, 6]
    assert held.floor == -1
    for position, floor in ((5, -1), (4, 5), (6, 6)):
        held.ack(position)
        assert held.floor == floor


async def test_held_bytes_are_bounded_and_a_larger_record_passes_alone() -> None:
    held = partition(prefetch_bytes=100)
    await held.put(record(0, size=60))
    second = asyncio.create_task(held.put(record(1, size=500)))
    assert await is_waiting(second)
    assert await taken(held, 1) == [0]
    await second
    third = asyncio.create_task(held.put(record(2, size=10)))
    assert await is_waiting(third)
    assert await taken(held, 2) == [1, 2]
    await third


async def test_a_revoked_partition_drops_its_records_and_acknowledges_nothing() -> None:
    held = partition(prefetch_bytes=100)
    for position in range(3):
        await held.put(record(position, size=30))
    assert await taken(held, 1) == [0]
    blocked = asyncio.create_task(held.put(record(3, size=90)))
    assert await is_waiting(blocked)
    held.revoke()
    await blocked
    held.ack(0)
    assert held.floor == -1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(held.records())


async def test_publishing_for_a_partition_that_was_revoked_is_refused() -> None:
    stored: list[bytes] = []
    held = partition(stored)
    await held.publish(Outgoing("calls.segments", key=b"call", value=b"1", event_id="1"))
    held.revoke()
    with pytest.raises(BusError, match="no longer held"):
        await held.publish(Outgoing("calls.segments", key=b"call", value=b"2", event_id="2"))
    assert stored == [b"1"]


async def test_a_worker_that_stood_still_publishes_once_the_group_confirms_it() -> None:
    stored: list[bytes] = []
    member = False
    held = partition(stored, is_member=lambda: member)
    publishing = asyncio.create_task(held.publish(Outgoing("calls.segments", key=b"call", value=b"1", event_id="1")))
    assert await is_waiting(publishing)
    assert stored == []
    member = True
    await publishing
    assert stored == [b"1"]


async def test_a_worker_that_stood_still_publishes_nothing_after_revocation() -> None:
    stored: list[bytes] = []
    held = partition(stored, is_member=lambda: False)
    publishing = asyncio.create_task(held.publish(Outgoing("calls.segments", key=b"call", value=b"1", event_id="1")))
    assert await is_waiting(publishing)
    held.revoke()
    with pytest.raises(BusError, match="no longer held"):
        await publishing
    assert stored == []


async def test_what_the_topic_no_longer_has_is_told_in_its_place_and_then_done() -> None:
    held = partition(next_position=2, begins=[7])
    for position in (7, 8, 10):  # position 9 is a marker of a transaction
        await held.put(record(position))
    records = held.records()
    assert await anext(records) == Expired("calls.audio", 0, 2, 6)
    assert held.floor == -1, "nothing is done before the handler has returned"
    assert [one.position async for one in limited(records, 3) if isinstance(one, Record)] == [7, 8, 10]
    assert held.floor == 6
    for position in (7, 8):
        held.ack(position)
    assert held.floor == 9


async def test_one_request_tells_of_all_holes_that_are_held() -> None:
    begins = [0, 5]
    held = partition(next_position=0, begins=begins)
    for position in range(0, 10, 2):
        await held.put(record(position))
    assert await taken(held, 5) == [0, 2, 4, 6, 8]
    assert begins == [5]
    await held.put(record(12))
    assert await taken(held, 1) == [12]
    assert begins == []


async def test_a_partition_of_which_everything_has_expired_is_told_at_once() -> None:
    held = partition(next_position=3, begins=[9])
    held.lose(8)
    assert await taken(held, 1) == [Expired("calls.audio", 0, 3, 8)]


async def limited(records: AsyncIterator[Record | Expired], count: int) -> AsyncIterator[Record | Expired]:
    for _ in range(count):
        yield await anext(records)
