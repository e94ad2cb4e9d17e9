"""Calls of plain producers. Each is a function of its number and the seed, so that it can be sent again later.

All are cut from the sample call, each with its own offset, loudness and line noise, and differ in encoding, chunk
length, tenant and lane.
"""

import io
import json
import wave
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.calls import bad
from tests.support.processes.deployment import SAMPLE

ENCODINGS = ("mulaw", "mulaw", "mulaw", "pcm_s16le", "pcm_s16le", "f32le", "container")
CHUNKS_S = (0.1, 0.25, 0.5, 1.0)
TENANTS = ("default", "default", "acme")
TOPICS = ("calls.audio", "calls.audio", "calls.audio", "calls.audio.batch")


class ProducedEvent(NamedTuple):
    """A producer's event: headers as the Kafka binding spells them, and the seconds of audio up to it."""

    headers: dict[str, str]
    value: bytes
    at_s: float


class ProducedCall(msgspec.Struct, frozen=True):
    """A call with all its events."""

    number: int
    call_id: str
    tenant: str
    topic: str
    duration_s: float
    events: list[ProducedEvent]


def call_id_of(number: int, seed: int) -> str:
    return f"chaos/{seed} {number}"


def produced_call(number: int, seed: int, seconds: tuple[float, float]) -> ProducedCall:
    """Return the call of this number, with a random length within `seconds`."""
    chance = np.random.default_rng([seed, number])
    pcm, rate_hz = bad.read_wav(SAMPLE)
    length = int(chance.uniform(*seconds) * rate_hz)
    loudness = chance.uniform(0.4, 1.0, pcm.shape[1])
    noise = chance.normal(0, 6, (length, pcm.shape[1]))
    rotated = np.roll(pcm, -int(chance.integers(len(pcm))), axis=0)[:length]
    samples = np.clip(rotated * loudness + noise, -32768, 32767).astype("<i2")
    encoding = str(chance.choice(ENCODINGS))
    chunk_s = float(chance.choice(CHUNKS_S))
    call_id, tenant = call_id_of(number, seed), str(chance.choice(TENANTS))
    start = {
        "encoding": encoding,
        "sample_rate_hz": rate_hz,
        "channels": 2,
        "roles": ["agent", "customer"],
        "metadata": {"number": number},
    }
    size = int(chunk_s * rate_hz)
    if encoding == "container":
        data = _wav(samples, rate_hz)
        step = size * samples.shape[1] * 2
        chunks = [data[at : at + step] for at in range(0, len(data), step)]
    else:
        chunks = [_encoded(samples[at : at + size], encoding) for at in range(0, length, size)]
    values: list[tuple[str, bytes, float]] = [("callstream.call.started", json.dumps(start).encode(), 0.0)]
    values += [("callstream.audio.chunk", data, (index + 1) * chunk_s) for index, data in enumerate(chunks)]
    ended = {"events": len(values) + 1, "reason": "hangup"}
    values.append(("callstream.call.ended", json.dumps(ended).encode(), values[-1][2]))
    events = [
        ProducedEvent(_headers(call_id, tenant, seq, event_type), value, at_s)
        for seq, (event_type, value, at_s) in enumerate(values)
    ]
    topic = str(chance.choice(TOPICS))
    return ProducedCall(number, call_id, tenant, topic, length / rate_hz, events)


def _headers(call_id: str, tenant: str, seq: int, event_type: str) -> dict[str, str]:
    chunk = event_type == "callstream.audio.chunk"
    return {
        "ce_specversion": "1.0",
        "ce_id": f"{call_id}-{seq}",
        "ce_source": "/pbx/7",
        "ce_subject": call_id,
        "ce_tenant": tenant,
        "ce_type": event_type,
        "ce_callseq": str(seq),
        "content-type": "application/octet-stream" if chunk else "application/json",
    }


def _encoded(samples: NDArray[Any], encoding: str) -> bytes:
    if encoding == "mulaw":
        return bad.mulaw(samples)
    if encoding == "f32le":
        return (samples / 32768).astype("<f4").tobytes()
    return samples.tobytes()


def _wav(samples: NDArray[Any], rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(samples.tobytes())
    return buffer.getvalue()
