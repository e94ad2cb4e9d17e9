"""Text while it is being spoken: shown live, kept through kills, with the real model."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import nats
import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus
from pipeline.bus.security import BusSecurity
from pipeline.client.publish import publish_audio
from pipeline.wiring.weights import resolve_model
from schemas import envelope, topics
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import CallRef
from schemas.generate import published_schema
from schemas.partials import FINAL_REVISION, PARTIAL_TYPE, Commitment, Partial
from schemas.segments import Segment
from schemas.utterances import CallClosed, InterimUtterance
from stages.protocol import CallProcessor, Event, Origin, Output
from stages.separate.files import open_audio_file
from stages.separate.speech import load_voice_activity_model
from stages.separate.stage import SeparateStage
from stages.transcribe.engine.whisper import Engine
from stages.transcribe.scheduling.scheduler import Scheduler
from stages.transcribe.stage import TranscribeStage
from tests.calls import bad
from tests.e2e.logins import bus_login
from tests.support.brokers.kafka import KafkaServer
from tests.support.brokers.nats import NatsProcess
from tests.support.processes.deployment import SAMPLE, SAMPLE_ROLES, Deployment
from tests.support.processes.workers import Workers

CALL = CallRef("default", "watched")
KILLS = 3


def check(partials: Sequence[Partial], segments: Sequence[Segment]) -> None:
    """What viewers were told stays true: nobody who kept committed text has to take it back."""
    texts = {segment.segment_id: segment.text for segment in segments}
    shown: defaultdict[str, list[Partial]] = defaultdict(list)
    for partial in partials:
        shown[partial.utterance_id].append(partial)
    assert shown.keys() <= texts.keys()
    for utterance_id, versions in shown.items():
        committed = ""
        for partial in sorted(versions, key=lambda partial: partial.revision):
            assert partial.committed.startswith(committed)
            committed = partial.committed
        assert {partial.final for partial in versions if partial.revision == FINAL_REVISION} == {True}
        assert committed == texts[utterance_id]


async def stored(bus: Bus) -> tuple[list[Partial], list[Segment]]:
    partials = [msgspec.json.decode(record.value, type=Partial) async for record in bus.stored(topics.PARTIALS)]
    records = [envelope.decode(record.value) async for record in bus.stored(topics.SEGMENTS)]
    return partials, [record for record in records if isinstance(record, Segment)]


@pytest.mark.slow
async def test_a_viewer_reads_along_and_committed_text_stays(running: Deployment, short_call: Path) -> None:
    schema = jsonschema.Draft202012Validator(published_schema(PARTIAL_TYPE))
    client = await nats.connect(**running.login)
    bus = await open_bus(*bus_login(running))
    seen: list[Any] = []

    async def see(message: Any) -> None:
        seen.append(message)

    try:
        viewer = await client.subscribe("live.default.watched", cb=see)
        await client.flush()
        publisher = running.publish(short_call, "watched", "--realtime", "--partials", "--roles", SAMPLE_ROLES)
        await asyncio.to_thread(publisher.communicate, timeout=120)
        assert publisher.returncode == 0
        document = await asyncio.to_thread(running.wait_completed, "watched")
        await viewer.unsubscribe()
        partials, segments = await stored(bus)
    finally:
        await client.close()
        await bus.close()
    shown = [json.loads(message.data) for message in seen if message.headers["ce-type"] == PARTIAL_TYPE]
    for value in shown:
        schema.validate(value)
    partials = [partial for partial in partials if partial.call_id == "watched"]
    assert shown == [msgspec.to_builtins(partial) for partial in partials]
    segments = [segment for segment in segments if segment.call.call_id == "watched"]
    check(partials, segments)
    assert {partial.speaker for partial in partials} == {"agent", "customer"}
    final = [partial.committed for partial in partials if partial.final and partial.committed]
    assert sorted(final) == sorted(segment.text for segment in segments if segment.text)
    assert " ".join(turn["text"] for turn in document["turns"]) == " ".join(
        segment.text for segment in sorted(segments, key=lambda segment: segment.start_s) if segment.text
    )
    assert any(partial.committed for partial in partials if not partial.final)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_half_of_the_words_are_committed_before_their_utterance_ends(tmp_path: Path) -> None:
    """The stages alone, each interim heard before the next second of audio: as on a machine that has the time."""
    model = resolve_model("base", tmp_path)
    scheduler = Scheduler(Engine(model.path, name=model.name), workers=1)
    separator = SeparateStage(load_voice_activity_model()).open(CALL, None)
    transcriber = TranscribeStage(scheduler, language="en").open(CALL, None)
    partials: list[Partial] = []
    segments: list[Segment] = []

    async def transcribe(record: Any) -> None:
        seq = 0 if isinstance(record, InterimUtterance | Commitment) else record.seq
        async for output in submitted(transcriber, record, seq):
            if isinstance(output.record, Commitment):
                await transcribe(output.record)
            elif isinstance(output.record, Partial):
                partials.append(output.record)
            elif isinstance(output.record, Segment):
                segments.append(output.record)

    for seq, event in enumerate(events(SAMPLE)):
        async for output in submitted(separator, event, seq):
            if output.topic == topics.UTTERANCES:
                await transcribe(output.record)
    await scheduler.close()
    check(partials, segments)
    newest = {partial.utterance_id: partial.committed for partial in partials if not partial.final}
    committed = sum(len(text.split()) for text in newest.values())
    words = sum(len(segment.words) for segment in segments)
    assert words > 150
    assert committed >= 0.6 * words, f"{committed} of {words} words"


async def submitted(processor: CallProcessor[Any], record: Any, seq: int) -> AsyncIterator[Output]:
    origin = Origin("", 0, seq, CALL.key)
    async for output in processor.submit(record, Event(seq=seq, event_id="", origin=origin, timestamp_s=1.0)):
        yield output


def events(path: Path) -> Iterator[AudioEvent]:
    with contextlib.closing(open_audio_file(path)) as audio:
        yield CallStarted(
            encoding="pcm_s16le", sample_rate_hz=audio.sample_rate_hz, channels=2, language="en", partials=True
        )
        size, count = audio.sample_rate_hz // 5 * 4, 1
        for block in audio:
            for at in range(0, len(block), size):
                yield AudioChunk(data=block[at : at + size])
                count += 1
    yield CallEnded(events=count + 1)


@pytest.fixture(params=["nats", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "kafka":
        with KafkaServer(tmp_path / "kafka") as kafka:
            kafka.start()
            yield f"kafka://{kafka.bootstrap}"
    else:
        with NatsProcess(tmp_path / "nats") as server:
            yield server.url


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_committed_text_outlives_transcribers_that_are_killed_in_the_middle_of_an_utterance(
    bus_url: str, tmp_path: Path
) -> None:
    pcm, rate_hz = bad.read_wav(SAMPLE)
    call = bad.write_wav(tmp_path / "call.wav", [pcm[: 40 * rate_hz]], rate_hz=rate_hz, channels=2)
    deployment = Deployment(tmp_path / "data", bus=bus_url, store_gb="2")
    with Workers(deployment, stages=("separate", "transcribe")) as workers:
        await asyncio.to_thread(workers.wait_ready)
        bus = await open_bus(bus_url, BusSecurity())
        audio = open_audio_file(call)
        publishing = asyncio.create_task(
            publish_audio(
                bus,
                audio,
                call=CALL,
                roles=["agent", "customer"],
                language="en",
                metadata={},
                lane="live",
                realtime=True,
                partials=True,
            )
        )
        try:
            hit: set[str] = set()
            for _ in range(KILLS):
                found = await committed_of_an_open_utterance(bus, hit, publishing)
                if found is None:
                    break
                hit.add(found)
                workers.kill("transcribe")
                workers.start("transcribe")
                await asyncio.to_thread(workers.wait_ready)
            published = await publishing
            partials, segments = await until_answered(bus, utterances_of=published.audio_s)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            audio.close()
            await bus.close()
    assert hit, "no utterance was open with committed text"
    check(partials, segments)
    assert hit <= {segment.segment_id for segment in segments}
    assert [segment.seq for segment in segments] == sorted({segment.seq for segment in segments})


async def committed_of_an_open_utterance(bus: Bus, hit: set[str], publishing: "asyncio.Task[Any]") -> str | None:
    """The first utterance seen that has committed text and is not over; None when the call has been sent first."""
    while not publishing.done():
        partials, _ = await stored(bus)
        over = {partial.utterance_id for partial in partials if partial.final} | hit
        open_ = [p.utterance_id for p in partials if p.committed and p.utterance_id not in over]
        if open_:
            return open_[-1]
        await asyncio.sleep(0.05)
    return None


async def until_answered(bus: Bus, *, utterances_of: float) -> tuple[list[Partial], list[Segment]]:
    """Partials and segments once the call's last record has come out of the transcriber."""
    async with asyncio.timeout(120 + utterances_of):
        while True:
            records = [envelope.decode(record.value) async for record in bus.stored(topics.SEGMENTS)]
            if records and isinstance(records[-1], CallClosed):
                return await stored(bus)
            await asyncio.sleep(0.5)
