"""The same call on every bus: what is published and what is stored are the same bytes."""

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.client.publish import publish_audio
from pipeline.client.warehouse import open_reader
from pipeline.instance import DATABASE_FILE
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology
from pipeline.wiring.context import WiringContext
from pipeline.wiring.stage_list import REQUIRED
from pipeline.wiring.warehouse import Warehouse
from pipeline.wiring.worker import Worker
from schemas import envelope, topics
from schemas.calls import CallRef
from schemas.segments import Segment
from stages.separate.files import open_audio_file
from stages.sink.tables import Tables
from tests.e2e.logins import bus_login
from tests.support.processes.deployment import SAMPLE, Deployment
from tests.support.processes.workers import Workers

CALL = CallRef("default", "the same call")
OF_THE_RUN = ("uploaded_at", "processed_at", "jobs")
"""What a document says of when and where the call was worked on."""

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


Records = dict[tuple[str, str], bytes]
"""The values of segments, turns, the completed transcript and the summary, by topic and id."""


class Outcome(msgspec.Struct):
    records: Records
    document: bytes
    """What `callstream show --json` gives, as JSON without `OF_THE_RUN`."""


async def call_through(bus: Bus, path: Path, call: CallRef, *, timeout_s: float = 240.0) -> Records:
    """Publish a recording, and return what the stages made of it once it is stored."""
    ledger = await bus.follow((topics.STATUS,), key=call.key)
    with contextlib.closing(open_audio_file(path)) as audio:
        await publish_audio(
            bus,
            audio,
            call=call,
            roles=["agent", "customer"],
            language=None,
            metadata={},
            lane="live",
        )
    async with asyncio.timeout(timeout_s):
        async for entry in ledger:
            if json.loads(entry.value)["detail"].get("stored") == "summary":
                break
    await ledger.close()
    found = {}
    for topic in (topics.SEGMENTS, topics.TRANSCRIPTS, topics.SUMMARIES):
        async for record in bus.stored(topic, key=call.key):
            if topic == topics.SEGMENTS and not isinstance(envelope.decode(record.value), Segment):
                continue  # the call's opening holds the time of day
            found[topic, record.headers["ce_id"]] = record.value
    return found


def document_of(shown: dict[str, Any] | None) -> bytes:
    assert shown is not None
    return json.dumps({name: value for name, value in shown.items() if name not in OF_THE_RUN}).encode()


async def on_memory(data: Path, path: Path, call: CallRef) -> Outcome:
    """All stages in this process."""
    settings = Settings(data=data, ollama_url="http://127.0.0.1:9")
    data.mkdir()
    bus = MemoryBus()
    specs = topology.topic_specs(
        partitions=settings.partitions, retention_days=settings.retention_days, store_bytes=settings.store_bytes
    )
    await bus.ensure_topics(specs)
    with ThreadPoolExecutor(1) as writer, Tables(data / DATABASE_FILE) as tables:
        warehouse = Warehouse(tables, writer, url="", token="")
        worker = Worker(WiringContext(bus, settings, Metrics(), warehouse), REQUIRED)
        worker.start()
        try:
            records = await call_through(bus, path, call)
        finally:
            await worker.stop()
    with contextlib.closing(open_reader(data / DATABASE_FILE, None)) as reader:
        return Outcome(records, document_of(reader.show(call)))


async def on_broker(url: str, security: BusSecurity, deployment: Deployment, path: Path, call: CallRef) -> Outcome:
    """With the processes of a deployment, on its broker."""
    bus = await open_bus(url, security)
    try:
        records = await call_through(bus, path, call)
    finally:
        await bus.close()
    return Outcome(records, document_of(await asyncio.to_thread(deployment.show, call.call_id)))


async def test_the_sample_call_is_the_same_on_memory_jetstream_and_kafka(
    running: Deployment, on_kafka: Workers, tmp_path: Path
) -> None:
    kafka = on_kafka.deployment.environment["CALLSTREAM_BUS"]
    memory = await on_memory(tmp_path / "data", SAMPLE, CALL)
    assert len(json.loads(memory.document)["turns"]) == 16
    assert len(memory.records) > 16 + 1 + 1
    for outcome in (
        await on_broker(*bus_login(running), running, SAMPLE, CALL),
        await on_broker(kafka, BusSecurity(), on_kafka.deployment, SAMPLE, CALL),
    ):
        assert outcome.records.keys() == memory.records.keys()
        for place, value in memory.records.items():
            assert outcome.records[place] == value, place
        assert outcome.document == memory.document
