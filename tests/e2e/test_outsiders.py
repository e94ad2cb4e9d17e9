"""Producers and consumers that use none of our code: a plain nats-py client and the published JSON Schemas."""

import asyncio
import base64
import json
import re
import time
import urllib.request
import wave
from pathlib import Path
from typing import Any

import jsonschema
import nats
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy

from tests.calls.wording import holds
from tests.support.processes.deployment import Deployment

SCHEMAS = Path(__file__).parents[2] / "schemas" / "json"

pytestmark = pytest.mark.slow


def subject_of(call: str) -> str:
    """With padding, as base64 comes out of most libraries; `callstream publish` spells it without."""
    return "calls.audio." + base64.urlsafe_b64encode(call.encode()).decode()


def headers(call: str, seq: int, event_type: str, content_type: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-id": f"{call}-{seq}",
        "ce-source": "/pbx/7",
        "ce-subject": call,
        "ce-type": event_type,
        "ce-callseq": str(seq),
        "content-type": content_type,
    }


class Producer:
    """Sends one call's events, numbered, in mu-law or PCM as its start says."""

    def __init__(self, js: Any, call: str) -> None:
        self.js, self.call, self.seq = js, call, 0

    async def event(self, event_type: str, value: object) -> None:
        await self.send(event_type, "application/json", json.dumps(value).encode())

    async def chunk(self, data: bytes) -> None:
        await self.send("callstream.audio.chunk", "application/octet-stream", data)

    async def send(self, event_type: str, content_type: str, data: bytes) -> None:
        await self.js.publish(
            subject_of(self.call), data, headers=headers(self.call, self.seq, event_type, content_type)
        )
        self.seq += 1

    async def start(self, **more: object) -> None:
        start = {"encoding": "pcm_s16le", "sample_rate_hz": 8000, "channels": 2, "roles": ["agent", "customer"]}
        await self.event("callstream.call.started", {**start, **more})

    async def end(self) -> None:
        await self.event("callstream.call.ended", {"events": self.seq + 1, "reason": "hangup"})


def blocks(path: Path, block_s: float = 0.2) -> list[bytes]:
    with wave.open(str(path)) as audio:
        data = audio.readframes(audio.getnframes())
        size = int(audio.getframerate() * block_s) * audio.getnchannels() * 2
    return [data[at : at + size] for at in range(0, len(data), size)]


async def connect(running: Deployment) -> Any:
    return await nats.connect(**running.login)


async def until_shown(running: Deployment, call: str, status: str, timeout_s: float = 60.0) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    document = None
    while time.monotonic() < deadline:
        document = await asyncio.to_thread(running.show, call)
        if document is not None and document["status"] == status:
            return document
        await asyncio.sleep(0.3)
    raise AssertionError(f"{call} is not {status}: {document}")


def validator(event_type: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{event_type}.json").read_text()))


async def test_a_plain_client_publishes_a_call_and_reads_its_transcript(running: Deployment, short_call: Path) -> None:
    client = await connect(running)
    js = client.jetstream()
    new_only = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    transcripts = await js.subscribe("calls.transcripts.>", ordered_consumer=True, config=new_only)
    producer = Producer(js, "outsider/1 é")
    await producer.start(metadata={"queue": "billing"})
    for block in blocks(short_call):
        await producer.chunk(block)
    await producer.end()
    turns, completed = [], None
    while completed is None:
        message = await transcripts.next_msg(timeout=90)
        if message.headers["ce-subject"] != producer.call:
            continue
        value = json.loads(message.data)
        validator(message.headers["ce-type"]).validate(value)
        if message.headers["ce-type"] == "callstream.turn":
            turns.append(value)
        else:
            completed = value
    await client.close()
    assert completed["turns"] == turns
    assert [turn["speaker"] for turn in turns] == ["agent", "customer", "agent", "customer"]
    assert holds(turns[0]["text"], "Northwind")
    document = await until_shown(running, producer.call, "completed")
    assert document["metadata"] == {"queue": "billing"}


async def test_a_producer_that_vanishes_is_ended_and_a_later_chunk_reopens_the_call(
    running: Deployment, short_call: Path
) -> None:
    client = await connect(running)
    producer = Producer(client.jetstream(), "vanishing")
    await producer.start()
    audio = blocks(short_call)
    middle = int(4.3 / 0.2)
    for block in audio[:middle]:
        await producer.chunk(block)
    first = await until_shown(running, "vanishing", "completed")
    assert first["provisional"] is True
    assert first["reason"] == "idle"
    assert first["turns"][0]["text"].startswith("Thank you for calling")
    for block in audio[middle:]:
        await producer.chunk(block)
    await producer.end()
    deadline = time.monotonic() + 60
    while (document := await until_shown(running, "vanishing", "completed"))["revision"] == 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.3)
    await client.close()
    assert document["provisional"] is False
    assert document["turns"][0]["text"].startswith("Thank you for calling")
    assert "account number" in " ".join(turn["text"] for turn in document["turns"])
    assert document["duration_s"] == pytest.approx(18.0, abs=0.1)


