import asyncio

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Record, TopicSpec
from pipeline.errors import StoreFullError
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.calls import CallRef
from schemas.status import MAX_LETTER_BYTES, DeadLetter
from schemas.utterances import CallProgress
from stages.errors import RejectedInput
from stages.protocol import Output

CALL = CallRef("default", "call-1")


class FullFor(MemoryBus):
    """Refuses the first publishes, like a full store."""

    refusals = 2

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreFullError("the store is full")
        await super().publish(record, partition=partition)


def progress_output() -> Output:
    return Output(
        topic=topics.UTTERANCES,
        record=CallProgress(call=CALL, seq=3, heard_to_s=[1.0]),
        event_id="default/call-1/separate.1/3",
        seq=3,
    )


async def test_publishing_waits_while_the_store_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.publisher._FULL_STORE_PAUSES_S", (0.01,))
    bus = FullFor(partitions=1)
    await bus.ensure_topics([TopicSpec(name=topics.UTTERANCES_BATCH, partitions=1, retention_s=60)])
    feed = await bus.follow((topics.UTTERANCES_BATCH,))
    publisher = Publisher(bus, stage="separate", lane="batch", metrics=Metrics())
    await publisher.send(progress_output(), CALL)
    record = await asyncio.wait_for(anext(feed), 5)
    assert bus.refusals == 0
    assert record.headers["ce_callseq"] == "3"
    assert record.headers["ce_subject"] == "call-1"
    assert record.headers["traceparent"].startswith("00-")


async def test_a_published_record_is_json_with_its_type() -> None:
    bus = MemoryBus(partitions=1)
    await bus.ensure_topics([TopicSpec(name=topics.STATUS, partitions=1, retention_s=60)])
    feed = await bus.follow((topics.STATUS,))
    publisher = Publisher(bus, stage="merge", lane="live", metrics=Metrics())
    output = Output(topic=topics.STATUS, record={"at": 1.5}, event_id="x", event_type="callstream.job")
    await publisher.send(output, CALL, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    record = await asyncio.wait_for(anext(feed), 5)
    assert msgspec.json.decode(record.value) == {"at": 1.5}
    assert record.headers["ce_type"] == "callstream.job"
    assert "ce_callseq" not in record.headers
    assert record.headers["traceparent"].split("-")[1] == "a" * 32


async def rejected(record: Record, message: str) -> tuple[Record, DeadLetter]:
    """Return the letter as stored, and decoded."""
    bus = MemoryBus(partitions=1)
    publisher = Publisher(bus, stage="separate", lane="live", metrics=Metrics())
    await publisher.reject(record, None, RejectedInput(message), attempts=1)
    [stored] = [stored async for stored in bus.stored(topics.DEAD_LETTERS)]
    return stored, msgspec.json.decode(stored.value, type=DeadLetter)


async def test_a_letter_goes_without_its_value_where_there_is_no_room_for_it() -> None:
    bus = MemoryBus(partitions=1)
    await bus.ensure_topics([TopicSpec(name=topics.DEAD_LETTERS, partitions=1, retention_s=60, max_bytes=3_000)])
    publisher = Publisher(bus, stage="separate", lane="live", metrics=Metrics())
    record = audio_record(value=bytes(9_000), headers={"ce_id": "a"})
    await asyncio.wait_for(publisher.reject(record, None, RejectedInput("bad"), attempts=1), 5)
    [stored] = [stored async for stored in bus.stored(topics.DEAD_LETTERS)]
    letter = msgspec.json.decode(stored.value, type=DeadLetter)
    assert (letter.value, letter.value_bytes, letter.cut, letter.headers) == (b"", 9_000, True, {"ce_id": "a"})


def audio_record(*, key: bytes = b"call-1", value: bytes = b"", headers: dict[str, str] | None = None) -> Record:
    return Record(
        topic=topics.AUDIO, partition=0, position=7, key=key, value=value, headers=headers or {}, timestamp_s=1.5
    )


async def test_a_dead_letter_holds_only_the_beginning_of_a_very_large_record() -> None:
    record = audio_record(value=bytes(range(250)) * 32_000, headers={"ce_id": "a"})
    _, letter = await rejected(record, "too large")
    assert (letter.value_bytes, letter.position, letter.headers) == (8_000_000, 7, {"ce_id": "a"})
    assert letter.value == record.value[:MAX_LETTER_BYTES]
    assert letter.cut


async def test_a_dead_letter_holds_all_of_a_record_that_fits() -> None:
    record = audio_record(value=bytes(MAX_LETTER_BYTES), headers={f"x-{n}": "é" * 200 for n in range(20)})
    _, letter = await rejected(record, "no")
    assert (letter.key, letter.value, letter.headers) == (record.key, record.value, record.headers)
    assert not letter.cut


@pytest.mark.parametrize("part", ["key", "headers", "message"])
async def test_a_dead_letter_is_always_below_the_default_limit_of_brokers(part: str) -> None:
    headers = {f"x-{n}": "\x01" * 900 for n in range(900)} if part == "headers" else {"ce_id": "a"}
    key = b"k" * 900_000 if part == "key" else b"call-1"
    record = audio_record(key=key, value=bytes(8_000_000), headers={**headers, "ce_type": "t"})
    stored, letter = await rejected(record, "\x01" * 900_000 if part == "message" else "no")
    assert len(stored.value) < 900_000
    assert stored.size_bytes < 910_000
    assert letter.cut
    assert letter.headers["ce_type"] == "t"
