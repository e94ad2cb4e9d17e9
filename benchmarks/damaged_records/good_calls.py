"""Whole calls between the mutants: each must be completed, with the words that the call has when it is alone."""

import asyncio
import random
from typing import Any, Final

import msgspec

from benchmarks.damaged_records.events import Sound, audio_event, lane_of, start
from pipeline.bus.protocol import Bus, Feed
from schemas import topics
from schemas.audio import CHUNK_TYPE, ENDED_TYPE, STARTED_TYPE
from schemas.calls import CallRef
from schemas.transcripts import COMPLETED_TYPE, TranscriptCompleted, joined
from tests.calls import bad
from tests.support.processes.deployment import SAMPLE

SECONDS: Final = 4
CHUNK_S: Final = 0.5


def good_call(seed: int, block: int) -> CallRef:
    return CallRef("default", f"good/{seed}/{block}")


def good_events(call: CallRef) -> list[Sound]:
    """Return the events of a call: the beginning of the sample call, in µ-law."""
    pcm, rate_hz = bad.read_wav(SAMPLE)
    step = int(CHUNK_S * rate_hz)
    chunks = [bad.mulaw(pcm[at : at + step]) for at in range(0, SECONDS * rate_hz, step)]
    values = [
        (STARTED_TYPE, start()),
        *((CHUNK_TYPE, chunk) for chunk in chunks),
        (ENDED_TYPE, b'{"events":%d}' % (len(chunks) + 2)),
    ]
    topic = lane_of(call)
    return [audio_event(call, seq, event_type, value, topic=topic) for seq, (event_type, value) in enumerate(values)]


def opening(call: CallRef, chance: random.Random) -> Sound:
    """Return a sound start for a call whose other events will be mutants."""
    encoding = chance.choice(["mulaw", "alaw", "pcm_s16le", "f32le", "container"])
    return audio_event(call, 0, STARTED_TYPE, start(encoding, chance.randint(1, 3)), topic=lane_of(call))


def words_of(parts: list[TranscriptCompleted]) -> list[Any]:
    """Return what was said, when and by whom, without what names the call."""
    turns = joined(parts).turns
    return [(turn.speaker, turn.channel, turn.start_s, turn.end_s, turn.text, turn.words) for turn in turns]


class Completions:
    """Follows the transcripts, and knows the words of the good calls that were completed."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, TranscriptCompleted]] = {}
        self._arrived = asyncio.Event()
        self._feed: Feed
        self._following: asyncio.Task[None]

    async def begin(self, bus: Bus) -> None:
        self._feed = await bus.follow((topics.TRANSCRIPTS,))
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._feed.close()

    async def _follow(self) -> None:
        async for record in self._feed:
            if not record.key.startswith(b"good/") or record.headers.get("ce_type") != COMPLETED_TYPE:
                continue
            part = msgspec.json.decode(record.value, type=TranscriptCompleted)
            self._parts.setdefault(part.call_id, {})[part.part] = part
            self._arrived.set()

    async def words(self, call: CallRef, *, within_s: float) -> list[Any] | None:
        """Wait for a call's transcript and return its words, None if it is not completed in time."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    parts = self._parts.get(call.call_id, {})
                    if parts and len(parts) == next(iter(parts.values())).parts:
                        del self._parts[call.call_id]
                        return words_of(list(parts.values()))
                    if self._following.done():
                        self._following.result()
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
