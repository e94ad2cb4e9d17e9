"""Room in a JetStream store: what was acknowledged to a producer can always be finished.

The store has one limit, and a full store refuses everyone. `SpaceKeeper` keeps it from filling:

- Each topic of producers has a limit, its door. It closes before the text of what was accepted has no room any more.
- Topics of utterances have a limit too. At it the separate stage waits until the transcribe stage has read some.
- Records that all stages have read are deleted where a topic, or the store, is short of room: see `freeing`.
- Age deletes a record once it was read. The server does not know that, so it has no age limit of its own there.
- Topics that only outsiders read keep the server's age limit; dead letters drop the oldest.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import structlog

from pipeline.bus.nats.connection import ApiError, NatsConnection, Session
from pipeline.bus.nats.freeing import drop_oldest, expire, free
from pipeline.bus.nats.large_states import STREAM
from pipeline.bus.nats.subjects import PRODUCER_TOPICS, stream_name
from pipeline.bus.protocol import TopicSpec
from pipeline.clock import unix_time_s
from pipeline.errors import BusError

SHORT: Final = 0.75
"""A topic or store that is fuller than this is short of room, and is freed down to `EASED`."""
EASED: Final = 0.6
TEXT_PER_AUDIO: Final = 0.5
"""Bytes of text, in transcripts, summaries and the ledger, that a byte of audio becomes at most. Speech gives 2.5 words
a second, 150 bytes each with their times in turns and again in the completed transcript: 375 bytes. Opus of 6 kbit/s,
the least that it is made for, has 750 bytes a second."""
TEXT_PER_SEGMENTS: Final = 2.0
"""The same for a byte of segments."""
DOOR_STEPS: Final = 50
"""A door moves in steps of this part of its share, so that the server is not asked at every look."""
MARGIN: Final = 0.03
"""Part of the store that is never given away."""
_LOOK_S: Final = 0.5
_LOOK_WHEN_SHORT_S: Final = 0.1
_NOTHING_FREED_S: Final = 0.2
"""The least pause after an attempt that found nothing to free. Every attempt also pauses for as long as it took."""
_MOST_OFTEN_EXPIRED_S: Final = 1.0
_LEAST_OFTEN_EXPIRED_S: Final = 3_600.0
_EXPIRED_PER_RETENTION: Final = 20


class Level(NamedTuple):
    """What a topic holds and may hold. `max_bytes` is None without a limit."""

    held_bytes: int
    max_bytes: int | None


def _ignored(_topic: str, _records: int) -> None:
    pass


class SpaceKeeper:
    """Watches the store that holds the topics of `specs`, of at most `store_bytes`. Any number may watch one store.

    `dropped` is told the topic and the number of records whenever this one has dropped the oldest of a topic.
    """

    def __init__(
        self,
        connection: NatsConnection,
        specs: Iterable[TopicSpec],
        *,
        store_bytes: int,
        dropped: Callable[[str, int], None] = _ignored,
        clock: Callable[[], float] = unix_time_s,
    ) -> None:
        self._connection = connection
        self._specs = {stream_name(spec.name): spec for spec in specs}
        self._store_bytes = store_bytes
        self._dropped = dropped
        self._clock = clock
        self._rests_until: dict[str, float] = {}
        self._expires_at = 0.0
        self._freed = False
        self._log = structlog.get_logger("callstream.space")

    async def run(self) -> None:
        """Watch until cancelled. An attempt that fails is logged and repeated."""
        while True:
            try:
                await self.look()
            except (BusError, ApiError) as error:
                self._log.warning("store not looked at", error=str(error))
            except Exception as error:  # whatever it is, the next look may go well, and without looks the store fills
                self._log.error("store not looked at", error=str(error), exc_info=error)
            await asyncio.sleep(_LOOK_WHEN_SHORT_S if self._freed else _LOOK_S)

    async def look(self) -> None:
        """Look once: set the doors, free room where it is short, delete what is read and old.

        Raises BusError and ApiError.
        """
        await self._connection.retrying(self._look)

    async def _look(self, session: Session) -> None:
        streams = await self._streams(session)
        levels = {name: _level(info) for name, info in streams.items()}
        self._freed = False
        for name, max_bytes in doors(self._specs, levels, self._store_bytes).items():
            level = levels[name]
            if level.max_bytes != max_bytes:
                await session.api(f"STREAM.UPDATE.{name}", streams[name]["config"] | {"max_bytes": max_bytes})
                levels[name] = level._replace(max_bytes=max_bytes)
        for name, spec in self._specs.items():
            if name not in levels:
                continue
            level = levels[name]
            if level.max_bytes is None or level.held_bytes <= SHORT * level.max_bytes:
                continue
            excess = level.held_bytes - int(EASED * level.max_bytes)
            if spec.drops_oldest:
                records = await drop_oldest(session, spec, excess_bytes=excess)
                self._dropped(spec.name, records)
                self._log.error("oldest records dropped, the topic is at its limit", topic=spec.name, records=records)
            elif spec.frees:
                await self._free(session, name, excess)
        await self._ease_store(session, levels)
        await self._expire(session)

    async def _streams(self, session: Session) -> dict[str, dict[str, Any]]:
        """Return the streams of the topics, and that of large states, by name."""
        found: dict[str, dict[str, Any]] = {}
        total = 1
        while len(found) < total:
            page = await session.api("STREAM.LIST", {"offset": len(found)})
            streams, total = page["streams"] or [], int(page["total"])
            if not streams:
                break
            found |= {info["config"]["name"]: info for info in streams}
        return {name: info for name, info in found.items() if name in self._specs or name == STREAM}

    async def _ease_store(self, session: Session, levels: dict[str, Level]) -> None:
        """Free what can be freed, the largest topic first, if the store as a whole is short of room."""
        if self._freed:
            levels = {name: _level(info) for name, info in (await self._streams(session)).items()}
        held = sum(level.held_bytes for level in levels.values())
        if held <= SHORT * self._store_bytes:
            return
        largest = sorted((name for name in self._specs if name in levels), key=lambda name: -levels[name].held_bytes)
        for name in largest:
            if held <= EASED * self._store_bytes:
                return
            if self._specs[name].frees:
                held -= await self._free(session, name, held - int(EASED * self._store_bytes))

    async def _free(self, session: Session, name: str, excess_bytes: int) -> int:
        """Free `excess_bytes` of a topic if there is as much to free. Return how many bytes are free now."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began < self._rests_until.get(name, 0.0):
            return 0
        spec = self._specs[name]
        before = held = await _held(session, name)
        calls = records = open_calls = 0
        async for freed in free(session, spec):
            calls += 1
            records += freed.records
            open_calls += freed.open_call
            held = await _held(session, name)
            if before - held >= excess_bytes:
                break
        ended = loop.time()
        self._rests_until[name] = ended + (ended - began) + (0.0 if records else _NOTHING_FREED_S)
        if records:
            self._freed = True
            self._log.info(
                "records freed for room",
                topic=spec.name,
                calls=calls,
                open_calls=open_calls,
                records=records,
                bytes=max(0, before - held),
            )
        return max(0, before - held)

    async def _expire(self, session: Session) -> None:
        now = self._clock()
        aged = [spec for spec in self._specs.values() if spec.readers]
        if now < self._expires_at or not aged:
            return
        shortest_s = min(spec.retention_s for spec in aged) / _EXPIRED_PER_RETENTION
        self._expires_at = now + min(_LEAST_OFTEN_EXPIRED_S, max(_MOST_OFTEN_EXPIRED_S, shortest_s))
        for spec in aged:
            records = await expire(session, spec, now=now)
            if records:
                self._log.debug("records expired", topic=spec.name, records=records)


