"""The separate stage as it is wired, on the reference bus, with files that decoders do not like beside good calls."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import pytest

from pipeline.bus.memory import MemoryBus
from pipeline.bus.protocol import Bus, Outgoing
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring import separate, topology
from pipeline.wiring.context import WiringContext
from pipeline.wiring.worker import Worker
from schemas import cloudevents, envelope, topics
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import CallRef
from schemas.utterances import CallClosed
from stages.separate.decoding import pool
from tests.calls import media

GOOD: Final = CallRef("default", "good")
WITHIN_S: Final = 60.0


def as_container(data: bytes) -> list[AudioEvent]:
    chunks = [AudioChunk(data=data[at : at + 100_000]) for at in range(0, len(data), 100_000)]
    start = CallStarted(encoding="container", sample_rate_hz=8_000, channels=1)
    return [start, *chunks, CallEnded(events=len(chunks) + 2)]


async def send(bus: Bus, call: CallRef, events: Iterable[AudioEvent], *, first: int = 0) -> None:
    for seq, event in enumerate(events, start=first):
        headers, value = cloudevents.encode_audio_event(event, call=call, seq=seq, source="test")
        event_id = f"{call.call_id}/{seq}"
        await bus.publish(Outgoing(topics.AUDIO, key=call.key, value=value, event_id=event_id, headers=headers))


async def closed(bus: Bus, calls: set[str]) -> dict[str, CallClosed]:
    """Return how the calls were closed, once all are."""
    found: dict[str, CallClosed] = {}
    async with asyncio.timeout(WITHIN_S):
        while set(found) != calls:
            await asyncio.sleep(0.05)
            records = [envelope.decode(record.value) async for record in bus.stored(topics.UTTERANCES)]
            found = {one.call.call_id: one for one in records if isinstance(one, CallClosed)}
    return found


@contextlib.asynccontextmanager
async def separating(bus: Bus, data: Path) -> AsyncIterator[Metrics]:
    await bus.ensure_topics(topology.topic_specs(partitions=1, retention_days=1, store_bytes=10**9))
    metrics = Metrics()
    worker = Worker(WiringContext(bus, Settings(data=data, partitions=1), metrics), [separate.WIRING])
    worker.start()
    try:
        await asyncio.wait_for(worker.ready.wait(), 30)
        yield metrics
    finally:
        await worker.stop()


def restarts(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("callstream_stage_restarts_total", {"stage": "separate"}) or 0.0


async def test_files_that_decoders_do_not_like_restart_nothing_and_hold_up_no_other_call(tmp_path: Path) -> None:
    files = {
        "joined": media.encoded("mp3", "libmp3lame", rate_hz=44_100)
        + media.encoded("mp3", "libmp3lame", rate_hz=22_050),
        "AAC of two rates": media.encoded("adts", "aac", rate_hz=16_000) + media.encoded("adts", "aac", rate_hz=44_100),
        "absurd rate": media.wav_of_rate(2_147_483_647),
        "SDP": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 15004 RTP/AVP 0\r\n",
        "ffconcat": b"ffconcat version 1.0\nfile README.md\n",
        "cut": media.recording("flac", seconds=10.0)[:9_000],
    }
    bus = MemoryBus(1)
    async with separating(bus, tmp_path) as metrics:
        await send(bus, GOOD, [CallStarted(encoding="pcm_s16le", sample_rate_hz=8_000, channels=1)])
        for number, (name, data) in enumerate(files.items()):
            await send(bus, CallRef("default", name), as_container(data))
            await send(bus, GOOD, [AudioChunk(data=bytes(8_000))], first=number + 1)
        await send(bus, GOOD, [CallEnded(events=len(files) + 2)], first=len(files) + 1)
        ends = await closed(bus, {*files, GOOD.call_id})
        assert restarts(metrics) == 0
    assert [record async for record in bus.stored(topics.DEAD_LETTERS)] == []
    failed = {name for name, end in ends.items() if end.reason.startswith("undecodable: ")}
    assert {"absurd rate", "SDP", "ffconcat"} <= failed
    assert (ends["joined"].reason, round(ends["joined"].duration_s)) == ("hangup", 4)
    assert (ends[GOOD.call_id].reason, ends[GOOD.call_id].duration_s) == ("hangup", 0.5 * len(files))
    entries: list[dict[str, Any]] = [msgspec.json.decode(entry.value) async for entry in bus.stored(topics.STATUS)]
    assert {entry["call_id"] for entry in entries if entry["status"] == "failed"} == failed


async def test_a_decoder_that_is_killed_costs_neither_a_sample_nor_a_restart(tmp_path: Path) -> None:
    data = media.recording("flac", seconds=90.0)
    bus = MemoryBus(1)
    async with separating(bus, tmp_path) as metrics:
        call = CallRef("default", "killed")
        events = as_container(data)
        await send(bus, call, events[:-1])
        [decoder] = await started_decoders()
        await send(bus, call, events[-1:], first=len(events) - 1)
        await asyncio.sleep(0.1)
        os.kill(decoder, signal.SIGKILL)
        end = (await closed(bus, {call.call_id}))[call.call_id]
        assert restarts(metrics) == 0
    assert (end.reason, end.duration_s, end.gaps) == ("hangup", 90.0, [])
    assert await started_decoders(within_s=0.0) == [], "the worker ends its processes"


async def test_while_no_decoder_starts_a_call_waits_and_is_completed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_STARTING", "raise SystemExit(3)")
    bus = MemoryBus(1)
    async with separating(bus, tmp_path) as metrics:
        call = CallRef("default", "waiting")
        await send(bus, call, as_container(media.recording("mp3")))
        await send(
            bus, GOOD, [CallStarted(encoding="pcm_s16le", sample_rate_hz=8_000, channels=1), CallEnded(events=2)]
        )
        assert set(await closed(bus, {GOOD.call_id})) == {GOOD.call_id}
        await asyncio.sleep(1.0)
        assert set(await closed(bus, {GOOD.call_id})) == {GOOD.call_id}
        monkeypatch.undo()
        end = (await closed(bus, {GOOD.call_id, call.call_id}))[call.call_id]
        assert restarts(metrics) == 0, "of the lane"
    assert (end.reason, end.duration_s) == ("hangup", 2.0)
    assert [record async for record in bus.stored(topics.DEAD_LETTERS)] == []


async def started_decoders(within_s: float = WITHIN_S) -> list[int]:
    """Return the processes that this one started for files, once there are any or the time is over."""
    until = asyncio.get_running_loop().time() + within_s
    while True:
        children = [child for child in psutil.Process().children() if "decoding.child" in " ".join(child.cmdline())]
        if children or asyncio.get_running_loop().time() >= until:
            return [child.pid for child in children]
        await asyncio.sleep(0.05)
