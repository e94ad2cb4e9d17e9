"""Live text through the runner, with an engine that changes its mind and workers that die."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Outgoing
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_stage_record
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import topology, transcribe
from schemas import envelope, topics
from schemas.partials import FINAL_REVISION, PARTIAL_TYPE, Commitment, Partial
from schemas.segments import Segment, Word
from schemas.utterances import CallChanged, CallOpened, CallProgress, Channel, InterimUtterance, Utterance
from stages.protocol import Event, Origin
from stages.transcribe.engine.protocol import Row, Transcription
from stages.transcribe.engine.windows import SAMPLE_RATE_HZ
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage
from tests.unit.stages.transcribe.engines import FakeEngine, until
from tests.unit.stages.transcribe.records import CALL, closed

RATE_HZ = 8000
UTTERANCE_S = 12.0
INTERIMS = 6


class WaveringEngine(FakeEngine):
    """Hears two words a second, is wrong about the newest of them, and the final differs from what interims heard."""

    def __init__(self, *, fails_finals: bool = False, no_speech: float = 0.1) -> None:
        super().__init__()
        self.fails_finals = fails_finals
        self.no_speech = no_speech
        self.interims: list[float] = []
        self.asked: list[object] = []

    def transcribe_batch(self, rows: Sequence[Row]) -> list[Transcription]:
        self.gate.wait(10)
        return [self._hear(row) for row in rows]

    def _hear(self, row: Row) -> Transcription:
        seconds = len(row.audio) / SAMPLE_RATE_HZ
        if row.interim:
            self.interims.append(seconds)
            self.asked.append(row.language)
        elif self.fails_finals:
            raise RuntimeError("no memory left")
        count = round(seconds * 2)
        words = [f"w{index}" for index in range(count)]
        if row.interim:
            words[-2:] = [f"{word}maybe{count}" for word in words[-2:]]
        else:
            words = [word.upper() if index % 3 else word for index, word in enumerate(words)]
        text = " ".join([row.prefix, *words[len(row.prefix.split()) :]]).strip()
        said = [] if row.interim else text.split()
        return Transcription(
            text=text,
            words=[
                Word(text=word, start_s=index / 2, end_s=index / 2 + 0.4, probability=0.9)
                for index, word in enumerate(said)
            ],
            language="en",
            average_logprob=-0.2,
            no_speech_probability=0.1 if row.interim else self.no_speech,
        )


def opened(*, partials: bool = True) -> CallOpened:
    return CallOpened(
        call=CALL,
        seq=0,
        channels=[Channel(0, "agent"), Channel(1, "customer")],
        sample_rate_hz=RATE_HZ,
        encoding="pcm_s16le",
        language="en",
        partials=partials,
        metadata={},
        opened_at=1.0,
    )


def pcm(seconds: float) -> bytes:
    return np.full(int(seconds * RATE_HZ), 300, "<i2").tobytes()


def interim(channel: int, start_s: float, revision: int, *, certain: bool = True) -> InterimUtterance:
    return InterimUtterance(
        call=CALL,
        channel=channel,
        first_sample=int(start_s * RATE_HZ),
        sample_rate_hz=RATE_HZ,
        pcm=pcm(revision),
        voiced=[(start_s, start_s + revision)],
        revision=revision,
        certain=certain,
    )


def utterance(seq: int, channel: int, start_s: float, seconds: float) -> Utterance:
    return Utterance(
        call=CALL,
        seq=seq,
        channel=channel,
        first_sample=int(start_s * RATE_HZ),
        sample_rate_hz=RATE_HZ,
        pcm=pcm(seconds),
        voiced=[(start_s, start_s + seconds)],
        cut="pause",
    )


def commitment(committed: str, *, tail: str = "") -> Commitment:
    """Of the utterance that begins on the first channel after a second."""
    return Commitment(
        call=CALL,
        channel=0,
        first_sample=8000,
        revision=1,
        committed=committed,
        tail=tail,
        start_s=1.0,
        end_s=3.0,
        language="en",
    )


def whole_call(*, partials: bool = True) -> list[envelope.StageRecord]:
    """Two channels that speak at once, three utterances each, with progress between them."""
    records: list[envelope.StageRecord] = [opened(partials=partials)]
    seq = 1
    for number in range(3):
        start_s = number * UTTERANCE_S
        for revision in range(1, INTERIMS + 1):
            records += [interim(channel, start_s + channel, revision) for channel in (0, 1)]
            if revision % 2 == 0:
                records.append(CallProgress(call=CALL, seq=seq, heard_to_s=[start_s, start_s]))
                seq += 1
        for channel in (0, 1):
            records.append(utterance(seq, channel, start_s + channel, INTERIMS + 0.5))
            seq += 1
    return [*records, closed(seq)]


class Call:
    """The transcribe stage on the reference bus, whose worker may be killed and started again."""

    def __init__(self, bus: MemoryBus, engine: FakeEngine) -> None:
        self.bus = bus
        self.engine = engine
        self.dropped: list[str] = []
        self._count = 0
        self._scheduler: Scheduler | None = None
        self._running: asyncio.Task[None] | None = None
        self.runner: StageRunner | None = None

    async def start(self) -> None:
        self._scheduler = Scheduler(self.engine, workers=2)
        metrics = Metrics()
        self.runner = StageRunner(
            self.bus,
            TranscribeStage(self._scheduler, dropped=self.dropped.append),
            subscription=transcribe.WIRING.subscription(),
            decoder=decode_stage_record,
            publisher=Publisher(self.bus, stage="transcribe", lane="live", metrics=metrics),
            metrics=metrics,
            budget_bytes=6_000_000,
        )
        self._running = asyncio.create_task(self.runner.run())

    async def kill(self) -> None:
        assert self._running is not None
        assert self._scheduler is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self.engine.gate.set()
        await self._scheduler.close()

    async def publish(self, record: envelope.StageRecord) -> None:
        self._count += 1
        await self.bus.publish(
            Outgoing(
                topics.UTTERANCES,
                key=CALL.key,
                value=envelope.encode(record),
                event_id=f"in/{self._count}",
                headers={"ce_id": f"in/{self._count}"},
            )
        )

    async def partials(self) -> list[Partial]:
        values = [record.value async for record in self.bus.stored(topics.PARTIALS)]
        return [msgspec.json.decode(value, type=Partial) for value in values]

    async def commitments(self) -> list[Commitment]:
        records = [envelope.decode(record.value) async for record in self.bus.stored(topics.UTTERANCES)]
        return [record for record in records if isinstance(record, Commitment)]

    async def segments(self) -> list[Segment]:
        records = [envelope.decode(record.value) async for record in self.bus.stored(topics.SEGMENTS)]
        return [record for record in records if isinstance(record, Segment)]

    async def until_partials(self, count: int) -> list[Partial]:
        async with asyncio.timeout(10):
            while len(found := await self.partials()) < count:  # noqa: ASYNC110  # a bus tells it only when asked
                await asyncio.sleep(0.002)
        return found

    async def until_segments(self, count: int) -> list[Segment]:
        async with asyncio.timeout(10):
            while len(found := await self.segments()) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return found

    async def until_done(self) -> None:
        assert self.runner is not None
        async with asyncio.timeout(10):
            while await self.bus.lag(self.runner.subscription):  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@asynccontextmanager
async def call(engine: FakeEngine) -> AsyncIterator[Call]:
    bus = MemoryBus(partitions=2)
    await bus.ensure_topics(topology.topic_specs(partitions=2, retention_days=1, store_bytes=10**9))
    made = Call(bus, engine)
    await made.start()
    try:
        yield made
    finally:
        await made.kill()


def assert_nothing_flipped(partials: Sequence[Partial], segments: Sequence[Segment]) -> None:
    texts = {segment.segment_id: segment.text for segment in segments}
    shown: defaultdict[str, list[Partial]] = defaultdict(list)
    for partial in partials:
        shown[partial.utterance_id].append(partial)
    for utterance_id, versions in shown.items():
        newest = ""
        for partial in sorted(versions, key=lambda partial: partial.revision):
            assert partial.committed.startswith(newest)
            newest = partial.committed
        assert (versions[-1].final, newest) == (True, texts[utterance_id])


async def test_text_is_shown_while_it_is_spoken_and_what_two_hypotheses_agree_on_is_committed() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        for revision in (1, 2, 3, 4):
            await live.publish(interim(1, 5.0, revision))
            shown = await live.until_partials(revision)
        await live.publish(utterance(1, 1, 5.0, 4.5))
        [segment] = await live.until_segments(1)
        shown = await live.until_partials(5)
    assert [(partial.committed, partial.tail) for partial in shown[:4]] == [
        ("", "w0maybe2 w1maybe2"),
        ("", "w0 w1 w2maybe4 w3maybe4"),
        ("w0 w1", " w2 w3 w4maybe6 w5maybe6"),
        ("w0 w1 w2 w3", " w4 w5 w6maybe8 w7maybe8"),
    ]
    assert [partial.revision for partial in shown] == [1, 2, 3, 4, FINAL_REVISION]
    last = shown[-1]
    assert (last.committed, last.tail, last.final) == (segment.text, "", True)
    assert segment.text == "w0 w1 w2 w3 W4 W5 w6 W7 W8"
    assert {partial.utterance_id for partial in shown} == {segment.segment_id}
    assert {(partial.channel, partial.speaker, partial.start_s) for partial in shown} == {(1, "customer", 5.0)}


async def test_a_partial_is_published_as_a_cloudevent_of_its_call() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(interim(0, 1.0, 1))
        await live.until_partials(1)
        [record] = [record async for record in live.bus.stored(topics.PARTIALS)]
    assert record.key == CALL.key
    assert record.headers["ce_type"] == PARTIAL_TYPE
    assert (record.headers["ce_subject"], record.headers["content-type"]) == ("call-1", "application/json")
    assert "ce_callseq" not in record.headers


@pytest.mark.parametrize("seed", range(25))
async def test_committed_text_never_changes_wherever_workers_die(seed: int) -> None:
    chance = random.Random(seed)
    engine = WaveringEngine()
    async with call(engine) as live:
        for record in whole_call(partials=seed % 2 == 0):
            await live.publish(record)
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
            if chance.random() < 0.15:
                await live.kill()
                await live.start()
        await live.until_done()
        partials, segments, commitments = await live.partials(), await live.segments(), await live.commitments()
    assert [segment.seq for segment in segments] == sorted({segment.seq for segment in segments})
    assert len(segments) == 6
    assert commitments
    assert_nothing_flipped(partials, segments)


async def test_a_commitment_that_comes_behind_its_utterance_changes_nothing() -> None:
    late = commitment("something else")
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(utterance(1, 0, 1.0, 1.0))
        await live.publish(late)
        await live.publish(closed(2))
        await live.until_done()
        [segment] = await live.segments()
        [last] = await live.partials()
    assert segment.text == last.committed == "w0 W1"


async def test_of_two_commitments_to_different_text_the_first_one_holds() -> None:
    first = commitment("one", tail=" two")
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        await live.publish(first)
        await live.publish(msgspec.structs.replace(first, committed="another one", revision=2))
        await live.publish(msgspec.structs.replace(first, committed="one two", revision=3))
        await live.publish(utterance(1, 0, 1.0, 1.5))
        [segment] = await live.until_segments(1)
        partials = await live.partials()
    assert segment.text == "one two W2"
    assert [partial.committed for partial in partials] == ["one", "one two", "one two W2"]


async def test_words_that_a_cut_may_still_take_away_are_not_committed() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened())
        for revision in range(1, 9):
            await live.publish(interim(0, 1.0, revision, certain=revision <= 4))
            shown = await live.until_partials(revision)
    assert shown[-1].committed.split() == [f"w{index}" for index in range(6)]
    assert len((shown[-1].committed + shown[-1].tail).split()) == 16


async def test_a_newer_interim_replaces_one_that_waits_and_the_final_both() -> None:
    engine = WaveringEngine()
    engine.gate.clear()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(interim(1, 1.0, 1))  # takes the one worker that interims may have
        await asyncio.sleep(0.05)
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
        await until(lambda: len(live.dropped) == 2)
        assert live.dropped == ["newer", "newer"]
        await live.publish(utterance(1, 0, 1.0, 4.0))
        await until(lambda: len(live.dropped) == 3)
        engine.gate.set()
        [segment] = await live.until_segments(1)
    assert live.dropped == ["newer", "newer", "final"]
    assert engine.interims == [1.0]
    assert segment.channel == 0


async def test_a_final_is_not_held_up_by_an_interim_of_the_call() -> None:
    engine = WaveringEngine()
    hold = HeldInterims()
    async with call(hold) as live:
        await live.publish(opened())
        await live.publish(interim(1, 1.0, 1))
        await until(lambda: hold.held == 1)
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(CallProgress(call=CALL, seq=2, heard_to_s=[3.0, 1.0]))
        [segment] = await live.until_segments(1)
        assert segment.channel == 0
        hold.let_go.set()
    assert engine.interims == []


class HeldInterims(WaveringEngine):
    def __init__(self) -> None:
        super().__init__()
        import threading

        self.let_go = threading.Event()
        self.held = 0

    def _hear(self, row: Row) -> Transcription:
        if row.interim:
            self.held += 1
            self.let_go.wait(10)
        return super()._hear(row)


async def test_what_was_committed_stays_where_the_engine_fails() -> None:
    async with call(WaveringEngine(fails_finals=True)) as live:
        await live.publish(opened())
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        await live.publish(utterance(1, 0, 1.0, 3.5))
        [segment] = await live.until_segments(1)
        partials = await live.until_partials(4)
    assert (segment.text, segment.guard, segment.flags) == ("w0 w1", None, ["error"])
    assert [(word.text, word.interpolated) for word in segment.words] == [("w0", True), ("w1", True)]
    assert_nothing_flipped(partials, [segment])


async def test_what_was_committed_is_not_dropped_by_a_guard() -> None:
    async with call(WaveringEngine(no_speech=0.99)) as live:
        await live.publish(opened())
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        await live.publish(utterance(1, 0, 1.0, 3.5))
        await live.publish(utterance(2, 0, 9.0, 3.5))
        kept, dropped = await live.until_segments(2)
    assert (kept.text.split()[:2], kept.guard, kept.flags) == (["w0", "w1"], None, ["no_speech"])
    assert (dropped.text, dropped.guard) == ("", "no_speech")


async def test_a_call_that_nobody_asks_for_gets_no_partials() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        assert await live.partials() == []
    assert engine.interims == []


async def test_a_call_that_is_watched_gets_partials_of_what_was_heard_while_it_was() -> None:
    """The first utterance was over before, the second had begun, nobody watches the last one any more."""
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        for number, revision in enumerate((4, 5), 1):
            await live.publish(interim(0, 5.0, revision))
            await live.until_partials(number)
        await live.publish(utterance(2, 0, 5.0, 6.0))
        await live.publish(utterance(3, 0, 15.0, 2.0))
        _, segment, _ = await live.until_segments(3)
        partials = await live.partials()
    assert [partial.revision for partial in partials] == [4, 5, FINAL_REVISION]
    assert {partial.utterance_id for partial in partials} == {segment.segment_id}
    assert partials[1].committed
    assert_nothing_flipped(partials, [segment])


async def test_an_interim_that_comes_again_behind_its_utterance_gives_nothing_though_none_was_heard_before() -> None:
    """A separator that goes on after a crash may repeat what it heard, and meanwhile somebody began to watch."""
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(interim(0, 1.0, 1))
        await live.publish(closed(2))
        await live.until_done()
        assert await live.partials() == []
    assert engine.interims == []


async def test_an_utterance_that_viewers_were_shown_gets_its_last_partial_also_after_a_restart() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        for revision in (1, 2, 3):
            await live.publish(interim(0, 1.0, revision))
            await live.until_partials(revision)
        for seq in (1, 2, 3):  # their checkpoints release the interims
            await live.publish(CallProgress(call=CALL, seq=seq, heard_to_s=[1.0, 1.0]))
        async with asyncio.timeout(10):
            while len([record async for record in live.bus.stored(topics.SEGMENTS)]) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await live.kill()
        await live.start()
        await live.publish(utterance(4, 0, 1.0, 3.5))
        [segment] = await live.until_segments(1)
        partials = await live.partials()
    assert partials[-1].final
    assert_nothing_flipped(partials, [segment])


async def test_a_call_may_begin_to_ask_and_stop() -> None:
    async with call(WaveringEngine()) as live:
        await live.publish(opened(partials=False))
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.publish(CallChanged(call=CALL, seq=2, from_s=4.0, partials=True))
        await live.publish(utterance(3, 0, 5.0, 2.0))
        await live.publish(CallChanged(call=CALL, seq=4, from_s=8.0, partials=False))
        await live.publish(utterance(5, 0, 9.0, 2.0))
        _, segment, _ = await live.until_segments(3)
        partials = await live.partials()
    assert [(partial.utterance_id, partial.final) for partial in partials] == [(segment.segment_id, True)]


async def test_an_interim_is_heard_in_the_language_that_was_in_force_when_its_speech_began() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(CallChanged(call=CALL, seq=1, from_s=6.0, language="fr"))
        await live.publish(interim(0, 5.0, 1))
        await live.until_partials(1)
        await live.publish(interim(1, 6.0, 1))
        await live.until_partials(2)
    assert engine.asked == ["en", "fr"]


async def test_interims_behind_the_first_utterance_are_heard_in_the_language_of_the_call_too() -> None:
    engine = WaveringEngine()
    async with call(engine) as live:
        await live.publish(opened())
        await live.publish(utterance(1, 0, 1.0, 2.0))
        await live.until_segments(1)
        await live.publish(interim(1, 6.0, 1))
        await live.until_partials(2)
    assert engine.asked == ["en"]


async def test_a_call_that_was_opened_before_all_live_calls_kept_this_state_can_be_watched() -> None:
    state = msgspec.msgpack.encode({"released": 1, "vote": {"locked": "en"}})
    scheduler = Scheduler(WaveringEngine(), workers=1)
    try:
        processor = TranscribeStage(scheduler).open(CALL, state)
        event = Event(seq=1, event_id="", origin=Origin("in", 0, 1, CALL.key), timestamp_s=1.0)
        [shown] = [output.record async for output in processor.submit(interim(1, 1.0, 1), event)]
    finally:
        await scheduler.close()
    assert isinstance(shown, Partial)
    assert shown.speaker == "channel-1"


async def test_a_finished_call_is_acknowledged_to_its_end_though_interims_came_late() -> None:
    async with call(WaveringEngine()) as live:
        for record in (opened(), utterance(1, 0, 1.0, 2.0), closed(2), interim(0, 1.0, 1)):
            await live.publish(record)
        await live.until_done()
