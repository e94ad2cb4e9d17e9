"""All records of a broker as JSON lines, as a plain client reads them, without our code.

A line has `topic` (on JetStream the stream), `position`, `time`, `headers` and `value`; from JetStream also `subject`,
from Kafka also `partition` and `key`. Values and keys are hexadecimal, which compresses better than base64; those that
a Kafka record lacks are null.
"""

import json
import lzma
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.js.errors
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

Line = dict[str, Any]


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    with lzma.open(path, "wt", preset=9 | lzma.PRESET_EXTREME) as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_lines(path: Path) -> Iterator[Line]:
    with lzma.open(path, "rt") as lines:
        yield from map(json.loads, lines)


async def jetstream_lines(url: str) -> AsyncIterator[Line]:
    client = await nats.connect(url)
    js = client.jetstream()
    for stream in sorted(await js.streams_info(), key=lambda info: str(info.config.name)):
        for position in range(stream.state.first_seq, stream.state.last_seq + 1):
            try:
                stored = await js.get_msg(stream.config.name, position)
            except nats.js.errors.NotFoundError:
                continue
            yield {
                "topic": stream.config.name,
                "subject": stored.subject,
                "position": position,
                "time": stored.time.isoformat(),
                "headers": dict(stored.headers or {}),
                "value": _text(stored.data or b""),
            }
    await client.close()


async def kafka_lines(servers: str) -> AsyncIterator[Line]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    described = await admin.describe_topics()
    await admin.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    for topic in sorted(described, key=lambda one: str(one["topic"])):
        if topic["is_internal"]:
            continue
        for partition in sorted(one["partition"] for one in topic["partitions"]):
            place = TopicPartition(topic["topic"], partition)
            consumer.assign([place])
            [end] = (await consumer.end_offsets([place])).values()
            await consumer.seek_to_beginning(place)
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(timeout_ms=1000)).get(place, ()):
                    yield {
                        "topic": place.topic,
                        "partition": partition,
                        "position": record.offset,
                        "time": record.timestamp,
                        "key": _text(record.key),
                        "headers": {name: raw.decode() for name, raw in record.headers},
                        "value": _text(record.value),
                    }
    await consumer.stop()


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.hex()
