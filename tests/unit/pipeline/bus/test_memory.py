import asyncio

from pipeline.bus.feed import FEED_BYTES, FEED_RECORDS
from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from tests.contract.recorder import Recorder


async def test_a_follower_that_lags_too_far_misses_the_oldest_records() -> None:
    bus = MemoryBus(1)
    feed = await bus.follow(("t",))
    for number in range(FEED_RECORDS + 5):
        await bus.publish(Outgoing("t", key=b"k", value=str(number).encode(), event_id=str(number)))
    assert (await anext(feed)).value == b"5"
    await feed.close()


async def test_a_follower_of_large_records_is_bounded_by_bytes() -> None:
    bus = MemoryBus(1, max_record_bytes=FEED_BYTES)
    feed = await bus.follow(("t",))
    value = bytes(FEED_BYTES // 4)
    for number in range(10):
        await bus.publish(Outgoing("t", key=str(number).encode(), value=value, event_id=str(number)))
    assert [(await anext(feed)).key for _ in range(3)] == [b"7", b"8", b"9"]
    await feed.close()


async def test_the_clock_that_is_passed_in_stamps_the_records() -> None:
    bus = MemoryBus(1, clock=lambda: 1234.5)
    feed = await bus.follow(("t",))
    await bus.publish(Outgoing("t", key=b"k", value=b"", event_id="1"))
    assert (await anext(feed)).timestamp_s == 1234.5


async def test_an_unspecified_topic_has_the_bus_s_number_of_partitions() -> None:
    bus = MemoryBus(3)
    await bus.ensure_topics([TopicSpec(name="known", partitions=2, retention_s=1)])
    for topic, partitions in (("unknown", 3), ("known", 2)):
        for number in range(40):
            await bus.publish(Outgoing(topic, key=str(number).encode(), value=b"", event_id=str(number)))
        feed_partitions = await _partitions(bus, topic)
        assert feed_partitions == set(range(partitions))


async def _partitions(bus: MemoryBus, topic: str) -> set[int]:
    recorder = Recorder()
    run = asyncio.create_task(bus.run(Subscription(group="g", topics=(topic,)), recorder))
    await recorder.count(40)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    return {record.partition for record in recorder.records}
