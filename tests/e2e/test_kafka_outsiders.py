"""Producers and consumers on Kafka that use none of our code: plain aiokafka, kcat, and the published JSON Schemas."""

import asyncio
import itertools
import json
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from pipeline.bus.keys import key_token, partition_of
from tests.calls.wording import holds
from tests.support.brokers.kafka_clients import (
    BYTES,
    CHUNK,
    DEAD_LETTER,
    JOB,
    SUMMARY,
    TURN,
    Consumer,
    Event,
    binary,
    call_events,
    send,
    structured,
    validator,
)
from tests.support.processes.deployment import SAMPLE
from tests.support.processes.workers import STAGES, Workers
from tests.support.requirements import require

READ = ("calls.transcripts", "calls.summaries", "calls.status")
TOPICS = ("calls.audio", "calls.utterances", "calls.segments", *READ)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def servers(on_kafka: Workers) -> Iterator[str]:
    """The broker's address. No worker may die meanwhile."""
    pids = on_kafka.pids
    assert set(pids) == set(STAGES)
    yield on_kafka.deployment.environment["CALLSTREAM_BUS"].removeprefix("kafka://")
    assert on_kafka.pids == pids


async def stored(servers: str, topics: tuple[str, ...]) -> list[Any]:
    """Every record that the topics hold now."""
    found: list[Any] = []
    async with AIOKafkaConsumer(*topics, bootstrap_servers=servers, auto_offset_reset="earliest") as reader:
        places = [TopicPartition(topic, number) for topic in topics for number in reader.partitions_for_topic(topic)]
        ends = await reader.end_offsets(places)
        while any([await reader.position(place) < ends[place] for place in places]):
            for records in (await reader.getmany(timeout_ms=100)).values():
                found.extend(records)
    return found


def misplaced(word: str) -> str:
    """A call id that aiokafka's own partitioner, which is Java's murmur2, puts elsewhere than callstream would."""
    every = list(range(8))
    for number in itertools.count():
        key = f"{word}/{number} é".encode()
        if DefaultPartitioner()(key, every, every) != partition_of(key_token(key).encode(), len(every)):
            return key.decode()
    raise AssertionError


def begins_as_the_sample(transcript: dict[str, Any]) -> bool:
    return holds(transcript["turns"][0]["text"], "Thank you for calling Northwind Energy")


async def test_a_plain_client_publishes_the_sample_call_and_a_group_reads_its_transcript(
    on_kafka: Workers, servers: str
) -> None:
    call = misplaced("outsider")
    partition = await send(servers, call, call_events(call, SAMPLE, metadata={"queue": "billing"}))
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript(call)
        await consumer.until_stored(call)
        turns = consumer.of(call, TURN)
        [summary] = consumer.of(call, SUMMARY)
    assert completed["turns"] == sorted(turns, key=lambda turn: float(turn["start_s"]))
    assert len(turns) == 16
    assert begins_as_the_sample(completed)
    segments = {segment for turn in turns for segment in turn["segment_ids"]}
    assert {segment for point in summary["key_points"] for segment in point["segment_ids"]} <= segments
    document = on_kafka.deployment.show(call)
    assert document is not None
    assert document["metadata"] == {"queue": "billing"}
    places = defaultdict(set)
    for record in await stored(servers, TOPICS):
        if record.key == call.encode():
            places[record.topic].add(record.partition)
    assert len(places.pop("calls.status")) == 1
    assert places == {topic: {partition} for topic in TOPICS if topic != "calls.status"}


async def test_structured_events_that_come_twice_out_of_order_and_not_all_of_them_give_the_call_with_a_gap(
    servers: str, short_call: Path
) -> None:
    chance = random.Random(seed := random.randrange(1_000_000))
    print(f"seed {seed}")
    *audio, ended = call_events("structured", short_call, form=structured)
    arriving: list[Event] = []
    for at in range(0, len(audio) - 3, 6):  # the last three chunks never come
        few = audio[at : min(at + 6, len(audio) - 3)]
        few += chance.sample(few, 2) if len(few) > 2 else []
        arriving += chance.sample(few, len(few))
    await send(servers, "structured", [*arriving, ended])
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript("structured")
        gaps = [job["detail"] for job in consumer.of("structured", JOB) if job["status"] == "gap"]
    assert begins_as_the_sample(completed)
    assert [turn["speaker"] for turn in completed["turns"]] == ["agent", "customer", "agent", "customer"]
    assert completed["duration_s"] == pytest.approx(18.0)
    assert [gap["events"] for gap in completed["gaps"]] == [3]
    assert [(gap["events"], gap["start_s"]) for gap in gaps] == [(3, pytest.approx(17.4))]


