"""One run: mutants in blocks, a good call after each block, pauses in which calls end, and what the lanes tell."""

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil

from benchmarks.damaged_records.good_calls import Completions, good_call, good_events, opening
from benchmarks.damaged_records.lanes import STEPS
from benchmarks.damaged_records.mutants import BLOCK, STARTED_CALLS, calls_of, mutant
from benchmarks.damaged_records.outcome import Outsider, Published
from benchmarks.damaged_records.raw_kafka import KafkaOutsider
from benchmarks.damaged_records.raw_nats import NatsOutsider
from pipeline.bus.opening import open_bus
from pipeline.bus.security import BusSecurity
from pipeline.instance import InstanceInfo, read_instance
from schemas import topics
from tests.support.brokers.kafka import KafkaServer

PARTITIONS: Final = 16
IDLE_S: Final = 3.0
LATE_S: Final = 2.0
QUIET_EVERY: Final = 20
"""Blocks between pauses in which calls end for want of events: a reader with records waiting ends none."""
QUIET_S: Final = IDLE_S + LATE_S + 2.0
IN_FLIGHT: Final = 4
"""Blocks whose good call is not completed yet, at most."""
GOOD_WITHIN_S: Final = 600.0
READY_WITHIN_S: Final = 600.0
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


class Lanes:
    """The process of the lanes, with what it tells of itself."""

    def __init__(self, folder: Path, bus_url: str | None) -> None:
        self._data = folder / "data"
        self.log = folder / "lanes.log"
        environment = {name: text for name, text in os.environ.items() if not name.startswith("CALLSTREAM_")} | {
            "CALLSTREAM_DATA": str(self._data),
            "CALLSTREAM_PARTITIONS": str(PARTITIONS),
            "CALLSTREAM_IDLE_S": str(IDLE_S),
            "CALLSTREAM_LATE_S": str(LATE_S),
            "CALLSTREAM_SYNC": "1s",
            "CALLSTREAM_STORE_GB": "4",
            "CALLSTREAM_DIARIZATION": "off",
            **({} if bus_url is None else {"CALLSTREAM_BUS": bus_url}),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.damaged_records.lanes"], env=environment, stdout=log, stderr=log
            )
        self.instance: InstanceInfo

    async def ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            instance = read_instance(self._data)
            if instance is not None and instance.ready:
                self.instance = instance
                return
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"the lanes do not begin:\n{self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.1)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def resident_mb(self) -> dict[str, float]:
        """Return the memory of the lanes, of their nats-server, and of the largest decoder of files."""
        found = Counter[str]()
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.process.pid)
            found["lanes"] = me.memory_info().rss
            for child in me.children(recursive=True):
                name = "nats-server" if "nats" in child.name() else "decoder"
                found[name] = max(found[name], child.memory_info().rss)
        return {name: round(count / 1e6, 1) for name, count in found.items()}

    def metrics(self) -> Counter[tuple[str, str]]:
        """Return all counters by name and labels, the values of the labels joined by a slash."""
        assert self.instance.metrics_url is not None
        with urllib.request.urlopen(self.instance.metrics_url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = Counter[tuple[str, str]]()
        for line in lines:
            sample = _SAMPLE.match(line)
            if sample is not None and sample[1].endswith("_total"):
                labels = "/".join(value for _, value in _LABEL.findall(sample[2] or ""))
                found[sample[1].removesuffix("_total"), labels] += int(float(sample[3]))
        return found

    def said(self) -> Counter[str]:
        """Return what the lanes logged as warnings and errors, by the line's event."""
        return Counter(re.findall(r'"event": "([^"]*)"', self.log.read_text(errors="replace")))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 60)


class Figures(msgspec.Struct):
    """What a run has found so far."""

    sent: int = 0
    published: Published = msgspec.field(default_factory=Published)
    good: int = 0
    unequal: list[int] = []
    missing: list[int] = []
    memory: list[tuple[int, dict[str, float]]] = []
    openings: int = 0

    @property
    def failed(self) -> bool:
        return bool(self.unequal or self.missing)


