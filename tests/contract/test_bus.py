"""The contract of a bus. Each test runs on memory, JetStream and Kafka; the brokers are real."""

import asyncio
import base64
import random
import time

import pytest

from pipeline.bus.keys import key_token, partition_of
from pipeline.bus.protocol import Bus, Outgoing, Partition, Progress, Record, Subscription, TopicSpec
from pipeline.errors import BusError, RecordTooLargeError, StoreFullError
from tests.contract.brokers import Broker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, hold, holding

IN, OUT = "calls.segments", "calls.transcripts"
AUDIO = "calls.audio"
PARTITIONS = 4
SUBSCRIPTION = Subscription(group="merge", topics=(IN,), progress_topic=OUT)


async def bus_with_topics(broker: Broker, *, partitions: int = PARTITIONS, max_bytes: int | None = None) -> Bus:
    bus = await broker.bus()
    await bus.ensure_topics(
        [TopicSpec(name=name, partitions=partitions, retention_s=3600, max_bytes=max_bytes) for name in (IN, OUT)]
    )
    return bus


async def publish(bus: Bus, count: int, *, keys: int = 1, first: int = 0, size: int = 0) -> None:
    """Publish records `first`, `first` + 1, …: the value starts with the number, the keys take turns."""
    for number in range(first, first + count):
        value = str(number).encode().ljust(size, b".")
        await bus.publish(Outgoing(IN, key=f"call-{number % keys}".encode(), value=value, event_id=f"in/{number}"))


async def lag_is_zero(bus: Bus) -> None:
    """Wait for the lag to become 0: acknowledgements take a moment."""
    for _ in range(100):
        if await bus.lag(SUBSCRIPTION) == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the lag does not become 0")


def numbers(values: list[bytes]) -> list[int]:
    return [int(value.rstrip(b".")) for value in values]


async def test_a_record_joins_its_key_s_others_in_their_producer_s_partition(broker: Broker, running: Running) -> None:
    bus = await broker.bus()
    await bus.ensure_topics([TopicSpec(name=AUDIO, partitions=7, retention_s=3600)])
    keys = [f"call-{number}".encode() for number in range(20)]
    places = {key: partition_of(base64.urlsafe_b64encode(key), 7) for key in keys}
    recorder = Recorder()
    async with running(bus, Subscription(group="separate", topics=(AUDIO,)), recorder):
        await recorder.until(lambda: len(recorder.held) == 7)
        for key, number in places.items():
            await recorder.partitions[AUDIO, number].publish(Outgoing(AUDIO, key=key, value=b"", event_id=key.decode()))
        await recorder.count(len(keys))
    assert {record.key: record.partition for record in recorder.records} == places
    assert any(partition_of(key_token(key).encode(), 7) != partition for key, partition in places.items())


