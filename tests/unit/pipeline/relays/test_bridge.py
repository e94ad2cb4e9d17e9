"""The bridge between two memory buses, with a target that fails as the test says."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Record
from pipeline.errors import BusError, ConfigurationError, StoreFullError
from pipeline.relays import bridge
from pipeline.relays.bridge import Bridge, edge_specs, ensure_edge, event_id
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.status import DeadLetter

LIVE, BATCH = bridge.LANES["live"], bridge.LANES["batch"]
CALLS = [f"call-{number}".encode() for number in range(6)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_PAUSES_S", (0.001, 0.005))


class Target(MemoryBus):
    """Keeps records in order. `fault` returns an error to raise before a record is stored, `after` one afterwards."""

    def __init__(self, *, max_record_bytes: int = 8_000_000) -> None:
        super().__init__(max_record_bytes=max_record_bytes)
        self.kept: list[tuple[str, bytes, bytes, Mapping[str, str]]] = []
        self.event_ids: list[str] = []
        self.tries = 0
        self.slowness_s = 0.0005
        self.fault: Callable[[bytes], BaseException | None] = lambda key: None
        self.after: Callable[[bytes], BaseException | None] = lambda key: None

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        self.tries += 1
        if self.slowness_s:
            await asyncio.sleep(random.random() * self.slowness_s)
        if (error := self.fault(record.key)) is not None:
            raise error
        await super().publish(record, partition=partition)
        self.kept.append((record.topic, record.key, record.value, record.headers))
        self.event_ids.append(record.event_id)
        if (error := self.after(record.key)) is not None:
            raise error

    def of(self, key: bytes) -> list[bytes]:
        return [value for _, stored_key, value, _ in self.kept if stored_key == key]


async def edge() -> MemoryBus:
    bus = MemoryBus()
    await ensure_edge(bus, edge_specs(partitions=4, retention_days=7, store_bytes=10**9))
    return bus


async def produce(bus: MemoryBus, key: bytes, numbers: range, topic: str = topics.AUDIO) -> None:
    for number in numbers:
        ce_id = f"default/{key.decode()}/{number}"
        headers = {"ce_id": ce_id, "ce_source": "pbx", "ce_callseq": str(number), "content-type": "audio/x"}
        await bus.publish(Outgoing(topic, key=key, value=b"%d" % number, event_id=ce_id, headers=headers))


@contextlib.asynccontextmanager
async def running(source: MemoryBus, target: Target, **limits: int) -> AsyncIterator[Bridge]:
    made = Bridge(source, target, metrics=Metrics(), **limits)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.005)


async def all_acknowledged(source: MemoryBus, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await source.lag(LIVE) or await source.lag(BATCH):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.005)


def expected(n: int) -> list[bytes]:
    return [b"%d" % number for number in range(n)]


async def test_records_arrive_unchanged_in_the_topic_of_their_source() -> None:
    source, target = await edge(), Target()
    await produce(source, b"live", range(2))
    await produce(source, b"backfill", range(1), topics.AUDIO_BATCH)
    async with running(source, target) as made:
        await all_acknowledged(source)
    assert sorted(target.kept, key=lambda stored: stored[1:3]) == [
        (
            topic,
            key,
            value,
            {
                "ce_id": f"default/{key.decode()}/{value.decode()}",
                "ce_source": "pbx",
                "ce_callseq": value.decode(),
                "content-type": "audio/x",
            },
        )
        for topic, key, value in [
            (topics.AUDIO_BATCH, b"backfill", b"0"),
            (topics.AUDIO, b"live", b"0"),
            (topics.AUDIO, b"live", b"1"),
        ]
    ]
    assert made.records == 3


async def test_a_record_is_acknowledged_only_once_the_target_has_stored_it() -> None:
    source, target = await edge(), Target()
    target.fault = lambda key: BusError("away")
    await produce(source, b"call", range(3))
    async with running(source, target):
        await until(lambda: target.tries > 5)
        assert await source.lag(LIVE) == 3
        target.fault = lambda key: None
        await all_acknowledged(source)
    assert target.of(b"call") == expected(3)


@pytest.mark.parametrize("seed", range(5))
async def test_random_failures_lose_nothing_and_keep_each_key_s_order(seed: int) -> None:
    chance = random.Random(seed)
    source, target = await edge(), Target()

    def refuse(key: bytes) -> BaseException | None:
        return BusError("lost the connection") if chance.random() < 0.2 else None

    target.fault = target.after = refuse
    for key in CALLS:
        await produce(source, key, range(40))
    async with running(source, target):
        await all_acknowledged(source)
    for key in CALLS:
        assert list(dict.fromkeys(target.of(key))) == expected(40)
        # A repeat follows its first copy at once, before the next record.
        assert target.of(key) == sorted(target.of(key), key=int)


async def test_killed_bridges_lose_nothing_and_repeat_records_with_their_ids() -> None:
    source, target = await edge(), Target()
    for key in CALLS:
        await produce(source, key, range(60))
    kills = 0
    while target.tries < len(CALLS) * 60:
        async with running(source, target):
            want = target.tries + 37
            await until(lambda want=want: target.tries >= want or target.tries >= len(CALLS) * 60)  # type: ignore[misc]
        kills += 1
    async with running(source, target):
        await all_acknowledged(source)
    assert kills > 3
    for key in CALLS:
        assert list(dict.fromkeys(target.of(key))) == expected(60)
    copies = Counter(zip(target.event_ids, (stored[3]["ce_id"] for stored in target.kept), strict=True))
    assert len(copies) == len({ids[0] for ids in copies}) == len({ids[1] for ids in copies}) == len(CALLS) * 60
    assert max(copies.values()) > 1, "nothing was repeated: the kills hit nothing"


async def test_the_budget_bounds_the_bytes_held_while_the_target_is_away() -> None:
    source, target = await edge(), Target()
    target.fault = lambda key: BusError("away")
    for key in CALLS:
        for number in range(50):
            await source.publish(Outgoing(topics.AUDIO, key=key, value=bytes(1000), event_id=f"{key!r}/{number}"))
    async with running(source, target, budget_bytes=20_000) as made:
        await until(lambda: target.tries > 30)
        [held] = [
            sample.value
            for family in made.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "callstream_inflight_bytes"
        ]
        assert 0 < held <= 20_000


async def test_a_key_that_cannot_be_stored_does_not_hold_up_the_others() -> None:
    source, target = await edge(), Target()
    target.fault = lambda key: StoreFullError("no room") if key == CALLS[0] else None
    for key in CALLS[:3]:
        await produce(source, key, range(5))
    async with running(source, target):
        await until(lambda: target.of(CALLS[1]) == target.of(CALLS[2]) == expected(5))
    assert target.of(CALLS[0]) == []


async def test_a_record_too_large_for_the_target_becomes_a_dead_letter_at_the_edge() -> None:
    source, target = await edge(), Target(max_record_bytes=10_000)
    await produce(source, b"call", range(2))
    await source.publish(Outgoing(topics.AUDIO, key=b"call", value=bytes(20_000), event_id="large"))
    await produce(source, b"call", range(2, 4))
    feed = await source.follow((topics.DEAD_LETTERS,))
    async with running(source, target):
        await all_acknowledged(source)
        letter = msgspec.json.decode((await anext(feed)).value, type=DeadLetter)
    assert (letter.stage, letter.error, letter.key) == ("bridge", "RecordTooLargeError", b"call")
    assert letter.value == bytes(20_000)
    assert target.of(b"call") == expected(4)


@pytest.mark.parametrize("budget_bytes", [1, 1_000_000])
async def test_no_record_overtakes_one_that_failed_unexpectedly(budget_bytes: int) -> None:
    source, target = await edge(), Target()
    target.slowness_s = 0.0
    failures = iter([ConfigurationError("the password was changed"), ZeroDivisionError("a defect")])
    tries = iter(range(10_000))
    target.fault = lambda key: next(failures, None) if next(tries) % 4 == 2 else None
    await produce(source, b"call", range(30))
    async with running(source, target, budget_bytes=budget_bytes):
        await all_acknowledged(source)
    assert target.of(b"call") == expected(30)
    assert next(failures, None) is None


async def test_existing_topics_at_the_edge_keep_their_limits() -> None:
    source = MemoryBus()
    mine = edge_specs(partitions=2, retention_days=1, store_bytes=1000)[:1]
    await source.ensure_topics(mine)
    await ensure_edge(source, edge_specs(partitions=8, retention_days=7, store_bytes=10**9))
    states = await source.describe((topics.AUDIO, topics.AUDIO_BATCH, topics.DEAD_LETTERS))
    assert [state.partitions for state in states] == [2, 8, 8]


def test_only_the_same_record_has_the_same_id() -> None:
    record = Record(
        topic=topics.AUDIO,
        partition=0,
        position=1,
        key=b"call",
        value=b"audio",
        headers={"ce_id": "1", "ce_source": "a"},
        timestamp_s=0.0,
    )
    others = [
        msgspec.structs.replace(record, key=b"cal"),
        msgspec.structs.replace(record, value=b"audi"),
        msgspec.structs.replace(record, topic=topics.AUDIO_BATCH),
        msgspec.structs.replace(record, headers={"ce_id": "1", "ce_source": "b"}),
    ]
    assert len({event_id(each) for each in [record, *others]}) == 5
    again = msgspec.structs.replace(record, position=7, partition=2, headers={"ce_source": "a", "ce_id": "1"})
    assert event_id(again) == event_id(record)