@contextlib.asynccontextmanager
async def feeding(bus: str, folder: Path, seed: int) -> AsyncIterator[tuple[Lanes, Outsider, Completions]]:
    """A broker, the lanes on it, an outsider and a reader of transcripts."""
    async with contextlib.AsyncExitStack() as stack:
        broker = stack.enter_context(KafkaServer(folder / "kafka", java_options=())) if bus == "kafka" else None
        if broker is not None:
            await asyncio.to_thread(broker.start)
        lanes = Lanes(folder, None if broker is None else f"kafka://{broker.bootstrap}")
        stack.callback(lanes.kill)
        await lanes.ready()
        instance = lanes.instance
        owner = instance.owner_credentials
        outsider: KafkaOutsider | NatsOutsider
        if broker is not None:
            outsider = KafkaOutsider(broker.bootstrap, partitions=PARTITIONS, seed=seed)
        else:
            producer = instance.producer_credentials
            outsider = NatsOutsider(
                instance.bus_url,
                None if producer is None else Path(producer),
                None if owner is None else Path(owner),
                partitions=PARTITIONS,
                seed=seed,
            )
        await outsider.connect()
        stack.push_async_callback(outsider.close)
        security = BusSecurity() if owner is None else BusSecurity(credentials=Path(owner))
        reader = await open_bus(instance.bus_url, security)
        stack.push_async_callback(reader.close)
        completions = Completions()
        await completions.begin(reader)
        stack.push_async_callback(completions.close)
        yield lanes, outsider, completions


