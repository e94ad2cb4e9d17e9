"""Where a call's audio lies on the bus, whatever the order in which it was stored."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from pipeline.bus.protocol import Bus, Record
from pipeline.client import retranscribe
from pipeline.errors import InputError
from pipeline.settings import Settings
from schemas import cloudevents, topics
from schemas.audio import AudioChunk, AudioEvent, CallStarted
from schemas.calls import CallRef
from stages.separate.event_order import LATE_S

CALL = CallRef("default", "call-1")
START = CallStarted(encoding="pcm_s16le", sample_rate_hz=8000, channels=1)


class Stored:
    """What a topic holds, in the order of the bus, which stored ten records a second."""

    def __init__(self, topic: str, events: list[tuple[int, AudioEvent]], *, freed_at: float | None = None) -> None:
        self._topic = topic
        self._events = events
        self._freed_at = freed_at

    async def freed_at(self, topic: str, key: bytes) -> float | None:
        return self._freed_at if (topic, key) == (self._topic, CALL.key) else None

    async def stored(
        self, topic: str, *, key: bytes | None = None, start: tuple[int, int] | None = None
    ) -> AsyncIterator[Record]:
        assert (key, start) == (CALL.key, None)
        for position, (seq, event) in enumerate(self._events if topic == self._topic else []):
            headers, value = cloudevents.encode_audio_event(event, call=CALL, seq=seq, source="test")
            yield Record(
                topic=topic,
                partition=0,
                position=position,
                key=CALL.key,
                value=value,
                headers=headers,
                timestamp_s=position / 10,
            )


def chunks(count: int) -> list[tuple[int, AudioEvent]]:
    return [(seq, AudioChunk(data=bytes(160))) for seq in range(1, count + 1)]


async def lane_of(stored: Stored) -> topics.Lane:
    return await retranscribe._lane_of(cast(Bus, stored), CALL, Settings(data=Path("data")))


@pytest.mark.parametrize("lane", ["live", "batch"])
@pytest.mark.parametrize("before", [0, 1, int(10 * LATE_S)])
async def test_the_start_need_not_be_stored_first(lane: topics.Lane, before: int) -> None:
    bus = Stored(topics.in_lane(topics.AUDIO, lane), [*chunks(before), (0, START), *chunks(3)])
    assert await lane_of(bus) == lane


@pytest.mark.parametrize("count", [1, int(10 * LATE_S) + 5])
async def test_without_its_start_it_is_told_how_long_audio_is_kept(count: int) -> None:
    bus = Stored(topics.AUDIO, chunks(count))
    with pytest.raises(InputError, match=r"no longer holds the start of the call call-1: audio is kept for 7 days"):
        await lane_of(bus)


async def test_audio_that_made_room_is_told_with_the_day() -> None:
    bus = Stored(topics.AUDIO_BATCH, [], freed_at=1_764_460_800.0)
    with pytest.raises(InputError, match=r"no audio of the call call-1: it was freed for room on 2025-11-30"):
        await lane_of(bus)


async def test_a_call_that_nobody_sent_is_told() -> None:
    with pytest.raises(InputError, match="holds no audio of the call call-1"):
        await lane_of(Stored(topics.AUDIO, []))
