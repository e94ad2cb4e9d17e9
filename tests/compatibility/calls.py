"""The calls that every version processes, and their producer: a plain client without our code.

| call | part of the sample call | sent by |
|---|---|---|
| `bill` | 9.6 s, both channels | `callstream transcribe`, so as backfill |
| `mono` | 9.6 s, both speakers on one channel | `callstream publish` |
| `greeting` | 5.4 s, both channels | `callstream publish --realtime --partials` |
| `on-line` | 18 s, tenant `acme`, μ-law, with an update | `on_line`; 11.6 s of it before the kill |
| `garbled` | two unusable events | `garbled` |
"""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.calls import bad
from tests.support.processes.deployment import SAMPLE

TENANT, ON_LINE = "acme", "on-line"
BILL_S, MONO_S, GREETING_S, ON_LINE_S = 9.6, 9.6, 5.4, 18.0
SENT_S = 11.6
"""By then the agent's second utterance has begun and the customer's first has ended."""
UPDATED_S = 6.0
CHUNK_S = 0.2

JSON, BYTES = "application/json", "application/octet-stream"


class Event(NamedTuple):
    """A CloudEvent in binary mode. `attributes` have no prefix, which depends on the broker's binding."""

    call: str
    attributes: dict[str, str]
    content_type: str
    value: bytes

    def headers(self, prefix: str) -> dict[str, str]:
        return {"content-type": self.content_type} | {f"{prefix}{name}": text for name, text in self.attributes.items()}


def recording(path: Path, seconds: float, *, mono: bool = False) -> Path:
    """Write the beginning of the sample call as a WAV file and return its path."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    pcm = pcm[: round(seconds * rate_hz)]
    if mono:
        pcm = pcm.sum(axis=1, keepdims=True, dtype=np.int32).clip(-32768, 32767).astype(np.int16)
    return bad.write_wav(path, [pcm], rate_hz=rate_hz, channels=pcm.shape[1])


def on_line() -> tuple[list[Event], list[Event]]:
    """Return the events of the call before the kill, and the others."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    step = round(CHUNK_S * rate_hz)
    chunks = [bad.mulaw(pcm[at : at + step]) for at in range(0, round(ON_LINE_S * rate_hz), step)]
    start = {
        "encoding": "mulaw",
        "sample_rate_hz": rate_hz,
        "channels": 2,
        "roles": ["agent", "customer"],
        "metadata": {"queue": "billing", "agent": "Sarah"},
    }
    contents: list[tuple[str, object]] = [("callstream.call.started", start)]
    contents += [("callstream.audio.chunk", chunk) for chunk in chunks]
    contents.insert(1 + round(UPDATED_S / CHUNK_S), ("callstream.call.updated", {"hotwords": ["Northwind Energy"]}))
    contents.append(("callstream.call.ended", {"events": len(contents) + 1, "reason": "hangup"}))
    events = [_event(ON_LINE, seq, kind, content, tenant=TENANT) for seq, (kind, content) in enumerate(contents)]
    sent = 2 + round(SENT_S / CHUNK_S)
    return events[:sent], events[sent:]


def garbled() -> list[Event]:
    """Return two events that become dead letters."""
    return [
        _event("garbled", 0, "callstream.call.started", {"encoding": "gsm"}),
        _event("garbled", 1, "no.such.type", {"words": "plain"}),
    ]


def watched(call: str) -> Event:
    """Return a viewer's request for partials."""
    event = _event(call, 0, "callstream.call.watched", {"seconds": 60})
    event.attributes["id"] = f"viewer-of-{call}"
    del event.attributes["callseq"]
    return event


def _event(call: str, seq: int, kind: str, content: Any, **more: str) -> Event:
    attributes = {
        "specversion": "1.0",
        "id": f"{call}-{seq}",
        "source": "/pbx/7",
        "subject": call,
        "type": kind,
        "callseq": str(seq),
        **more,
    }
    if isinstance(content, bytes):
        return Event(call, attributes, BYTES, content)
    return Event(call, attributes, JSON, json.dumps(content).encode())


async def send_to_nats(client: Any, events: list[Event]) -> None:
    """Send events; each is acknowledged by JetStream before the next."""
    js = client.jetstream()
    for event in events:
        token = base64.urlsafe_b64encode(event.call.encode()).decode().rstrip("=")
        await js.publish(f"calls.audio.{token}", event.value, headers=event.headers("ce-"))


async def send_to_kafka(producer: Any, events: list[Event]) -> None:
    for event in events:
        headers = [(name, text.encode()) for name, text in event.headers("ce_").items()]
        await producer.send_and_wait("calls.audio", event.value, key=event.call.encode(), headers=headers)
