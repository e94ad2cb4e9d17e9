"""A producer that changes the language in the middle of a call, with the real model."""

import asyncio
from pathlib import Path

import pytest

from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Outgoing
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted, CallUpdated
from schemas.calls import CallRef
from schemas.cloudevents import encode_audio_event
from schemas.topics import AUDIO
from tests.calls import bad
from tests.e2e.logins import bus_login
from tests.e2e.test_partials import stored
from tests.support.processes.deployment import Deployment

CALL = CallRef("default", "handed-over")
HANDED_OVER_S = 13.4

pytestmark = pytest.mark.slow


def events(path: Path) -> list[AudioEvent]:
    """English until a pause, then Spanish and somebody else's name, then an update that cannot be used."""
    pcm, rate_hz = bad.read_wav(path)
    size = rate_hz // 5
    chunks: list[AudioEvent] = [
        AudioChunk(data=pcm[at : at + size].astype("<i2").tobytes()) for at in range(0, len(pcm), size)
    ]
    at = round(HANDED_OVER_S * 5)
    start = CallStarted(
        encoding="pcm_s16le", sample_rate_hz=rate_hz, channels=2, roles=["agent", "customer"], language="en"
    )
    updates: list[AudioEvent] = [
        CallUpdated(language="es", hotwords=["Iberdrola"]),
        CallUpdated(language="Klingon"),
    ]
    between = [*chunks[:at], *updates, *chunks[at:]]
    return [start, *between, CallEnded(events=len(between) + 2)]


async def test_what_is_said_behind_an_update_is_heard_in_its_language(running: Deployment, short_call: Path) -> None:
    bus = await open_bus(*bus_login(running))
    try:
        for seq, event in enumerate(events(short_call)):
            headers, value = encode_audio_event(event, call=CALL, seq=seq, source="test")
            await bus.publish(Outgoing(AUDIO, key=CALL.key, value=value, event_id=headers["ce_id"], headers=headers))
        document = await asyncio.to_thread(running.wait_completed, CALL.call_id)
        _, segments = await stored(bus)
    finally:
        await bus.close()
    segments = [segment for segment in segments if segment.call == CALL]
    languages = {segment.voiced[0][0] >= HANDED_OVER_S: segment.language for segment in segments}
    assert languages == {False: "en", True: "es"}
    assert len({(segment.voiced[0][0] >= HANDED_OVER_S, segment.language) for segment in segments}) == 2
    assert (document["duration_s"], document["gaps"]) == (pytest.approx(18.0, abs=0.1), [])
    updated = {job["job"]: job["detail"] for job in document["jobs"] if job["status"] == "updated"}
    assert updated["separate"]["language"] == "es"
    assert updated["separate"]["from_s"] == pytest.approx(HANDED_OVER_S)
    assert updated["transcribe"]["language"] == "es"
    assert updated["transcribe"]["hotwords"] == ["Iberdrola"]
    [rejected] = [job["error"] for job in document["jobs"] if job["status"] == "rejected"]
    assert "'Klingon' is not a code" in rejected
    assert "handed-over" in running.run("dead-letters", "list").stdout
