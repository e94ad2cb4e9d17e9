"""The idle watch on the reference bus: when it fires, and when it must not."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing, Subscription, TopicSpec
from pipeline.errors import BusError
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_audio
from pipeline.runtime.idle_calls import IdleWatch
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from schemas import topics
from schemas.audio import AudioChunk, CallEnded, CallStarted, CallWatched
from schemas.calls import CallRef
from schemas.cloudevents import encode_audio_event, encode_watch
from schemas.envelope import decode
from schemas.status import DeadLetter
from schemas.utterances import CallClosed
from stages.separate.speech import load_voice_activity_model
from stages.separate.stage import SeparateStage

CALL = CallRef("default", "call-1")
IDLE_S = 0.4
LATE_S = 0.8


class Deaf(MemoryBus):
    """A bus that can stop answering what lag there is."""

    answers = True

    async def lag_by_partition(self, subscription: Subscription) -> dict[tuple[str, int], int]:
        if not self.answers:
            raise BusError("nobody answers")
        return await super().lag_by_partition(subscription)


async def started(bus: MemoryBus, *, idle_s: float = IDLE_S) -> SimpleNamespace:
    names = (topics.AUDIO, topics.UTTERANCES, topics.STATUS, topics.DEAD_LETTERS)
    await bus.ensure_topics([TopicSpec(name=name, partitions=1, retention_s=60) for name in names])
    metrics = Metrics()
    runner = StageRunner(
        bus,
        SeparateStage(load_voice_activity_model()),
        subscription=Subscription(group="separate", topics=(topics.AUDIO,), progress_topic=topics.UTTERANCES),
        decoder=decode_audio,
        publisher=Publisher(bus, stage="separate", lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=1_000_000,
    )
    feed = await bus.follow((topics.UTTERANCES,))
    closed: list[CallClosed] = []

    async def follow() -> None:
        async for record in feed:
            content = decode(record.value)
            if isinstance(content, CallClosed):
                closed.append(content)

    watch = IdleWatch(bus, runner, idle_s=idle_s, late_s=LATE_S)
    work = (runner.run(), watch.run(), follow())
    return SimpleNamespace(closed=closed, tasks=[asyncio.create_task(task) for task in work])


async def send(
    bus: MemoryBus, *events: CallStarted | AudioChunk | CallEnded, first: int = 0, source: str = "test"
) -> None:
    for seq, event in enumerate(events, first):
        headers, value = encode_audio_event(event, call=CALL, seq=seq, source=source)
        event_id = f"{source}/{seq}"
        await bus.publish(Outgoing(topics.AUDIO, key=CALL.key, value=value, event_id=event_id, headers=headers))


async def stop(running: SimpleNamespace) -> None:
    for task in running.tasks:
        task.cancel()
    await asyncio.gather(*running.tasks, return_exceptions=True)


START = CallStarted(encoding="pcm_s16le", sample_rate_hz=8000, channels=1)


async def test_a_call_whose_producer_vanished_is_ended_once_and_provisionally() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus)
    await send(bus, START, AudioChunk(data=bytes(1600)))
    await asyncio.sleep(4 * IDLE_S)
    await stop(running)
    assert [(closed.provisional, closed.reason) for closed in running.closed] == [(True, "idle")]


async def test_a_call_that_goes_on_is_not_ended() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus)
    await send(bus, START)
    for seq in range(1, 9):
        await asyncio.sleep(IDLE_S / 3)
        await send(bus, AudioChunk(data=bytes(1600)), first=seq)
    assert running.closed == []
    await send(bus, CallEnded(events=10), first=9)
    await asyncio.sleep(0.2)
    await stop(running)
    assert [closed.provisional for closed in running.closed] == [False]


async def test_the_clock_stands_still_while_the_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Deaf(partitions=1)
    running = await started(bus)
    await send(bus, START, AudioChunk(data=bytes(1600)))
    bus.answers = False
    await asyncio.sleep(4 * IDLE_S)
    assert running.closed == []
    bus.answers = True
    await asyncio.sleep(3 * IDLE_S)
    await stop(running)
    assert len(running.closed) == 1


async def test_an_end_that_overtakes_a_chunk_waits_for_it() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus, idle_s=60.0)
    await send(bus, START, AudioChunk(data=bytes(8000)))
    await send(bus, CallEnded(events=4), first=3)
    await asyncio.sleep(0.3 * LATE_S)
    await send(bus, AudioChunk(data=bytes(8000)), first=2)
    await asyncio.sleep(0.3)
    await stop(running)
    assert [(closed.duration_s, closed.gaps, closed.reason) for closed in running.closed] == [(1.0, [], "hangup")]


async def test_missing_chunks_are_given_up_in_time_all_at_once_and_the_call_ends() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus, idle_s=60.0)
    await send(bus, START, AudioChunk(data=bytes(8000)))
    for seq in (3, 5, 7):
        await send(bus, AudioChunk(data=bytes(8000)), first=seq)
    await send(bus, CallEnded(events=10), first=9)
    await asyncio.sleep(0.7 * LATE_S)
    assert running.closed == []
    await asyncio.sleep(LATE_S)
    await stop(running)
    [closed] = running.closed
    assert ([gap.events for gap in closed.gaps], closed.reason) == ([1, 1, 1, 1], "hangup")
    assert [record.headers["ce_id"] async for record in bus.stored(topics.AUDIO)][6:] == ["default/call-1/9/overdue"]


async def test_nothing_is_given_up_while_the_broker_does_not_answer() -> None:
    bus = Deaf(partitions=1)
    running = await started(bus, idle_s=60.0)
    await send(bus, START)
    await send(bus, CallEnded(events=3), first=2)
    bus.answers = False
    await asyncio.sleep(2 * LATE_S)
    bus.answers = True
    await asyncio.sleep(0.5 * LATE_S)
    await send(bus, AudioChunk(data=bytes(8000)), first=1)
    await asyncio.sleep(0.3)
    await stop(running)
    assert [closed.gaps for closed in running.closed] == [[]]


async def test_who_watches_a_call_does_not_keep_it_open() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus)
    await send(bus, START, AudioChunk(data=bytes(1600)))
    for number in range(12):
        headers, value = encode_watch(CallWatched(), call=CALL, event_id=f"viewer/{number}", source="test")
        await bus.publish(Outgoing(topics.AUDIO, key=CALL.key, value=value, event_id=headers["ce_id"], headers=headers))
        await asyncio.sleep(IDLE_S / 3)
    await stop(running)
    assert [closed.reason for closed in running.closed] == ["idle"]


async def test_requests_to_watch_calls_that_do_not_exist_leave_nothing_behind() -> None:
    bus = MemoryBus(partitions=1)
    running = await started(bus)
    for number in range(20):
        call = CallRef("default", f"unknown-{number}")
        headers, value = encode_watch(CallWatched(), call=call, event_id=f"viewer/{number}", source="test")
        await bus.publish(Outgoing(topics.AUDIO, key=call.key, value=value, event_id=headers["ce_id"], headers=headers))
    read = Subscription(group="separate", topics=(topics.AUDIO,), progress_topic=topics.UTTERANCES)
    async with asyncio.timeout(5):
        while await bus.lag(read):  # noqa: ASYNC110  # a bus tells it only when asked
            await asyncio.sleep(0.01)
    await stop(running)
    for topic in (topics.UTTERANCES, topics.STATUS, topics.DEAD_LETTERS):
        assert [record async for record in bus.stored(topic)] == []


async def test_a_restart_amid_a_call_makes_no_letters_of_what_is_delivered_again() -> None:
    bus = MemoryBus(partitions=1)
    chunks = [AudioChunk(data=bytes([level]) * 8000) for level in range(1, 13)]
    for part in range(4):
        running = await started(bus, idle_s=60.0)
        await send(bus, *([START] if part == 0 else []), *chunks[3 * part : 3 * part + 3], first=3 * part + (part > 0))
        await asyncio.sleep(0.2)
        await stop(running)
    running = await started(bus, idle_s=60.0)
    await send(bus, *chunks[:2], first=1, source="the same again")
    await send(bus, *reversed(chunks[-2:]), first=11, source="something else")
    await send(bus, CallEnded(events=14), first=13)
    await asyncio.sleep(0.5)
    await stop(running)
    assert [(closed.duration_s, closed.gaps) for closed in running.closed] == [(6.0, [])]
    letters = [msgspec.json.decode(record.value, type=DeadLetter) async for record in bus.stored(topics.DEAD_LETTERS)]
    assert [letter.headers["ce_callseq"] for letter in letters] == ["11", "12"]
    assert {letter.message for letter in letters} == {
        f"event {seq} has the number of another event, with other content" for seq in (11, 12)
    }