def doors(specs: dict[str, TopicSpec], levels: dict[str, Level], store_bytes: int) -> dict[str, int]:
    """Return what each topic of producers may hold, by stream: its share, or less once room for text is short.

    A byte of audio needs `TEXT_PER_AUDIO` bytes more. What is left of the store for audio is what neither the limits of
    other topics take, nor the records of topics without one, nor the text of the segments that there are.
    """
    incoming = {name: spec for name, spec in specs.items() if spec.name in PRODUCER_TOPICS and spec.max_bytes}
    left = store_bytes * (1 - MARGIN)
    for name, level in levels.items():
        if name in incoming:
            continue
        spec = specs.get(name)
        left -= max(level.held_bytes, level.max_bytes or 0)
        if spec is not None and spec.frees and level.max_bytes is None:
            left -= TEXT_PER_SEGMENTS * level.held_bytes
    wanted = sum(spec.max_bytes or 0 for spec in incoming.values())
    part = min(1.0, max(0.0, left / (1 + TEXT_PER_AUDIO)) / wanted) if wanted else 1.0
    part = math.floor(part * DOOR_STEPS) / DOOR_STEPS
    return {name: max(1, int(part * (spec.max_bytes or 0))) for name, spec in incoming.items()}


def _level(info: dict[str, Any]) -> Level:
    max_bytes = int(info["config"]["max_bytes"])
    return Level(int(info["state"]["bytes"]), max_bytes if max_bytes > 0 else None)


async def _held(session: Session, stream: str) -> int:
    return int((await session.api(f"STREAM.INFO.{stream}"))["state"]["bytes"])
