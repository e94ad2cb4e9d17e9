"""The stages up to the transcript on a small embedded store, with a transcriber whose text is a hash of the audio."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from benchmarks.harness.hash_transcriber import hashing
from pipeline.bus.protocol import Bus
from pipeline.settings import Settings
from pipeline.telemetry.metrics import Metrics
from pipeline.wiring.context import WiringContext
from pipeline.wiring.embedded_bus import open_deployment_bus
from pipeline.wiring.stage_list import STAGES
from pipeline.wiring.worker import Worker
from schemas import topics
from schemas.transcripts import COMPLETED_TYPE, TranscriptCompleted, Turn, joined

UP_TO_TRANSCRIPT = tuple(stage for stage in STAGES if stage.name in ("separate", "transcribe", "merge"))


@contextlib.asynccontextmanager
async def small_store(folder: Path, store_bytes: int, *, partitions: int = 2) -> AsyncIterator[tuple[Bus, Settings]]:
    """The bus of an embedded server with `store_bytes`, on `folder`."""
    settings = Settings(data=folder, store_gb=store_bytes / 1e9, partitions=partitions, idle_s=3600.0)
    folder.mkdir(parents=True, exist_ok=True)
    async with open_deployment_bus(settings) as opened:
        yield opened.bus, settings


@contextlib.asynccontextmanager
async def transcribing(bus: Bus, settings: Settings) -> AsyncIterator[None]:
    with hashing():
        worker = Worker(WiringContext(bus, settings, Metrics()), UP_TO_TRANSCRIPT)
        worker.start()
        try:
            await worker.ready.wait()
            yield
        finally:
            await worker.stop()


async def completed(bus: Bus) -> dict[str, list[Turn]]:
    """Return the turns of all calls whose transcript is complete, by call id."""
    parts: dict[str, list[TranscriptCompleted]] = {}
    async for record in bus.stored(topics.TRANSCRIPTS):
        if record.headers.get("ce_type") == COMPLETED_TYPE:
            part = msgspec.json.decode(record.value, type=TranscriptCompleted)
            parts.setdefault(part.call_id, []).append(part)
    return {
        call_id: joined(found).turns
        for call_id, found in parts.items()
        if len({one.part for one in found}) == found[0].parts
    }


async def until_completed(
    bus: Bus, calls: set[str], *, stuck_s: float, at_least: int | None = None
) -> dict[str, list[Turn]]:
    """Wait until `calls` are complete, or `at_least` some, or none more has been for `stuck_s`. Return all that are."""
    wanted = len(calls) if at_least is None else at_least
    loop = asyncio.get_running_loop()
    found = await completed(bus)
    moved_at = loop.time()
    while len(calls & found.keys()) < wanted and loop.time() < moved_at + stuck_s:
        await asyncio.sleep(0.5)
        now = await completed(bus)
        if len(now) > len(found):
            moved_at = loop.time()
        found = now
    return found
