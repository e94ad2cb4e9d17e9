"""The progress index over crashes, lost partitions and compaction, on logs in memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pipeline.bus.kafka.progress import ProgressIndex, progress_topic
from pipeline.bus.protocol import Outgoing, Progress
from pipeline.errors import BusError
from tests.unit.pipeline.bus.kafka.logs import Logs

GROUP, OUT = "transcribe", "calls.segments"
INDEX = progress_topic(GROUP)
PARTITIONS = 2

Opened = Callable[..., Awaitable[ProgressIndex]]


@pytest.fixture
def logs() -> Logs:
    return Logs({OUT: PARTITIONS, INDEX: PARTITIONS, progress_topic("merge"): PARTITIONS})


@pytest.fixture
async def opened(logs: Logs) -> AsyncIterator[Opened]:
    """Open an index and let it read its partitions. All are closed at the end of the test."""
    made: list[ProgressIndex] = []

    async def open_index(writer: str, generation: int, numbers: tuple[int, ...] = (0,)) -> ProgressIndex:
        clients: Any = logs
        index = ProgressIndex(clients, group=GROUP, topic=OUT, writer=writer, send=logs.send)
        made.append(index)
        index.begin(numbers, generation)
        await index.get(numbers[0], b"")
        return index

    yield open_index
    for index in made:
        await index.close()


def progress(seq: int, *, size: int | None = None) -> Progress:
    """Return progress that follows from `seq`. Some states are too large for headers, some have two pieces."""
    size = (9, 6_000, 20, 600_000)[seq % 4] if size is None else size
    return Progress(seq=seq, released=seq + 1, state=bytes([seq % 256]) * size)


async def publish(index: ProgressIndex, key: bytes, carried: Progress, *, number: int = 0) -> None:
    await index.publish(Outgoing(OUT, key=key, value=b"", event_id=str(carried.seq)), number, number, carried)


async def output(index: ProgressIndex, key: bytes, seq: int, *, number: int = 0) -> None:
    await publish(index, key, progress(seq), number=number)


async def test_a_worker_finds_what_its_predecessor_has_just_published(opened: Opened) -> None:
    first = await opened("a", 1)
    for seq in range(4):
        await output(first, b"call", seq)
        assert await (await opened("b", seq + 2)).get(0, b"call") == progress(seq)


async def test_a_worker_finds_progress_that_only_the_index_has(opened: Opened, logs: Logs) -> None:
    first = await opened("a", 1)
    for seq in range(8):
        await output(first, b"call", seq)
        await first.flush()
    logs.compact(INDEX)
    logs.reads = 0
    assert await (await opened("b", 2)).get(0, b"call") == progress(7)
    assert logs.reads < 8


async def test_without_the_index_the_outputs_have_all_but_large_states(opened: Opened, logs: Logs) -> None:
    first = await opened("a", 1)
    for seq in range(3):
        await output(first, b"small", seq)
    for seq in range(4):
        await output(first, b"large", seq)
    await first.flush()
    logs.recreate(INDEX)
    second = await opened("b", 2)
    assert await second.get(0, b"small") == progress(2)
    with pytest.raises(BusError, match="is gone"):
        await second.get(0, b"large")


async def test_a_worker_re_reads_everything_if_the_index_is_recreated(opened: Opened, logs: Logs) -> None:
    index = await opened("a", 1)
    for number in range(20):
        await output(index, f"call-{number}".encode(), 0)
    await index.flush()
    logs.recreate(INDEX)
    index.begin([0], 2)
    assert await index.get(0, b"call-3") == progress(0)
    await index.flush()
    assert await (await opened("b", 3)).get(0, b"call-3") == progress(0)


async def test_the_mark_of_a_worker_that_lost_its_partition_hides_nothing(opened: Opened) -> None:
    zombie = await opened("a", 1)
    await output(zombie, b"mine", 0)
    owner = await opened("b", 2)
    for seq in range(1, 3):
        await output(owner, b"mine", seq)
    await output(owner, b"other", 0)
    await output(zombie, b"mine", 1)
    await zombie.flush()
    third = await opened("c", 3)
    assert await third.get(0, b"mine") == progress(2)
    assert await third.get(0, b"other") == progress(0)


async def test_progress_survives_a_restart_of_the_group_s_generations(opened: Opened) -> None:
    zombie = await opened("a", 57)
    await output(zombie, b"call", 0)
    await zombie.flush()
    owner = await opened("b", 1)
    await output(owner, b"call", 1)
    await output(zombie, b"call", 1)
    await zombie.flush()
    assert await (await opened("c", 2)).get(0, b"call") == progress(1)
    await output(owner, b"call", 2)
    assert await (await opened("d", 3)).get(0, b"call") == progress(2)


async def test_a_partition_that_comes_back_is_read_from_its_known_position(opened: Opened, logs: Logs) -> None:
    index = await opened("a", 1, (0, 1))
    for number in range(50):
        await output(index, f"call-{number}".encode(), 0)
    await index.flush()
    index.begin([1], 2)
    await index.get(1, b"")
    index.begin([0, 1], 3)
    await index.get(0, b"")
    other = await opened("b", 4)
    await output(other, b"call-7", 1)
    await other.flush()
    await output(other, b"call-8", 1)
    logs.reads = 0
    index.begin([0, 1], 5)
    assert await index.get(0, b"call-7") == progress(1)
    assert await index.get(0, b"call-8") == progress(1)
    assert await index.get(0, b"call-9") == progress(0)
    assert logs.reads < 20


async def test_outputs_of_a_lost_partition_do_not_hide_those_of_the_new_owner(opened: Opened) -> None:
    index = await opened("a", 1)
    await output(index, b"call", 0)
    other = await opened("b", 2)
    await output(other, b"call", 1)
    await output(other, b"call", 2)
    await output(index, b"call", 1)
    index.begin([0], 3)
    assert await index.get(0, b"call") == progress(2)


async def test_a_state_replaced_by_a_former_owner_is_found_in_its_outputs(opened: Opened, logs: Logs) -> None:
    zombie = await opened("a", 1)
    for seq in range(2):
        await output(zombie, b"call", seq)
    owner = await opened("b", 2)
    for seq in range(2, 4):
        await output(zombie, b"call", seq)
    await output(owner, b"other", 0)
    await owner.flush()
    logs.compact(INDEX)
    assert await (await opened("c", 3)).get(0, b"call") == progress(3)


async def test_outputs_of_other_groups_are_not_progress(opened: Opened, logs: Logs) -> None:
    clients: Any = logs
    other = ProgressIndex(clients, group="merge", topic=OUT, writer="x", send=logs.send)
    other.begin([0], 1)
    await output(other, b"call", 5)
    await logs.send(OUT, 0, b"call", b"", [("ce_id", b"1")])
    assert await (await opened("b", 2)).get(0, b"call") is None
    await other.close()


async def test_a_failed_send_leaves_the_entry_to_the_next_flush(logs: Logs) -> None:
    broken = False

    async def send(topic: str, *rest: Any) -> int:
        if broken and topic == INDEX:
            raise BusError("the broker is away")
        return await logs.send(topic, *rest)

    clients: Any = logs
    index = ProgressIndex(clients, group=GROUP, topic=OUT, writer="a", send=send)
    index.begin([0], 1)
    await output(index, b"call", 0)
    broken = True
    with pytest.raises(BusError):
        await index.flush()
    broken = False
    await index.flush()
    logs.recreate(OUT)
    second = ProgressIndex(clients, group=GROUP, topic=OUT, writer="b", send=send)
    second.begin([0], 2)
    assert await second.get(0, b"call") == progress(0)
    await index.close()
    await second.close()


async def test_the_mark_waits_for_entries_in_flight(opened: Opened, logs: Logs) -> None:
    gate = asyncio.Event()
    gate.set()

    async def send(topic: str, *rest: Any) -> int:
        await gate.wait()
        return await logs.send(topic, *rest)

    clients: Any = logs
    index = ProgressIndex(clients, group=GROUP, topic=OUT, writer="a", send=send)
    index.begin([0], 1)
    await output(index, b"call", 0)
    gate.clear()
    flushes = [asyncio.create_task(index.flush()) for _ in range(2)]
    await asyncio.sleep(0)
    flushes[0].cancel()
    gate.set()
    await asyncio.gather(*flushes, return_exceptions=True)
    logs.recreate(OUT)
    assert await (await opened("b", 2)).get(0, b"call") == progress(0)
    await index.close()


async def test_the_state_of_an_unstored_output_does_not_replace_the_last_one(opened: Opened, logs: Logs) -> None:
    async def send(topic: str, *rest: Any) -> int:
        if topic == OUT and logs.end(OUT, 0) == 1:
            raise BusError("the broker is away")
        return await logs.send(topic, *rest)

    clients: Any = logs
    index = ProgressIndex(clients, group=GROUP, topic=OUT, writer="a", send=send)
    index.begin([0], 1)
    large = [progress(seq, size=6_000) for seq in range(2)]
    await publish(index, b"call", large[0])
    with pytest.raises(BusError):
        await publish(index, b"call", large[1])
    await index.close()
    logs.compact(INDEX)
    assert await (await opened("b", 2)).get(0, b"call") == large[0]


@pytest.mark.parametrize("seed", range(40))
async def test_no_owner_knows_less_than_earlier_owners_published(opened: Opened, logs: Logs, seed: int) -> None:
    """Owners come and go. Those that lost the partition continue to publish and flush, and compaction runs."""
    chance = random.Random(seed)
    keys = [b"call-1", b"call-2", b"call-3"]
    published = dict.fromkeys(keys, -1)
    known: dict[ProgressIndex, dict[bytes, int]] = {}
    owner: ProgressIndex | None = None
    zombies: list[ProgressIndex] = []
    for generation in range(1, 14):
        if owner is not None:
            zombies.append(owner)
        owner = await opened(f"worker-{chance.randrange(3)}-{generation}", generation)
        known[owner] = {}
        for key in keys:
            found = await owner.get(0, key)
            seq = -1 if found is None else found.seq
            assert seq >= published[key]
            assert found == (None if found is None else progress(seq))
            known[owner][key] = seq
        for _ in range(chance.randrange(20)):
            step = chance.random()
            if step < 0.5:
                key = chance.choice(keys)
                known[owner][key] += 1
                published[key] = known[owner][key]
                await output(owner, key, known[owner][key])
            elif step < 0.7 and zombies:
                zombie, key = chance.choice(zombies), chance.choice(keys)
                known[zombie][key] += 1
                await output(zombie, key, known[zombie][key])
            elif step < 0.8 and zombies:
                await chance.choice(zombies).flush()
            elif step < 0.9:
                await owner.flush()
            else:
                logs.compact(INDEX)
