"""The latency of calls while another call of their lane fails without end.

    python -m benchmarks.isolation [--pairs 9] [--json FILE]

A runner on JetStream relays the chunks of `CALLS` calls and of one more, one each `CHUNK_S`. In every second run that
one fails at each attempt with an error of the machine, so that it is retried and never given up. Latency is the time
from the publication of a chunk of the other calls to its output's. A pair is one run without and one with failures, in
random order; the interval is Student's, over the pairs' ratios of the median latencies.

What it does not show: failures that take the machine itself down, such as a disk without space for the broker.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, Final

import msgspec
from scipy import stats

from benchmarks.bus.ours import relayed
from benchmarks.harness.command import add_outputs, benchmark_parser
from benchmarks.harness.report import write_report
from pipeline.bus.nats.server import NatsServer
from pipeline.bus.opening import open_bus
from pipeline.bus.protocol import Bus, Outgoing, Subscription, TopicSpec
from pipeline.bus.security import BusSecurity
from pipeline.runtime.call_runner import StageRunner
from pipeline.runtime.decoding import decode_audio
from pipeline.runtime.publisher import Publisher
from pipeline.telemetry import logs
from pipeline.telemetry.metrics import Metrics
from schemas import cloudevents, topics
from schemas.audio import AudioChunk
from schemas.calls import CallRef
from stages.errors import MachineFailure
from stages.protocol import Checkpoint, Event, Output, SkipsFailedInputs

CALLS: Final = 10
CHUNKS: Final = 150
CHUNK_S: Final = 0.05
CHUNK: Final = bytes(640)
FAILING: Final = "fails"


def parser() -> argparse.ArgumentParser:
    made = benchmark_parser("isolation", __doc__)
    made.add_argument("--pairs", type=int, default=9, help="pairs of runs (9)")
    made.add_argument("--seed", type=int, default=1, help="of the order in each pair (1)")
    add_outputs(made)
    return made


class RelayStage:
    """Gives one numbered output for each chunk, and fails on those of the call `FAILING`."""

    name = "relay"

    def __init__(self, topic: str, *, failing: bool) -> None:
        self.topic = topic
        self.failing = failing
        self.failures = 0

    def open(self, call: CallRef, state: bytes | None) -> "Relay":
        return Relay(self, call, msgspec.msgpack.decode(state, type=int) if state else 0)


class Relay(SkipsFailedInputs):
    idle_position = None
    waiting = None

    def __init__(self, stage: RelayStage, call: CallRef, next_seq: int) -> None:
        self._stage = stage
        self._call = call
        self._next_seq = next_seq

    async def submit(self, chunk: AudioChunk, event: Event) -> AsyncIterator[Output]:
        if self._stage.failing and self._call.call_id == FAILING:
            self._stage.failures += 1
            raise MachineFailure("its disk is full")
        if event.seq < self._next_seq:
            return
        self._next_seq = event.seq + 1
        yield relayed(self._call, self._stage.topic, chunk, event)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(state=msgspec.msgpack.encode(self._next_seq), released=self._next_seq)

    @property
    def finished(self) -> bool:
        return self._next_seq > CHUNKS


async def run(bus: Bus, number: int, *, failing: bool) -> dict[str, Any]:
    """Relay all chunks once. Returns the median latency in ms and the number of failures."""
    source, target = f"isolation.{number}.in", f"isolation.{number}.out"
    await bus.ensure_topics(
        [TopicSpec(name=name, partitions=1, retention_s=600) for name in (source, target)]
        + [TopicSpec(name=name, partitions=1, retention_s=600) for name in (topics.STATUS, topics.DEAD_LETTERS)]
    )
    published_at: dict[tuple[str, int], float] = {}
    latencies_s: list[float] = []
    stage = RelayStage(target, failing=failing)
    metrics = Metrics()
    runner = StageRunner(
        bus,
        stage,
        subscription=Subscription(group=f"isolation-{number}", topics=(source,), progress_topic=target),
        decoder=decode_audio,
        publisher=Publisher(bus, stage=stage.name, lane="live", metrics=metrics),
        metrics=metrics,
        budget_bytes=4_000_000,
    )
    feed = await bus.follow((target,))
    running = asyncio.create_task(runner.run())
    clock = asyncio.get_running_loop().time
    names = [*(f"call-{index}" for index in range(CALLS)), FAILING]

    async def produce(name: str) -> None:
        call = CallRef("default", name)
        for seq in range(1, CHUNKS + 1):
            headers, value = cloudevents.encode_audio_event(AudioChunk(data=CHUNK), call=call, seq=seq, source="/pbx")
            published_at[name, seq] = clock()
            await bus.publish(
                Outgoing(source, key=name.encode(), value=value, event_id=f"{number}/{name}/{seq}", headers=headers)
            )
            await asyncio.sleep(CHUNK_S)

    async def receive() -> None:
        left = CALLS * CHUNKS
        async for record in feed:
            name, seq = record.headers["ce_subject"], int(record.headers["ce_callseq"])
            if name == FAILING:
                continue
            latencies_s.append(clock() - published_at[name, seq])
            left -= 1
            if not left:
                return

    await asyncio.gather(receive(), *map(produce, names))
    await feed.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    latencies_s.sort()
    return {
        "median_ms": 1000 * median(latencies_s),
        "p99_ms": 1000 * latencies_s[int(0.99 * len(latencies_s))],
        "failures": stage.failures,
    }


async def measured(pairs: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), max_store_bytes=2_000_000_000)
        bus = await open_bus(await server.start(), BusSecurity())
        try:
            await run(bus, -1, failing=True)  # what is loaded once
            for pair in range(pairs):
                runs = {}
                for failing in chance.sample((False, True), 2):
                    runs[failing] = await run(bus, 2 * pair + failing, failing=failing)
                ratio = runs[True]["median_ms"] / runs[False]["median_ms"]
                found.append({"without": runs[False], "with": runs[True], "ratio": ratio})
                print(f"pair {pair + 1} of {pairs}: {ratio:.3f}", file=sys.stderr)
        finally:
            await bus.close()
            await server.stop()
    ratios = [each["ratio"] for each in found]
    half = float(stats.t.ppf(0.975, pairs - 1)) * stdev(ratios) / pairs**0.5
    return {
        "ratio": mean(ratios),
        "interval": [mean(ratios) - half, mean(ratios) + half],
        "without_ms": median(each["without"]["median_ms"] for each in found),
        "with_ms": median(each["with"]["median_ms"] for each in found),
        "failures": sum(each["with"]["failures"] for each in found),
        "pairs": found,
    }


def main() -> int:
    given = parser().parse_args()
    logs.configure("console", "warning", sys.stderr)
    figures = asyncio.run(measured(given.pairs, given.seed))
    low, high = figures["interval"]
    print(f"latency without a failing call  {figures['without_ms']:.1f} ms (median)")
    print(f"latency beside a failing call   {figures['with_ms']:.1f} ms ({figures['failures']} failures)")
    print(f"ratio                           {figures['ratio']:.3f} (95 %: {low:.3f} to {high:.3f})")
    write_report("isolation", figures, given.json, given={"pairs": given.pairs, "seed": given.seed}, runs=given.pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
