"""What operators' commands need of a bus: records put back where they were, and descriptions of topics."""

import asyncio
import base64

from pipeline.bus.keys import partition_of
from pipeline.bus.protocol import Bus, Outgoing, Progress, Subscription, TopicSpec
from tests.contract.brokers import Broker
from tests.contract.conftest import Running
from tests.contract.recorder import Recorder, holding

IN, OUT, AUDIO = "calls.segments", "calls.transcripts", "calls.audio"
PARTITIONS = 4
SUBSCRIPTION = Subscription(group="merge", topics=(IN,), progress_topic=OUT)


async def bus_with_topics(broker: Broker) -> Bus:
    bus = await broker.bus()
    names = (IN, OUT, AUDIO)
    await bus.ensure_topics([TopicSpec(name=name, partitions=PARTITIONS, retention_s=3600) for name in names])
    return bus


async def test_a_record_is_put_back_into_the_partition_that_it_came_from(broker: Broker) -> None:
    bus = await bus_with_topics(broker)
    for number in range(PARTITIONS):
        await bus.publish(Outgoing(IN, key=b"call-1", value=b"", event_id=f"again/{number}"), partition=number)
    assert sorted([record.partition async for record in bus.stored(IN, key=b"call-1")]) == list(range(PARTITIONS))


async def test_a_record_is_put_back_next_to_its_producer_s_others(broker: Broker) -> None:
    bus = await bus_with_topics(broker)
    keys = [f"call-{number}".encode() for number in range(12)]
    places = {key: partition_of(base64.urlsafe_b64encode(key), PARTITIONS) for key in keys}
    for key, number in places.items():
        await bus.publish(
            Outgoing(AUDIO, key=key, value=b"", event_id=key.decode(), headers={"ce_id": "x"}), partition=number
        )
    assert {record.key: record.partition async for record in bus.stored(AUDIO)} == places


async def test_progress_stays_when_a_record_is_put_back(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await bus.publish(Outgoing(IN, key=b"call-1", value=b"", event_id="in"), partition=1)
    recorder = holding()
    async with running(bus, SUBSCRIPTION, recorder):
        await recorder.count(1)
        partition = recorder.partitions[IN, 1]
        await bus.publish(Outgoing(OUT, key=b"call-1", value=b"back", event_id="back/first"), partition=1)
        assert await partition.progress(b"call-1") is None
        for seq, size in enumerate([10, 70_000, 300_000, 10]):
            progress = Progress(seq=seq, released=seq, state=bytes([seq]) * size)
            await partition.publish(Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{seq}"), progress=progress)
            for time in range(2):
                await bus.publish(
                    Outgoing(OUT, key=b"call-1", value=b"back", event_id=f"back/{seq}/{time}"), partition=1
                )
            assert await partition.progress(b"call-1") == progress
    again = holding()
    async with running(await broker.bus(), SUBSCRIPTION, again):
        await again.count(1)
        assert await again.partitions[IN, 1].progress(b"call-1") == progress


async def test_progress_published_while_records_are_put_back_is_kept(broker: Broker, running: Running) -> None:
    bus = await bus_with_topics(broker)
    await bus.publish(Outgoing(IN, key=b"call-1", value=b"", event_id="in"), partition=1)
    recorder, outputs = holding(), Recorder()
    sink = Subscription(group="sink", topics=(OUT,))
    async with running(bus, SUBSCRIPTION, recorder), running(bus, sink, outputs):
        await recorder.count(1)
        partition = recorder.partitions[IN, 1]

        async def advance() -> None:
            for seq in range(40):
                progress = Progress(seq=seq, released=seq, state=bytes([seq]))
                await partition.publish(
                    Outgoing(OUT, key=b"call-1", value=b"", event_id=f"out/{seq}"), progress=progress
                )
                assert await partition.progress(b"call-1") == progress

        async def put_back() -> None:
            for number in range(40):
                await bus.publish(Outgoing(OUT, key=b"call-1", value=b"back", event_id=f"back/{number}"), partition=1)

        await asyncio.gather(advance(), put_back(), put_back_by_another(await broker.bus()))
        await outputs.count(120)


async def put_back_by_another(bus: Bus) -> None:
    for number in range(40):
        await bus.publish(Outgoing(OUT, key=b"call-1", value=b"back", event_id=f"other/{number}"), partition=1)


async def test_topics_are_described_as_the_broker_has_them(broker: Broker) -> None:
    bus = await bus_with_topics(broker)
    await bus.ensure_topics([TopicSpec(name=OUT, partitions=9, retention_s=60)])
    for number in range(10):
        await bus.publish(Outgoing(IN, key=f"call-{number}".encode(), value=bytes(1000), event_id=str(number)))
    held, empty = await bus.describe((IN, "calls.nothing", OUT))
    assert [held.name, empty.name] == [IN, OUT]
    assert held.partitions == empty.partitions == PARTITIONS
    assert held.retention_s == 3600
    assert (held.max_bytes, held.replicas, held.compacted) == (None, 1, False)
    assert held.records in (10, None)
    assert held.size_bytes is None or held.size_bytes >= 10_000
    assert empty.records in (0, None)
