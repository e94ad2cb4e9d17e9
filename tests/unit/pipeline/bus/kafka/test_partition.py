import asyncio
from collections.abc import Callable

import pytest

from pipeline.bus.kafka.partition import KafkaPartition
from pipeline.bus.protocol import Outgoing, Progress, Record
from pipeline.errors import BusError


def partition(
    stored: list[bytes] | None = None, *, prefetch_bytes: int = 1_000, is_member: Callable[[], bool] = lambda: True
) -> KafkaPartition:
    async def store(output: Outgoing, _number: int, _progress: Progress | None) -> None:
        assert stored is not None
        stored.append(output.value)

    async def read_progress(_number: int, _key: bytes) -> Progress | None:
        return None

    return KafkaPartition(
        "calls.audio",
        0,
        generation=1,
        prefetch_bytes=prefetch_bytes,
        is_member=is_member,
        store=store,
        read_progress=read_progress,
    )


def record(position: int, *, size: int = 10) -> Record:
    return Record(
        topic="calls.audio", partition=0, position=position, key=b"", value=bytes(size), headers={}, timestamp_s=0.0
    )


async def taken(of: KafkaPartition, count: int) -> list[int]:
    records = of.records()
    async with asyncio.timeout(5):
        return [(await anext(records)).position for _ in range(count)]


async def is_waiting(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait({task}, timeout=0.02)
    return not done


async def test_records_come_in_order_without_repeats() -> None:
    held = partition()
    for position in (4, 5, 5, 4, 9):
        await held.put(record(position))
    assert await taken(held, 3) == [4, 5, 9]
    assert held.floor == -1
    for position, floor in ((5, -1), (4, 5), (9, 9)):
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
