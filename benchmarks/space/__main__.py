"""A small store is offered twice as much speech as it holds: is every accepted call completed, and how fast?

    python -m benchmarks.space [FILE] [--store-mb 50] [--times 2] [--stuck-s 120] [--json FILE]

FILE (the sample call) is sent again and again as Opus, FLAC, µ-law and PCM by one producer for each, which sends what
the store refuses again. A transcriber whose text is a hash of the audio answers at once, so the figures are those of
the bus and the separate stage. All calls of an encoding hold the same audio, so their turns must be equal.

What it does not show: a speech model, the summarize and sink stages, producers that give up.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from benchmarks.harness import hash_transcriber
from benchmarks.harness.command import add_call, add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from benchmarks.space.calls import CODECS, Recording, Sent, offers, recording, send
from benchmarks.space.service import small_store, transcribing, until_completed
from pipeline.bus.protocol import Bus
from schemas.transcripts import Turn


async def measure(path: Path, folder: Path, *, store_bytes: int, times: float, stuck_s: float) -> dict[str, Any]:
    recordings = [recording(codec, path, folder) for codec in CODECS]
    calls = list(offers(recordings, int(times * store_bytes)))
    began = time.monotonic()
    async with small_store(folder / "data", store_bytes) as (bus, settings), transcribing(bus, settings):
        sending = [asyncio.create_task(_produce(bus, calls, given)) for given in recordings]
        ids = {sent.call.call_id for sent in calls}
        done = await until_completed(bus, ids, stuck_s=stuck_s)
        wall_s = time.monotonic() - began
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return {
        "wall_s": round(wall_s, 1),
        "encodings": {given.codec: _row(given, calls, done) for given in recordings},
        "completed_mb_per_s": round(sum(_bytes(calls, done)) / 1e6 / wall_s, 3),
    }


async def _produce(bus: Bus, calls: list[Sent], given: Recording) -> None:
    for sent in calls:
        if sent.recording is given:
            await send(bus, sent)


def _bytes(calls: list[Sent], done: dict[str, list[Turn]]) -> list[int]:
    return [sent.recording.size_bytes for sent in calls if sent.call.call_id in done]


def _row(given: Recording, calls: list[Sent], done: dict[str, list[Turn]]) -> dict[str, Any]:
    mine = [sent for sent in calls if sent.recording is given]
    said = {tuple(turn.text for turn in done[sent.call.call_id]) for sent in mine if sent.call.call_id in done}
    return {
        "offered": len(mine),
        "completed": sum(sent.call.call_id in done for sent in mine),
        "mb": round(len(mine) * given.size_bytes / 1e6, 1),
        "refusals": sum(sent.refusals for sent in mine),
        "different_texts": len(said),
    }


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("space", __doc__)
    add_call(made)
    made.add_argument("--store-mb", type=float, default=50.0, help="size of the store (50)")
    made.add_argument("--times", type=float, default=2.0, help="audio to offer, in sizes of the store (2)")
    made.add_argument("--stuck-s", type=float, default=120.0, help="give up after this long without a completed call")
    add_outputs(made)
    return made


def main() -> None:
    options = parser().parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder, patch.object(hash_transcriber, "DELAY_S", (0.0, 0.0)):
        figures = asyncio.run(
            measure(
                options.file,
                Path(folder),
                store_bytes=int(options.store_mb * 1e6),
                times=options.times,
                stuck_s=options.stuck_s,
            )
        )
    given = {"call": options.file.name, "store_mb": options.store_mb, "times": options.times}
    write_report("space", figures, options.json, given=given, runs=1)
    print(f"{'':8}{'offered':>9}{'MB':>9}{'completed':>11}{'refusals':>10}{'texts':>7}")
    for codec, row in figures["encodings"].items():
        counts = (
            f"{row['offered']:>9}{row['mb']:>9}{row['completed']:>11}{row['refusals']:>10}{row['different_texts']:>7}"
        )
        print(f"{codec:8}{counts}")
    print(f"{figures['wall_s']} s, {figures['completed_mb_per_s']} MB of completed audio a second")


if __name__ == "__main__":
    main()
