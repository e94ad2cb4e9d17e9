"""Calls at the speed of speech, their records as seen on the bus, and backfill beside them."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.live.speakers import BLOCK_S, Samples
from pipeline.bus.protocol import Bus
from pipeline.client.publish import publish_audio
from schemas import envelope, topics
from schemas.calls import DEFAULT_TENANT, CallRef
from schemas.partials import PARTIAL_TYPE, Partial
from schemas.segments import Segment
from schemas.utterances import CallClosed
from stages.separate.files import open_audio_file
from stages.separate.speech import VAD_RATE_HZ

SETTLE_S: Final = 0.5
"""From the end of the last call until all its records have been seen."""


class PacedAudio:
    """A call's audio for `publish_audio`. `began_s`: when its first sample was spoken (`time.monotonic`)."""

    sample_rate_hz = VAD_RATE_HZ
    channels = 2

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.began_s = 0.0

    def __iter__(self) -> Iterator[bytes]:
        self.began_s = time.monotonic()
        step = int(BLOCK_S * VAD_RATE_HZ)
        return (self._samples[at : at + step].tobytes() for at in range(0, len(self._samples), step))


class SeenPartial(msgspec.Struct, frozen=True):
    """A partial of an utterance and when it was seen (`time.monotonic`). `final`: it came with the segment."""

    at_s: float
    committed: str
    tail: str
    final: bool = False


class SeenSegment(msgspec.Struct, frozen=True):
    """A segment and when it was first seen."""

    at_s: float
    segment: Segment


class Sightings:
    """All records of live calls that were seen on the bus."""

    def __init__(self) -> None:
        self.segments: dict[str, list[SeenSegment]] = {}
        """By call id."""
        self.partials: dict[str, list[SeenPartial]] = {}
        """By utterance id."""
        self._closed: dict[str, asyncio.Event] = {}
        self._seen: set[str] = set()

    def closed(self, call_id: str) -> asyncio.Event:
        """Return an event that is set when all segments of the call have been seen."""
        return self._closed.setdefault(call_id, asyncio.Event())

    def forget(self, prefix: str) -> None:
        """Forget the segments of calls whose ids begin with `prefix`."""
        for call_id in [one for one in self.segments if one.startswith(prefix)]:
            del self.segments[call_id]

    async def watch(self, bus: Bus, ready: asyncio.Event) -> None:
        """Collect records until cancelled. Sets `ready` when records are followed."""
        feed = await bus.follow((topics.SEGMENTS, topics.PARTIALS))
        ready.set()
        try:
            async for record in feed:
                at_s = time.monotonic()
                event_id = record.headers.get("ce_id", "")
                if event_id in self._seen:
                    continue
                self._seen.add(event_id)
                if record.headers.get("ce_type") == PARTIAL_TYPE:
                    partial = msgspec.json.decode(record.value, type=Partial)
                    seen = SeenPartial(at_s, partial.committed, partial.tail, partial.final)
                    self.partials.setdefault(partial.utterance_id, []).append(seen)
                    continue
                content = envelope.decode(record.value)
                if isinstance(content, Segment):
                    self.segments.setdefault(content.call.call_id, []).append(SeenSegment(at_s, content))
                elif isinstance(content, CallClosed):
                    self.closed(content.call.call_id).set()
        finally:
            await feed.close()


class LiveCall(msgspec.Struct, frozen=True):
    """A paced call that has ended. `late_s`: the longest time from when a block was spoken until it was stored."""

    call_id: str
    began_s: float
    late_s: float


async def run_calls(
    bus: Bus, sightings: Sightings, audio: list[Samples], name: str, *, watched: int, drain_s: float, language: str
) -> list[LiveCall]:
    """Send all calls at the speed of speech, their starts spread over 2 s, and wait for their segments.

    The first `watched` ask for partials. If a call's last segment is not seen within `drain_s` after its end, what was
    seen until then counts.
    """

    async def one(number: int, samples: Samples) -> LiveCall:
        await asyncio.sleep(2.0 * number / len(audio))
        source = PacedAudio(samples)
        late_s = 0.0

        def note(stored_s: float) -> None:
            nonlocal late_s
            late_s = max(late_s, time.monotonic() - source.began_s - stored_s)

        call = CallRef(DEFAULT_TENANT, f"{name}-{number}")
        await publish_audio(
            bus,
            source,
            call=call,
            roles=["agent", "customer"],
            language=language,
            metadata={},
            lane="live",
            realtime=True,
            partials=number < watched,
            on_progress=note,
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sightings.closed(call.call_id).wait(), drain_s)
        return LiveCall(call.call_id, source.began_s, round(late_s, 3))

    done = await asyncio.gather(*(one(number, samples) for number, samples in enumerate(audio)))
    await asyncio.sleep(SETTLE_S)
    return list(done)


class Backfill:
    """Recorded calls on the batch lane, enough at a time to keep the transcriber busy."""

    def __init__(self, bus: Bus, sightings: Sightings, files: list[Path], *, at_a_time: int, language: str) -> None:
        self._bus = bus
        self._sightings = sightings
        self._files = files
        self._at_a_time = at_a_time
        self._language = language
        self._stopping = False
        self.calls = 0

    @property
    def has_begun(self) -> bool:
        return any(call_id.startswith("backfill-") for call_id in self._sightings.segments)

    def stop(self) -> None:
        """Start no more calls."""
        self._stopping = True

    async def run(self) -> None:
        """Send calls until stopped; returns when all of them are transcribed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_a_time):
                group.create_task(self._one_after_another())

    async def _one_after_another(self) -> None:
        while not self._stopping:
            path = self._files[self.calls % len(self._files)]
            call = CallRef(DEFAULT_TENANT, f"backfill-{time.monotonic_ns()}-{self.calls}")
            self.calls += 1
            with contextlib.closing(open_audio_file(path)) as audio:
                await publish_audio(
                    self._bus, audio, call=call, roles=[], language=self._language, metadata={}, lane="batch"
                )
            await self._sightings.closed(call.call_id).wait()


def bare_words(text: str) -> list[str]:
    """Return the words without case and punctuation, for comparison."""
    return [re.sub(r"\W", "", word.casefold()) for word in text.split()]