async def measure(
    bus: str, folder: Path, *, mutants: int, seed: int, minutes: float = inf, producers_only: bool = False
) -> dict[str, Any]:
    """Publish `mutants`, in whole blocks, and return the figures. SIGTERM ends the run early, as `minutes` do."""
    began = time.monotonic()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with feeding(bus, folder, seed) as (lanes, outsider, completions):
        alone = await _alone(outsider, completions, seed)
        figures = Figures()
        checks: set[asyncio.Task[None]] = set()
        turn = asyncio.Semaphore(IN_FLIGHT)
        for block in range(1, mutants // BLOCK + 1):
            if not lanes.alive or figures.failed or stopping.is_set() or time.monotonic() > began + 60 * minutes:
                break
            await turn.acquire()
            await _feed(outsider, figures, seed, block, producers_only=producers_only)
            check = asyncio.create_task(_check(completions, figures, seed, block, alone))
            checks.add(check)
            check.add_done_callback(lambda _: turn.release())
            figures.memory.append((figures.sent, lanes.resident_mb()))
            if block % QUIET_EVERY == 0:
                await asyncio.gather(*checks)
                checks.clear()
                await asyncio.sleep(QUIET_S)
                figures.memory.append((figures.sent, lanes.resident_mb()))
                _say(figures, lanes, time.monotonic() - began)
        await asyncio.gather(*checks)
        await asyncio.sleep(QUIET_S)
        figures.memory.append((figures.sent, lanes.resident_mb()))
        crashed = not lanes.alive
        metrics = Counter[tuple[str, str]]() if crashed else lanes.metrics()
        ended_with = lanes.process.returncode if crashed else await lanes.stop()
        return {
            **_summary(figures, metrics),
            "crashed": crashed,
            "ended_with": ended_with,
            "logged": dict(lanes.said()),
            "wall_s": round(time.monotonic() - began, 1),
        }


async def _alone(outsider: Outsider, completions: Completions, seed: int) -> list[Any]:
    """Return the words of the good call before there is any mutant."""
    call = good_call(seed, 0)
    await outsider.send(good_events(call))
    words = await completions.words(call, within_s=GOOD_WITHIN_S)
    if not words:
        raise RuntimeError("the good call has no words even alone")
    return words


async def _feed(outsider: Outsider, figures: Figures, seed: int, block: int, *, producers_only: bool) -> None:
    """Publish a block of mutants, begun by sound starts of most of their calls, and after it the good call."""
    chance = random.Random(f"{seed}/{block}/openings")
    first = (block - 1) * BLOCK
    openings = [opening(call, chance) for call in calls_of(seed, block - 1)[:STARTED_CALLS]]
    await outsider.send(openings)
    figures.openings += len(openings)
    numbers = range(first, first + BLOCK)
    await outsider.publish([mutant(seed, n, producers_only=producers_only) for n in numbers], figures.published)
    figures.sent += BLOCK
    await outsider.send(good_events(good_call(seed, block)))


async def _check(completions: Completions, figures: Figures, seed: int, block: int, alone: list[Any]) -> None:
    words = await completions.words(good_call(seed, block), within_s=GOOD_WITHIN_S)
    figures.good += 1
    if words is None:
        figures.missing.append(block)
    elif words != alone:
        figures.unequal.append(block)


def _say(figures: Figures, lanes: Lanes, wall_s: float) -> None:
    metrics = lanes.metrics()
    restarts = sum(count for (name, _), count in metrics.items() if name == "callstream_stage_restarts")
    print(
        f"{figures.sent} in {wall_s:.0f} s: {figures.published.count('stored')} stored, {restarts} restarts, "
        f"{figures.good} good calls, {figures.memory[-1][1]}",
        file=sys.stderr,
        flush=True,
    )


def _summary(figures: Figures, metrics: Counter[tuple[str, str]]) -> dict[str, Any]:
    def of(name: str) -> dict[str, int]:
        return {labels: count for (found, labels), count in sorted(metrics.items()) if found == name}

    steps = of(STEPS)
    sound = figures.openings + (figures.good + 1) * len(good_events(good_call(0, 0)))
    stored = figures.published.stored
    between = sum(stored[topic] for topic in (topics.UTTERANCES, topics.UTTERANCES_BATCH, topics.SEGMENTS))
    bodies = steps.get("body", 0) + steps.get("body, structured", 0) - steps.get("read again", 0) - sound
    return {
        "mutants": figures.sent,
        "outcomes": {
            f"{changed}: {what}": count for (changed, what), count in sorted(figures.published.outcomes.items())
        },
        "stored": figures.published.count("stored"),
        "resent": figures.published.resent,
        "stored_by_topic": dict(stored),
        "parsed": {"audio": bodies, "between stages": between},
        "parsed_share": round((bodies + between) / max(1, figures.sent), 4),
        "steps": steps,
        "letters": of("callstream_dead_letters"),
        "restarts": of("callstream_stage_restarts"),
        "call_retries": of("callstream_call_retries"),
        "calls_opened": of("callstream_calls_opened").get("", 0),
        "good_calls": {"checked": figures.good, "unequal": figures.unequal, "missing": figures.missing},
        "memory": memory_trend(figures.memory),
        "samples": [[sent, found] for sent, found in figures.memory],
    }


def memory_trend(samples: list[tuple[int, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return, for each process, its memory in MB at the start, in the middle, at the end, and at most.

    `per_100k` is the slope of a line through the second half of the samples, in MB per 100,000 mutants.
    """
    trend = {}
    for name in sorted({name for _, found in samples for name in found}):
        values = [(sent, found[name]) for sent, found in samples if name in found]
        half = values[len(values) // 2 :]
        sent, found_mb = [sent for sent, _ in half], [value for _, value in half]
        slope = float(np.polyfit(sent, found_mb, 1)[0]) if len(set(sent)) > 1 else 0.0
        trend[name] = {
            "start": values[0][1],
            "middle": values[len(values) // 2][1],
            "end": values[-1][1],
            "most": max(value for _, value in values),
            "per_100k": round(slope * 100_000, 2),
        }
    return trend