async def test_a_record_arrives_as_it_was_published(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    headers = {
        "ce_id": "a/1",
        "ce_type": "callstream.stage",
        "content-type": "application/msgpack",
        "traceparent": "00-",
    }
    await bus.publish(Outgoing(IN, key=b"a/b c.>*\x1f\xff", value=b"\x00\xff", event_id="1", headers=headers))
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
    [record] = recorder.records
    assert (record.topic, record.key, record.value) == (IN, b"a/b c.>*\x1f\xff", b"\x00\xff")
    assert dict(record.headers) == headers
    assert record.lag == 0
    assert abs(record.timestamp_s - time.time()) < 60


async def test_records_of_a_key_stay_in_order_and_on_one_partition(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await asyncio.gather(*(_publish_key(bus, f"call-{key}".encode(), 40) for key in range(12)))
        await recorder.count(480)
    for key in range(12):
        assert numbers(recorder.of_key(f"call-{key}".encode())) == list(range(40))
        assert len({record.partition for record in recorder.records if record.key == f"call-{key}".encode()}) == 1
    assert {record.partition for record in recorder.records} == set(range(PARTITIONS))


async def _publish_key(bus: Bus, key: bytes, count: int) -> None:
    for number in range(count):
        await bus.publish(Outgoing(IN, key=key, value=str(number).encode(), event_id=f"{key!r}/{number}"))


async def test_an_event_id_is_stored_once(broker: Broker, running: Running) -> None:
    if not broker.drops_repeats:
        pytest.skip("this broker cannot recognise repeats: stages do, by their numbers")
    bus = await bus_with_topics(broker)
    for number in (0, 1, 0, 1, 2):
        await publish(bus, 1, first=number)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(3)
        await asyncio.sleep(0.1)
    assert numbers(recorder.values) == [0, 1, 2]


async def test_each_group_gets_every_record(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 10, keys=3)
    first, second = Recorder(), Recorder()
    other = Subscription(group="sink", topics=(IN,))
    async with running(bus, SUBSCRIPTION, first), running(bus, other, second):
        await first.count(10)
        await second.count(10)
    assert sorted(numbers(first.values)) == sorted(numbers(second.values)) == list(range(10))


async def test_unacknowledged_records_are_redelivered_before_new_ones(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 10)
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(10)
        for record in first.records[:4]:
            first.ack(record)
    await publish(bus, 5, first=10)
    second = Recorder()
    async with running(bus, SUBSCRIPTION, second):
        await second.count(11)
    assert numbers(second.values) == list(range(4, 15))


async def test_a_held_record_is_redelivered_although_later_ones_were_acked(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 10)
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(10)
        for record in first.records[1:]:
            first.ack(record)
        await asyncio.sleep(0.1)
    second = Recorder()
    async with running(bus, SUBSCRIPTION, second):
        await second.count(10)
        await asyncio.sleep(0.1)
    assert numbers(second.values) == list(range(10))
    await lag_is_zero(bus)


@pytest.mark.parametrize("seed", range(3))
async def test_acknowledgements_in_any_order_count_up_to_the_first_gap(
    broker: Broker, running: Running, seed: int
) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 30)
    order = list(range(30))
    random.Random(seed).shuffle(order)
    done = set(order[:22])
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(30)
        for number in order[:22]:
            first.ack(first.records[number])
        await asyncio.sleep(0.05)
    floor = next(number for number in range(31) if number not in done)
    second = holding()
    async with running(bus, SUBSCRIPTION, second):
        await second.count(30 - floor)
        await asyncio.sleep(0.05)
    assert numbers(second.values) == list(range(floor, 30))


async def test_progress_is_that_of_the_key_s_last_output(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 1)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
        partition = recorder.partitions[IN, recorder.records[0].partition]
        assert await partition.progress(b"call-1") is None
        for seq in range(5):
            progress = Progress(seq=seq, released=seq - 1, state=bytes([0, 255, seq]))
            await partition.publish(Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{seq}"), progress=progress)
            await partition.publish(Outgoing(OUT, key=b"call-2", value=b"", event_id=f"other/{seq}"))
            assert await partition.progress(b"call-1") == progress
        assert await partition.progress(b"call-2") is None


async def test_a_record_without_progress_does_not_change_its_key_s(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 1)
    recorder = holding()
    progress = Progress(seq=7, released=3, state=b"state")
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
        partition = recorder.partitions[IN, recorder.records[0].partition]
        await partition.publish(Outgoing(OUT, key=b"call-1", value=b"numbered", event_id="out/7"), progress=progress)
        for version in range(3):
            await partition.publish(Outgoing(OUT, key=b"call-1", value=b"interim", event_id=f"interim/{version}"))
        assert await partition.progress(b"call-1") == progress
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(2)
        partition = recorder.partitions[IN, recorder.records[1].partition]
        assert await partition.progress(b"call-1") == progress
    stored = [record async for record in bus.stored(OUT, key=b"call-1")]
    assert [record.value for record in stored] == [b"numbered", b"interim", b"interim", b"interim"]


async def test_progress_may_be_large_and_become_small_again(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 1)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
        partition = recorder.partitions[IN, recorder.records[0].partition]
        for seq, size in enumerate([10, 5_000, 2_400_000, 500_000, 1_600_000, 40_000, 0, 0, 70_000]):
            progress = Progress(seq=seq, released=seq, state=random.Random(seq).randbytes(size))
            await partition.publish(Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{seq}"), progress=progress)
            assert await partition.progress(b"call-1") == progress


async def test_progress_outlives_the_worker_that_published_it(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 1)
    before: Progress | None = None
    for seq, size in enumerate([10, 70_000, 10, 10, 1_300_000, 2_300_000, 300_000]):
        recorder = holding()
        async with running(await broker.bus(), SUBSCRIPTION, recorder):
            await recorder.count(1)
            partition = recorder.partitions[IN, recorder.records[0].partition]
            assert await partition.progress(b"call-1") == before
            before = Progress(seq=seq, released=seq, state=random.Random(seq).randbytes(size))
            await partition.publish(Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{seq}"), progress=before)


async def test_outputs_are_stored_in_the_partition_of_their_inputs(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    inputs, outputs = Recorder(), Recorder()
    async with (
        running(bus, SUBSCRIPTION, inputs),
        running(bus, Subscription(group="sink", topics=(OUT,)), outputs),
    ):
        await inputs.until(lambda: len(inputs.held) == PARTITIONS)
        for number in range(PARTITIONS):
            await inputs.partitions[IN, number].publish(
                Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{number}")
            )
        await outputs.count(PARTITIONS)
    assert {record.partition for record in outputs.records} == set(range(PARTITIONS))


async def test_publishing_for_a_revoked_partition_is_refused(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 1)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
    partition = recorder.partitions[IN, recorder.records[0].partition]
    with pytest.raises(BusError, match="no longer held"):
        await partition.publish(Outgoing(OUT, key=b"call-1", value=b"", event_id="late"))
    assert await bus.lag(Subscription(group="sink", topics=(OUT,))) == 0


async def test_a_slow_handler_bounds_what_the_bus_holds(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker, partitions=1)
    size = 20_000
    await publish(bus, 100, size=size)
    gate = asyncio.Event()

    async def wait(record: Record, partition: Partition) -> None:
        await gate.wait()
        partition.ack(record.position)

    slow = Recorder(wait)
    subscription = Subscription(group="slow", topics=(IN,), prefetch_bytes=10 * size)
    async with running(bus, subscription, slow):
        await slow.count(1)
        await asyncio.sleep(0.3)
        assert len(slow.records) == 1
        given_out = await broker.given_out(subscription)
        if given_out is not None:
            assert 1 < given_out * size <= subscription.prefetch_bytes + size
        gate.set()
        await slow.count(100)
    assert numbers(slow.values) == list(range(100))


async def test_a_record_larger_than_the_prefetch_limit_is_delivered(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker, partitions=1)
    sizes = [10, 100_000, 10, 10, 300_000, 300_000, 10]
    for number, size in enumerate(sizes):
        await publish(bus, 1, first=number, size=size)
    recorder = Recorder()
    async with running(bus, Subscription(group="small", topics=(IN,), prefetch_bytes=50_000), recorder):
        await recorder.count(len(sizes))
        await publish(bus, 1, first=7, size=300_000)
        await recorder.count(8)
    assert numbers(recorder.values) == list(range(8))


async def test_workers_of_a_group_share_the_partitions_evenly(broker: Broker, running: Running) -> None:
    buses = [await bus_with_topics(broker) for _ in range(3)]
    recorders = [Recorder() for _ in range(3)]
    async with running(buses[0], SUBSCRIPTION, recorders[0]):
        await recorders[0].until(lambda: len(recorders[0].held) == 4)
        async with running(buses[1], SUBSCRIPTION, recorders[1]):
            await recorders[1].until(lambda: [len(r.held) for r in recorders] == [2, 2, 0])
            async with running(buses[2], SUBSCRIPTION, recorders[2]):
                await recorders[2].until(lambda: sorted(len(r.held) for r in recorders) == [1, 1, 2])
                assert len(set().union(*(recorder.held for recorder in recorders))) == PARTITIONS
                await publish(buses[0], 60, keys=20)
                await recorders[0].until(lambda: sum(len(r.records) for r in recorders) == 60)
                assert all(recorder.records for recorder in recorders)
        await recorders[0].until(lambda: len(recorders[0].held) == 4)
    assert sorted(numbers([value for recorder in recorders for value in recorder.values])) == list(range(60))


async def test_a_worker_that_stays_takes_over_from_one_that_leaves(broker: Broker, running: Running) -> None:
    first_bus, second_bus = await bus_with_topics(broker), await bus_with_topics(broker)
    leaving, staying = holding(), Recorder()
    async with running(second_bus, SUBSCRIPTION, staying):
        async with running(first_bus, SUBSCRIPTION, leaving):
            await leaving.until(lambda: len(leaving.held) == len(staying.held) == 2)
            await publish(first_bus, 40, keys=20)
            await leaving.until(lambda: len(leaving.records) + len(staying.records) == 40)
            unacknowledged = set(numbers(leaving.values))
        await staying.count(40)
    assert unacknowledged <= set(numbers(staying.values))
    assert sorted(numbers(staying.values)) == list(range(40))


class Afresh(Recorder):
    """Acknowledges nothing, and keeps the records since each partition was last assigned."""

    def __init__(self) -> None:
        super().__init__(hold)
        self.since: dict[int, list[bytes]] = {}

    async def on_assigned(self, partition: Partition) -> None:
        self.since[partition.number] = []
        await super().on_assigned(partition)

    async def on_record(self, record: Record, partition: Partition) -> None:
        self.since[partition.number].append(record.value)
        await super().on_record(record, partition)

    @property
    def values_held(self) -> list[int]:
        return sorted(numbers([value for _, number in self.held for value in self.since[number]]))


async def test_every_rebalance_redelivers_from_the_first_unacknowledged_record(
    broker: Broker, running: Running
) -> None:
    first_bus, second_bus = await bus_with_topics(broker), await bus_with_topics(broker)
    await publish(first_bus, 40, keys=20)
    staying = Afresh()
    async with running(first_bus, SUBSCRIPTION, staying):
        await staying.count(40)
        for _ in range(3):
            coming = Afresh()
            async with running(second_bus, SUBSCRIPTION, coming):
                await coming.until(lambda: len(coming.held) == 2)  # noqa: B023  # awaited within the turn
                await coming.until(lambda: sorted(staying.values_held + coming.values_held) == list(range(40)))  # noqa: B023
            await staying.until(lambda: staying.values_held == list(range(40)))


async def test_a_worker_gets_the_same_partition_numbers_of_all_topics(broker: Broker, running: Running) -> None:
    buses = [await bus_with_topics(broker) for _ in range(2)]
    recorders = [Recorder(), Recorder()]
    both = Subscription(group="sink", topics=(IN, OUT))
    async with running(buses[0], both, recorders[0]), running(buses[1], both, recorders[1]):
        await recorders[0].until(lambda: len(recorders[0].held) == len(recorders[1].held) == 4)
        for recorder in recorders:
            held = {topic: {n for t, n in recorder.held if t == topic} for topic in (IN, OUT)}
            assert held[IN] == held[OUT]


async def test_acknowledgements_after_revocation_do_nothing(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 5)
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(5)
    for record in first.records:
        first.ack(record)
    assert await bus.lag(SUBSCRIPTION) == 5
    second = Recorder()
    async with running(bus, SUBSCRIPTION, second):
        await second.count(5)


async def test_partitions_are_assigned_before_their_records_and_revoked_at_the_end(
    broker: Broker, running: Running
) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 40, keys=20)
    recorder = Recorder()  # asserts that the partition of each record is assigned
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(40)
    assigned = [(IN, number) for kind, _, number in recorder.log if kind == "assigned"]
    revoked = [(IN, number) for kind, _, number in recorder.log if kind == "revoked"]
    assert sorted(assigned) == sorted(revoked) == [(IN, number) for number in range(PARTITIONS)]


async def test_a_full_store_refuses_and_loses_nothing(broker: Broker, running: Running) -> None:
    if not broker.limits_topics:
        pytest.skip("this broker has no topic limit that refuses: it would delete the oldest records")
    bus = await bus_with_topics(broker, max_bytes=200_000)
    accepted = 0
    with pytest.raises(StoreFullError):  # noqa: PT012 - which record is refused is the question
        for number in range(100):
            await publish(bus, 1, first=number, size=10_000)
            accepted += 1
    assert 10 < accepted <= 20
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(accepted)
        with pytest.raises(StoreFullError):
            await publish(bus, 1, first=accepted, size=10_000)
    assert numbers(recorder.values) == list(range(accepted))


async def test_a_record_that_is_too_large_is_refused_and_later_ones_pass(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    with pytest.raises(RecordTooLargeError) as refusal:
        await publish(bus, 1, size=1_200_000)
    assert not refusal.value.retryable
    await publish(bus, 1, first=1)
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
        with pytest.raises(RecordTooLargeError):
            await recorder.partitions[IN, 0].publish(Outgoing(OUT, key=b"k", value=b"x" * 1_200_000, event_id="large"))
    assert numbers(recorder.values) == [1]


async def test_a_handler_s_exception_ends_the_run_and_the_next_gets_its_records(
    broker: Broker, running: Running
) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 5)

    async def fail_at_two(record: Record, partition: Partition) -> None:
        if record.value == b"2":
            raise ArithmeticError("boom")
        partition.ack(record.position)

    failing = Recorder(fail_at_two)
    with pytest.raises(ArithmeticError, match="boom"):
        async with asyncio.timeout(10):
            await bus.run(SUBSCRIPTION, failing)
    assert failing.held == set()
    recorder = Recorder()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(3)
        await asyncio.sleep(0.05)
    assert numbers(recorder.values) == [2, 3, 4]


async def test_a_feed_has_what_is_published_after_it_was_opened(broker: Broker) -> None:
    bus = await bus_with_topics(broker)
    await publish(bus, 5, keys=2)
    everything = await bus.follow((IN, OUT))
    one_call = await bus.follow((IN,), key=b"call-1")
    await publish(bus, 6, first=5, keys=2)
    await bus.publish(Outgoing(OUT, key=b"call-1", value=b"99", event_id="out", headers={"ce_type": "t"}))
    seen = [await asyncio.wait_for(anext(everything), 5) for _ in range(7)]
    for key, expected in ((b"call-0", [6, 8, 10]), (b"call-1", [5, 7, 9])):
        assert numbers([record.value for record in seen if (record.topic, record.key) == (IN, key)]) == expected
    assert [(r.value, r.key, dict(r.headers)) for r in seen if r.topic == OUT] == [(b"99", b"call-1", {"ce_type": "t"})]
    mine = [await asyncio.wait_for(anext(one_call), 5) for _ in range(3)]
    assert numbers([record.value for record in mine]) == [5, 7, 9]
    await everything.close()
    assert [record async for record in everything] == []
    await one_call.close()


async def test_lag_counts_unacknowledged_records(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    assert await bus.lag(SUBSCRIPTION) == 0
    await publish(bus, 10, keys=5)
    assert await bus.lag(SUBSCRIPTION) == 10
    first = holding()
    async with running(bus, SUBSCRIPTION, first):
        await first.count(10)
        assert await bus.lag(SUBSCRIPTION) == 10
        for record in first.records:
            first.ack(record)
        await lag_is_zero(bus)
    await publish(bus, 2, first=10, keys=5)
    assert await bus.lag(SUBSCRIPTION) == 2
    by_partition = await bus.lag_by_partition(SUBSCRIPTION)
    assert sum(by_partition.values()) == 2
    assert {topic for topic, _ in by_partition} == set(SUBSCRIPTION.topics)
    assert {number for (_, number), lag in by_partition.items() if lag} <= {r.partition for r in first.records}


async def test_topics_that_exist_keep_their_partitions(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker, partitions=1)
    again = await bus_with_topics(broker, partitions=8)
    await publish(again, 20, keys=20)
    recorder = Recorder()
    async with running(again, SUBSCRIPTION, recorder):
        await recorder.count(20)
    assert {record.partition for record in recorder.records} == {0}
    assert await bus.lag(SUBSCRIPTION) == 0
