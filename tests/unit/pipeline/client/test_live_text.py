"""What who reads a call along is shown, and how they ask for its partials."""

import asyncio

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Record, TopicSpec
from pipeline.client.live_text import CallViewer, PartialsRequest
from pipeline.errors import StoreFullError
from pipeline.runtime.decoding import decode_audio
from schemas import topics
from schemas.audio import CallWatched
from schemas.calls import CallRef
from schemas.partials import FINAL_REVISION, PARTIAL_TYPE, Partial
from schemas.transcripts import COMPLETED_TYPE, TURN_TYPE, TranscriptCompleted, Turn
from tests.wire import records

CALL = CallRef("acme", "call-1")


def record(topic: str, event_type: str, value: msgspec.Struct, event_id: str) -> Record:
    return Record(
        topic=topic,
        partition=3,
        position=0,
        key=CALL.key,
        value=msgspec.json.encode(value),
        headers={"ce_type": event_type, "ce_id": event_id},
        timestamp_s=0.0,
    )


def partial(utterance_id: str, revision: int, committed: str, *, start_s: float = 1.0) -> Record:
    given = records.PUBLISHED[PARTIAL_TYPE]
    final = revision == FINAL_REVISION
    value = msgspec.structs.replace(
        given, utterance_id=utterance_id, revision=revision, committed=committed, final=final, start_s=start_s
    )
    return record(topics.PARTIALS, PARTIAL_TYPE, value, f"{utterance_id}/{revision}")


def turn(turn_id: str, *segment_ids: str) -> Record:
    value = msgspec.structs.replace(records.PUBLISHED[TURN_TYPE], turn_id=turn_id, segment_ids=list(segment_ids))
    return record(topics.TRANSCRIPTS, TURN_TYPE, value, turn_id)


def completed(*, provisional: bool = False, part: int = 1, parts: int = 1) -> Record:
    given = records.PUBLISHED[COMPLETED_TYPE]
    assert isinstance(given, TranscriptCompleted)
    value = msgspec.structs.replace(given, provisional=provisional, part=part, parts=parts)
    return record(topics.TRANSCRIPTS, COMPLETED_TYPE, value, f"completed/{part}/{provisional}")


def shown(partials: list[Partial]) -> list[tuple[str, int]]:
    return [(item.utterance_id, item.revision) for item in partials]


def ids(turns: list[Turn]) -> list[str]:
    return [item.turn_id for item in turns]


def test_the_newest_version_of_an_utterance_is_shown_until_its_turn_has_settled() -> None:
    viewer = CallViewer()
    viewer.catch_up([])
    for item in (
        partial("b", 3, "Good", start_s=4.0),
        partial("a", 1, ""),
        partial("a", 2, "One"),
        partial("a", 1, ""),
    ):
        viewer.apply(item)
    assert shown(viewer.open_partials) == [("a", 2), ("b", 3)]
    assert sorted(shown(viewer.take_partials())) == [("a", 2), ("b", 3)]
    viewer.apply(partial("a", FINAL_REVISION, "One two"))
    assert viewer.take_partials() == []
    assert shown(viewer.open_partials) == [("a", FINAL_REVISION), ("b", 3)]
    viewer.apply(turn("t1", "a"))
    viewer.apply(partial("a", 2, "One"))
    assert shown(viewer.open_partials) == [("b", 3)]
    assert ids(viewer.take_turns()) == ["t1"]
    assert viewer.take_turns() == []


def test_an_utterance_that_held_no_words_goes() -> None:
    viewer = CallViewer()
    viewer.apply(partial("a", 1, ""))
    viewer.apply(partial("a", FINAL_REVISION, ""))
    viewer.apply(partial("a", 2, ""))
    assert viewer.open_partials == []


def test_turns_from_before_come_first_and_none_twice() -> None:
    viewer = CallViewer()
    viewer.apply(turn("t2"))
    viewer.apply(turn("t3"))
    assert viewer.take_turns() == []
    viewer.catch_up([turn("t1"), turn("t2")])
    viewer.apply(turn("t3"))
    viewer.apply(turn("t4"))
    assert ids(viewer.take_turns()) == ["t1", "t2", "t3", "t4"]


def test_a_call_is_over_when_all_of_its_transcript_is_there_and_it_did_not_only_fall_silent() -> None:
    viewer = CallViewer()
    viewer.catch_up([completed(provisional=True)])
    assert not viewer.over
    viewer.apply(completed(part=1, parts=2))
    assert not viewer.over
    viewer.apply(completed(part=2, parts=2))
    assert viewer.over


class FullAtFirst(MemoryBus):
    refusals = 1

    async def publish(self, record: Outgoing, *, partition: int | None = None) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreFullError("the store is full")
        await super().publish(record, partition=partition)


@pytest.mark.parametrize("kind", [MemoryBus, FullAtFirst])
async def test_partials_are_asked_for_again_and_again_also_of_a_bus_that_refuses(kind: type[MemoryBus]) -> None:
    bus = kind()
    await bus.ensure_topics([TopicSpec(name=topics.AUDIO, partitions=4, retention_s=60)])
    asking = asyncio.create_task(PartialsRequest(bus, CALL, lease_s=5.0, renew_s=0.02).run())
    await asyncio.sleep(0.2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    asked = [decode_audio(item) async for item in bus.stored(topics.AUDIO, key=CALL.key)]
    assert len(asked) >= 3
    assert {(item.call, item.seq) for item in asked} == {(CALL, None)}
    assert {item.content for item in asked} == {CallWatched(seconds=5.0)}
    assert len({item.event_id for item in asked}) == len(asked)


async def test_they_are_asked_for_at_once_where_the_call_turns_out_to_be() -> None:
    bus = MemoryBus()
    await bus.ensure_topics([TopicSpec(name=topics.AUDIO, partitions=4, retention_s=60)])
    lease = PartialsRequest(bus, CALL, renew_s=60.0)
    asking = asyncio.create_task(lease.run())
    await asyncio.sleep(0.02)
    [first] = [item async for item in bus.stored(topics.AUDIO)]
    for _ in range(2):
        lease.found((first.partition + 1) % 4)
        await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    places = [item.partition async for item in bus.stored(topics.AUDIO)]
    assert sorted(places) == sorted([first.partition, (first.partition + 1) % 4])
