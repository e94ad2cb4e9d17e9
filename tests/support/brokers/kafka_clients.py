"""Producers and consumers on Kafka without our code: plain aiokafka, and the published JSON Schemas."""

import asyncio
import base64
import functools
import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jsonschema
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from schemas.generate import published_schema
from tests.calls import bad

JSON, BYTES = "application/json", "application/octet-stream"
STARTED, CHUNK, ENDED = "callstream.call.started", "callstream.audio.chunk", "callstream.call.ended"
TURN, COMPLETED, SUMMARY = "callstream.turn", "callstream.transcript.completed", "callstream.summary"
JOB, DEAD_LETTER = "callstream.job", "callstream.dead-letter"

Event = tuple[list[tuple[str, bytes]], bytes]
"""Headers and value of a record."""


def binary(call: str, seq: int, event_type: str, content_type: str, value: bytes) -> Event:
    """Return a CloudEvent in binary mode."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": f"{call}-{seq}",
        "ce_source": "/pbx/7",
        "ce_subject": call,
        "ce_type": event_type,
        "ce_callseq": str(seq),
        "content-type": content_type,
    }
    return [(name, text.encode()) for name, text in headers.items()], value


def structured(call: str, seq: int, event_type: str, content_type: str, value: bytes) -> Event:
    """Return a CloudEvent in structured mode: one JSON object."""
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{call}-{seq}",
        "source": "/pbx/7",
        "subject": call,
        "type": event_type,
        "callseq": seq,
        "datacontenttype": content_type,
    }
    if content_type == JSON:
        event["data"] = json.loads(value)
    else:
        event["data_base64"] = base64.b64encode(value).decode()
    return [("content-type", b"application/cloudevents+json; charset=utf-8")], json.dumps(event).encode()


def call_events(
    call: str, path: Path, *, form: Callable[..., Event] = binary, chunk_s: float = 0.2, **start: object
) -> list[Event]:
    """Return the events of a call, in μ-law, from a two-channel recording."""
    pcm, rate_hz = bad.read_wav(path)
    described = {"encoding": "mulaw", "sample_rate_hz": rate_hz, "channels": 2, "roles": ["agent", "customer"], **start}
    step = int(chunk_s * rate_hz)
    chunks = [bad.mulaw(pcm[at : at + step]) for at in range(0, len(pcm), step)]
    ended = {"events": len(chunks) + 2, "reason": "hangup"}
    return [
        form(call, 0, STARTED, JSON, json.dumps(described).encode()),
        *(form(call, seq, CHUNK, BYTES, chunk) for seq, chunk in enumerate(chunks, 1)),
        form(call, len(chunks) + 1, ENDED, JSON, json.dumps(ended).encode()),
    ]


async def send(servers: str, call: str, events: Iterable[Event], topic: str = "calls.audio") -> int:
    """Send events with the client's own partitioner, each acknowledged. Returns the partition."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        stored = [await producer.send(topic, value, key=call.encode(), headers=headers) for headers, value in events]
        [partition] = {record.partition for record in await asyncio.gather(*stored)}
    return int(partition)


class Received:
    """A record of a published topic. Its value must match the published schema of its type."""

    def __init__(self, record: Any) -> None:
        self.topic: str = record.topic
        self.partition: int = record.partition
        self.key: bytes = record.key
        self.raw: bytes = record.value
        self.headers = {name: raw.decode() for name, raw in record.headers}
        self.value: dict[str, Any] = json.loads(record.value)
        validator(self.headers["ce_type"]).validate(self.value)


class Consumer:
    """Reads topics from their beginning, in a new consumer group."""

    def __init__(self, servers: str, *topics: str) -> None:
        self.records: list[Received] = []
        self._consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=servers, group_id=f"reports-{uuid.uuid4()}", auto_offset_reset="earliest"
        )

    async def __aenter__(self) -> "Consumer":
        await self._consumer.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._consumer.stop()

    async def until(self, enough: Callable[[], bool], timeout_s: float = 180.0) -> None:
        """Read until `enough()` is true."""
        async with asyncio.timeout(timeout_s):
            while not enough():
                for records in (await self._consumer.getmany(timeout_ms=200)).values():
                    self.records.extend(map(Received, records))

    async def transcript(self, call: str, *, revision: int = 1, timeout_s: float = 180.0) -> dict[str, Any]:
        """Wait for all parts of a call's completed transcript and return it."""

        def parts() -> list[dict[str, Any]]:
            return [part for part in self.of(call, COMPLETED) if part["revision"] == revision]

        await self.until(lambda: bool(parts()) and len(parts()) == parts()[0]["parts"], timeout_s)
        found = sorted(parts(), key=lambda part: int(part["part"]))
        assert [part["part"] for part in found] == list(range(1, len(found) + 1))
        return {**found[0], "turns": [turn for part in found for turn in part["turns"]]}

    async def until_stored(self, call: str, *, revision: int = 1) -> None:
        """Read until the ledger says that the warehouse has the call's summary, the last record of a call."""
        wanted = ("summary", revision)
        await self.until(
            lambda: any(
                (job["detail"].get("stored"), job["detail"].get("revision")) == wanted for job in self.of(call, JOB)
            )
        )

    def of(self, call: str, event_type: str) -> list[dict[str, Any]]:
        """Return the call's values read so far, each id once. Repeats must have the same bytes."""
        once: dict[str, Received] = {}
        for record in self.records:
            if record.key == call.encode() and record.headers["ce_type"] == event_type:
                first = once.setdefault(record.headers["ce_id"], record)
                assert first.raw == record.raw
        return [record.value for record in once.values()]


@functools.cache
def validator(event_type: str) -> Any:
    return jsonschema.Draft202012Validator(published_schema(event_type))
