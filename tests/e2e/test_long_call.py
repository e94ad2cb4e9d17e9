"""A call of hours on a broker with default limits: its transcript, and its checkpoint, are larger than a record."""

import asyncio
import contextlib
import random
from collections.abc import Sequence

import msgspec
import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus, Outgoing
from pipeline.bus.security import BusSecurity
from schemas import cloudevents, envelope, topics
from schemas.segments import SegmentRecord
from stages.merge.stage import MergeStage
from tests.support.brokers.kafka_clients import SUMMARY, Consumer
from tests.support.processes.workers import Workers
from tests.unit.stages.merge.scripted import CALL, closed, feed, numbered, on_bus, opened, progress, segment

RECORD_BYTES = 1_048_576
"""What a broker takes by default."""
HOURS = 3
SEGMENT_S, SEGMENT_WORDS = 10.0, 8

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]


def talk() -> list[SegmentRecord]:
    """Three hours of two people who take turns every ten seconds; five minutes before the end it seemed to be over.

    The words are long and hardly compress: what is kept of three hours of them is as much as of a day's talk.
    """
    chance = random.Random(7)
    records: list[SegmentRecord] = [opened("agent", "customer")]
    for index in range(int(HOURS * 3600 / SEGMENT_S)):
        start_s = index * SEGMENT_S
        if start_s == HOURS * 3600 - 300:
            records.append(closed(start_s, provisional=True, utterances=index))
        text = " ".join(chance.randbytes(64).hex() for _ in range(SEGMENT_WORDS))
        records.append(segment(f"segment-{index}", index % 2, start_s, text, word_s=0.9))
        records.append(progress(start_s + SEGMENT_S, start_s + SEGMENT_S))
    records.append(closed(HOURS * 3600.0, revision=2, utterances=index + 1))
    return numbered(records)


async def publish(bus: Bus, records: Sequence[SegmentRecord]) -> None:
    """In order, many at a time; the first alone, for which the bus looks up the topic."""
    await publish_one(bus, records[0])
    for at in range(1, len(records), 200):
        await asyncio.gather(*(publish_one(bus, record) for record in records[at : at + 200]))


async def publish_one(bus: Bus, record: SegmentRecord) -> None:
    event_id = f"transcribe.1/{record.seq}"
    headers = cloudevents.headers(
        event_id=event_id,
        event_type="callstream.stage",
        call=CALL,
        seq=record.seq,
        source="callstream/transcribe",
        content_type=envelope.CONTENT_TYPE,
    )
    await bus.publish(
        Outgoing(topics.SEGMENTS, key=CALL.key, value=envelope.encode(record), event_id=event_id, headers=headers)
    )


async def test_three_hours_come_in_numbered_parts_whenever_the_merge_worker_dies(on_kafka: Workers) -> None:
    records = talk()
    processor = MergeStage().open(CALL, None)
    outputs = [output for record in records[:-1] for output in on_bus(feed(processor, record))]
    assert len(processor.checkpoint().state) > RECORD_BYTES
    outputs += on_bus(feed(processor, records[-1]))
    expected = [msgspec.json.encode(output.record) for output in outputs]

    servers = on_kafka.deployment.environment["CALLSTREAM_BUS"].removeprefix("kafka://")
    paused = next(index for index, record in enumerate(records) if isinstance(record, type(records[-1])))
    async with contextlib.AsyncExitStack() as stack:
        bus = await open_bus(f"kafka://{servers}", BusSecurity())
        stack.push_async_callback(bus.close)
        consumer = await stack.enter_async_context(
            Consumer(servers, topics.TRANSCRIPTS, topics.SUMMARIES, topics.STATUS)
        )

        def merged() -> list[bytes]:
            once = {
                int(record.headers["ce_callseq"]): record.raw
                for record in consumer.records
                if record.key == CALL.key and record.topic == topics.TRANSCRIPTS
            }
            return [once[seq] for seq in sorted(once)]

        await publish(bus, records[: paused // 2])
        await consumer.until(lambda: len(merged()) > 100)
        on_kafka.kill("merge")
        await publish(bus, records[paused // 2 : paused + 1])
        on_kafka.start("merge")
        first = await consumer.transcript(CALL.call_id, timeout_s=300)
        assert first["provisional"]
        on_kafka.kill("merge")
        await publish(bus, records[paused + 1 :])
        on_kafka.start("merge")
        last = await consumer.transcript(CALL.call_id, revision=2, timeout_s=300)
        await consumer.until_stored(CALL.call_id, revision=2)
        assert merged() == expected
        assert max(len(record.raw) for record in consumer.records) < RECORD_BYTES - 100_000
        assert [summary["revision"] for summary in consumer.of(CALL.call_id, SUMMARY)] == [1, 2]
    assert first["parts"] > 1
    assert last["parts"] > 1
    document = await asyncio.to_thread(on_kafka.deployment.show, CALL.call_id)
    assert document is not None
    assert document["status"] == "completed"
    assert [turn["turn_id"] for turn in document["turns"]] == [turn["turn_id"] for turn in last["turns"]]
    assert sum(len(turn["words"]) for turn in document["turns"]) == len(last["turns"]) * SEGMENT_WORDS
    assert len(last["turns"]) == HOURS * 3600 / SEGMENT_S
