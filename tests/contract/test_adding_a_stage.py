"""A stage is a folder, its wiring and its topic: `tests/contract/keywords` runs as one, with ours, on every bus."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from pipeline.bus.protocol import Bus
from pipeline.runtime.publisher import Publisher
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology
from pipeline.wiring.context import WiringContext
from pipeline.wiring.stage_list import STAGES
from pipeline.wiring.worker import Worker
from schemas import topics
from schemas.calls import CallRef
from schemas.segments import Word
from schemas.status import DeadLetter, JobStatus
from schemas.transcripts import TURN_TYPE, Turn
from stages.protocol import Output
from tests.contract.brokers import Broker
from tests.contract.keywords.stage import KEYWORDS, KeywordSaid
from tests.contract.keywords.wiring import WIRING

CALLS = (CallRef("default", "call-1"), CallRef("default", "call-2"))
TEXTS = ("Good morning.", "I want a refund.", "A refund, or I call my lawyer.", "Please hold.")
SAID = (("1", "refund"), ("2", "refund"), ("2", "lawyer"))
WORD = Word(text="Good", start_s=0.0, end_s=0.2, probability=0.9)


def turn(call: CallRef, number: int, text: str, words: list[Word]) -> Turn:
    return Turn(
        tenant=call.tenant,
        call_id=call.call_id,
        turn_id=str(number),
        revision=1,
        speaker="customer",
        channel=1,
        start_s=float(number),
        end_s=number + 1.0,
        text=text,
        words=words,
        segment_ids=[],
        language="en",
    )


async def publish(bus: Bus, call: CallRef, first: int, texts: tuple[str, ...], *, words: bool = True) -> None:
    """Return turns as the merge stage publishes them, numbered from `first`."""
    merge = Publisher(bus, stage="merge", lane="live", metrics=Metrics())
    for number, text in enumerate(texts, start=first):
        record = turn(call, number, text, [WORD] if words else [])
        event_id = f"{call.call_id}/{number}"
        output = Output(topic=topics.TRANSCRIPTS, record=record, event_id=event_id, event_type=TURN_TYPE, seq=number)
        await merge.send(output, call)


@contextlib.asynccontextmanager
async def working(bus: Bus, settings: Settings) -> AsyncIterator[Metrics]:
    metrics = Metrics()
    worker = Worker(WiringContext(bus, settings, metrics), [WIRING])
    worker.start()
    try:
        await asyncio.wait_for(worker.ready.wait(), 5)
        yield metrics
    finally:
        await worker.stop()


async def stored(bus: Bus, topic: str, n_records: int) -> list[bytes]:
    """Return the values of a topic once it holds that many."""
    values: list[bytes] = []
    async with asyncio.timeout(30):
        while len(values) < n_records:
            values = [record.value async for record in bus.stored(topic)]
            await asyncio.sleep(0.05)
    return values


def said(values: list[bytes], call: CallRef) -> tuple[tuple[str, str], ...]:
    found = [msgspec.json.decode(value, type=KeywordSaid) for value in values]
    return tuple((one.turn_id, one.keyword) for one in found if one.call_id == call.call_id)


async def test_records_flow_through_a_stage_that_was_added(broker: Broker, tmp_path: Path) -> None:
    bus = await broker.bus()
    settings = Settings(data=tmp_path, partitions=2)
    specs = topology.topic_specs(partitions=2, retention_days=1, store_bytes=10**8, stages=(*STAGES, WIRING))
    await bus.ensure_topics(specs)
    for call in CALLS:
        await publish(bus, call, 0, TEXTS)
    async with working(bus, settings) as metrics:
        values = await stored(bus, KEYWORDS, len(SAID) * len(CALLS))
        assert [said(values, call) for call in CALLS] == [SAID, SAID]
        labels = {"stage": "keywords", "topic": KEYWORDS}
        assert metrics.registry.get_sample_value("callstream_records_out_total", labels) == len(values)
        await publish(bus, CALLS[0], len(TEXTS), ("It was not a turn",), words=False)
        [letter] = await stored(bus, topics.DEAD_LETTERS, 1)
        entries = [msgspec.json.decode(value, type=JobStatus) for value in await stored(bus, topics.STATUS, 1)]
    assert msgspec.json.decode(letter, type=DeadLetter).stage == "keywords"
    assert [(entry.job, entry.status) for entry in entries] == [("keywords", "rejected")]

    await publish(bus, CALLS[1], len(TEXTS), ("My lawyer says hello.",))
    async with working(bus, settings):
        values = await stored(bus, KEYWORDS, len(values) + 1)
    assert said(values, CALLS[0]) == SAID
    assert said(values, CALLS[1]) == (*SAID, ("4", "lawyer"))


def test_topics_name_the_added_stage_as_writer_and_reader() -> None:
    rows = {row.name: row for row in topology.topic_rows((*STAGES, WIRING))}
    assert rows[KEYWORDS].written_by == "keywords"
    assert rows[KEYWORDS].read_by == ("consumers",)
    assert "keywords" in rows[topics.TRANSCRIPTS].read_by