async def test_unusable_events_become_dead_letters_and_other_calls_go_on(running: Deployment, short_call: Path) -> None:
    client = await connect(running)
    js = client.jetstream()
    new_only = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    letters = await js.subscribe("calls.dead-letters.>", ordered_consumer=True, config=new_only)
    await js.publish(subject_of("garbled"), b"\x00\xff\x00", headers={"ce-type": "callstream.audio.chunk"})
    await js.publish(subject_of("garbled"), b"no headers at all")
    await js.publish("calls.audio.=not=base64=", b"?", headers=headers("x", 0, "callstream.call.started", "text/plain"))
    headless = Producer(js, "headless")
    headless.seq = 3
    await headless.chunk(bytes(3200))
    good = Producer(js, "good")
    await good.start()
    audio = blocks(short_call)
    for index, block in enumerate(audio):
        await good.chunk(block)
        if index == 10:
            good.seq -= 1
            await good.chunk(block)  # a duplicate
        if index == 30:
            good.seq += 1  # an event that never comes
        if index == 40:
            await good.chunk(b"\x01" * 33)  # a torn block
    await good.end()
    document = await until_shown(running, "good", "completed")
    assert holds(document["turns"][0]["text"], "Thank you for calling Northwind Energy")
    assert [gap["events"] for gap in document["gaps"]] == [1]
    messages = [json.loads((await letters.next_msg(timeout=30)).data) for _ in range(4)]
    for message in messages:
        validator("callstream.dead-letter").validate(message)
    assert {message["stage"] for message in messages} == {"separate"}
    await client.close()


async def test_no_command_prints_what_a_terminal_would_obey(running: Deployment) -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e\r\ncallstream: all calls deleted"
    client = await connect(running)
    producer = Producer(client.jetstream(), "hostile")
    await producer.start(metadata={"filename": hostile, "agent": hostile})
    await producer.event(f"callstream.{hostile}".replace("\r\n", " "), {"hostile": hostile})
    await producer.chunk(bytes(3200))
    await producer.end()
    await client.close()
    await until_shown(running, "hostile", "completed")
    letters = json.loads(running.run("dead-letters", "list", "--call", "hostile", "--json").stdout)
    commands = [
        ("calls",),
        ("calls", "--json"),
        ("show", "hostile"),
        ("show", "hostile", "--json"),
        ("sql", "SELECT * FROM audio_sessions"),
        ("sql", "SELECT * FROM audio_sessions", "--format", "json"),
        ("sql", "SELECT CAST(filename AS INTEGER) FROM audio_sessions WHERE call_id = 'hostile'"),
        ("dead-letters", "list"),
        ("dead-letters", "list", "--json"),
        *(("dead-letters", "show", letter["id"]) for letter in letters),
    ]
    assert letters
    for command in commands:
        done = await asyncio.to_thread(running.run, *command, check=False)
        printed = done.stdout + done.stderr
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", printed), command
        assert not re.search("^callstream: all calls deleted", printed, re.MULTILINE), command


async def test_metrics_are_served(running: Deployment) -> None:
    url = running.status()["metrics_url"]
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    assert 'callstream_records_in_total{stage="separate",topic="calls.audio"}' in text
    assert "callstream_publish_seconds_bucket" in text
    assert "callstream_model_load_seconds" in text
    assert re.search(r'^callstream_model_loads_total{model="base"} 1\.0$', text, re.MULTILINE)
    assert re.search(r'^callstream_asr_rows_total{compute_type="int8",device="cpu"} [1-9]', text, re.MULTILINE)
    assert re.search(r'^callstream_asr_longest_batch_seconds{queue="live"} (?!0\.0$)', text, re.MULTILINE)
    assert 'callstream_asr_wait_seconds_count{queue="live"}' in text
    assert 'callstream_asr_queue{queue="live"} 0.0' in text
    assert re.search(r"^callstream_asr_busy_seconds (?!0\.0$)", text, re.MULTILINE), "the engine has worked"