@pytest.mark.kcat
async def test_kcat_publishes_a_call_and_prints_what_the_schemas_say(
    servers: str, greeting: Path, tmp_path: Path
) -> None:
    kcat = [require("kcat"), "-b", servers, "-q"]
    for number, (headers, value) in enumerate(call_events("from-kcat", greeting, chunk_s=1.0)):
        path = tmp_path / str(number)
        path.write_bytes(value)
        options = [f"-H{name}={text.decode()}" for name, text in headers]
        await asyncio.to_thread(
            subprocess.run, [*kcat, "-P", "-t", "calls.audio", "-k", "from-kcat", *options, str(path)], check=True
        )
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript("from-kcat")
        await consumer.until(lambda: bool(consumer.of("from-kcat", SUMMARY)))
        read = {(record.topic, record.headers["ce_id"], record.raw) for record in consumer.records}
    assert begins_as_the_sample(completed)
    printed = set()
    for topic in READ:
        done = await asyncio.to_thread(
            subprocess.run, [*kcat, "-C", "-t", topic, "-o", "beginning", "-e", "-J"], capture_output=True, check=True
        )
        for line in done.stdout.splitlines():
            record = json.loads(line)
            named = dict(zip(record["headers"][::2], record["headers"][1::2], strict=True))
            validator(named["ce_type"]).validate(json.loads(record["payload"]))
            printed.add((topic, named["ce_id"], record["payload"].encode()))
    assert read <= printed


async def test_unusable_records_become_dead_letters_and_the_next_call_completes(servers: str, greeting: Path) -> None:
    chance = random.Random(seed := random.randrange(1_000_000))
    print(f"seed {seed}")
    start = call_events("after-garbage", greeting)[0]
    named = dict(start[0])
    unusable: list[tuple[bytes | None, list[tuple[str, bytes | None]], bytes | None]] = [
        (b"after-garbage", [], b"no CloudEvent at all"),
        (b"after-garbage", [("ce_type", None), ("content-type", b"\xff\xfe")], b"\x00"),
        (None, [*start[0]], start[1]),
        (b"after-garbage", [*start[0]], None),
        (b"another-key", [*start[0]], start[1]),
        (b"after-garbage", [*binary("after-garbage", 1, CHUNK, BYTES, b"")[0]], bytes(1_000_000)),
        (b"\xff" * 300, [], bytes(1_000_000)),
    ]
    for number in range(60):
        some = chance.sample([*named], chance.randrange(len(named)))
        torn = [(name, chance.randbytes(8) if chance.random() < 0.3 else named[name]) for name in some]
        key = chance.choice([b"after-garbage", None, b"%d" % number])
        value = chance.choice([b"{", chance.randbytes(500), None if key else b"null"])
        unusable.append((key, [*torn], value))
    async with AIOKafkaProducer(bootstrap_servers=servers, max_request_size=1_048_576) as producer:
        sent = [await producer.send("calls.audio", value, key=key, headers=headers) for key, headers, value in unusable]
        places = {("calls.audio", record.partition, record.offset) for record in await asyncio.gather(*sent)}
    await send(servers, "after-garbage", call_events("after-garbage", greeting))
    async with Consumer(servers, *READ, "calls.dead-letters") as consumer:
        assert begins_as_the_sample(await consumer.transcript("after-garbage"))
        await consumer.until(
            lambda: (
                places
                <= {
                    (letter.value["topic"], letter.value["partition"], letter.value["position"])
                    for letter in consumer.records
                    if letter.headers["ce_type"] == DEAD_LETTER
                }
            )
        )


async def test_a_transactional_producer_is_heard_and_what_it_aborts_is_not(servers: str, greeting: Path) -> None:
    call = "in-transactions"
    events = call_events(call, greeting)
    wrong = [(headers, bytes(len(value))) for headers, value in events[10:20]]
    async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id="pbx-7") as producer:

        async def transaction(sent: list[Event]) -> None:
            for headers, value in sent:
                await producer.send("calls.audio", value, key=call.encode(), headers=headers)

        for at in range(0, len(events), 10):
            if at == 10:
                await producer.begin_transaction()
                await transaction(wrong)
                await producer.flush()
                await producer.abort_transaction()
            async with producer.transaction():
                await transaction(events[at : at + 10])
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript(call)
    assert begins_as_the_sample(completed)
    assert completed["gaps"] == []


async def test_a_transactional_producer_that_vanishes_is_ended(servers: str, greeting: Path) -> None:
    """The marker of its last transaction lies behind its last record and is no record that waits."""
    call = "vanished"
    async with (
        AIOKafkaProducer(bootstrap_servers=servers, transactional_id="pbx-8") as producer,
        producer.transaction(),
    ):
        for headers, value in call_events(call, greeting)[:-1]:
            await producer.send("calls.audio", value, key=call.encode(), headers=headers)
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript(call)
    assert begins_as_the_sample(completed)
    assert completed["provisional"]


async def test_a_producer_whose_clock_stands_in_1970_loses_nothing(servers: str, greeting: Path) -> None:
    call = "long-ago"
    events = call_events(call, greeting)
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for number, (headers, value) in enumerate(events):
            await producer.send("calls.audio", value, key=call.encode(), headers=headers, timestamp_ms=number)
    async with Consumer(servers, *READ) as consumer:
        completed = await consumer.transcript(call)
    assert begins_as_the_sample(completed)
    await asyncio.sleep(1.0)  # the broker looks for what is too old twice a second
    kept = [record for record in await stored(servers, ("calls.audio",)) if record.key == call.encode()]
    assert len(kept) == len(events)
    assert all(abs(record.timestamp / 1000 - time.time()) < 600 for record in kept)
