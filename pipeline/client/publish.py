"""Publish a recorded file as a producer does: call started, audio chunks, call ended, on the audio topic of a lane.

Only plain events go through `Bus.publish`, so an outside producer can do the same. An event id is made of the call and
the event's number: publishing a file again after a crash continues where the first attempt ended. Of events before the
last 4,096 that were taken (`stages.separate.proofs`) nothing proves that they are repeats: they become dead letters and
change nothing in the call.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from pipeline.bus.protocol import Bus, Outgoing
from schemas import cloudevents
from schemas.audio import AudioChunk, AudioEvent, CallEnded, CallStarted
from schemas.calls import CallRef
from schemas.topics import AUDIO, Lane, in_lane

WINDOW = 16
"""Records in flight. The separate stage reorders several times as many."""

SOURCE = "callstream/publish"


class AudioSource(Protocol):
    """Decoded audio. Iterating yields blocks of at most 1 s: signed 16-bit little-endian, channels interleaved."""

    @property
    def sample_rate_hz(self) -> int: ...
    @property
    def channels(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...


class Published(msgspec.Struct, frozen=True):
    """Totals of a published call."""

    audio_s: float
    events: int


async def publish_audio(
    bus: Bus,
    audio: AudioSource,
    *,
    call: CallRef,
    roles: list[str],
    language: str | None,
    metadata: dict[str, Any],
    lane: Lane,
    realtime: bool = False,
    partials: bool = False,
    hotwords: Sequence[str] = (),
    on_progress: Callable[[float], None] | None = None,
) -> Published:
    """Publish `audio` as `call`: at the speed of speech if `realtime`, else as fast as the bus stores it.

    `on_progress` is called with the seconds of audio sent so far. Raises StoreFullError and BusError.
    """
    sender = _Sender(bus, call, in_lane(AUDIO, lane))
    start = CallStarted(
        encoding="pcm_s16le",
        sample_rate_hz=audio.sample_rate_hz,
        channels=audio.channels,
        roles=roles,
        language=language,
        partials=partials,
        hotwords=list(hotwords),
        metadata=metadata,
    )
    loop = asyncio.get_running_loop()
    bytes_per_s = audio.sample_rate_hz * audio.channels * 2
    sent_s = 0.0
    try:
        await sender.send(start)
        began = loop.time()
        blocks = iter(audio)
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            if realtime:
                await asyncio.sleep(max(0.0, began + sent_s + len(block) / bytes_per_s - loop.time()))
            await sender.send(AudioChunk(data=block))
            sent_s += len(block) / bytes_per_s
            if on_progress is not None:
                on_progress(sent_s)
        await sender.drain()
        await sender.send(CallEnded(events=sender.events + 1))
        await sender.drain()
    finally:
        await sender.abandon()
    return Published(audio_s=sent_s, events=sender.events)


class _Sender:
    """Numbers a call's events and keeps at most `WINDOW` of them in flight."""

    def __init__(self, bus: Bus, call: CallRef, topic: str) -> None:
        from pipeline.telemetry import traces  # not with the module: see there

        self.events = 0
        self._bus = bus
        self._call = call
        self._topic = topic
        self._traceparent = partial(traces.continued, traces.header_of(traces.root(f"{call.tenant}/{call.call_id}")))
        self._flying: set[asyncio.Task[None]] = set()

    async def send(self, event: AudioEvent) -> None:
        while len(self._flying) >= WINDOW:
            await self._land(asyncio.FIRST_COMPLETED)
        headers, value = cloudevents.encode_audio_event(event, call=self._call, seq=self.events, source=SOURCE)
        self.events += 1
        storing = self._bus.publish(
            Outgoing(
                self._topic,
                key=self._call.call_id.encode(),
                value=value,
                event_id=headers["ce_id"],
                headers={**headers, "traceparent": self._traceparent(headers["ce_id"])},
            )
        )
        self._flying.add(asyncio.ensure_future(storing))

    async def drain(self) -> None:
        while self._flying:
            await self._land(asyncio.ALL_COMPLETED)

    async def abandon(self) -> None:
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        self._flying.clear()

    async def _land(self, when: str) -> None:
        done, self._flying = await asyncio.wait(self._flying, return_when=when)
        failed = [error for error in (task.exception() for task in done) if error is not None]
        if failed:
            raise failed[0]
