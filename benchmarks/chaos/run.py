"""One run: a broker, workers, producers, with faults or without, and its outcome."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.evidence import Evidence, read_evidence
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.plan import Done, FaultPlan
from benchmarks.chaos.poison import OpenCall
from benchmarks.chaos.surroundings import World
from benchmarks.harness.brokers import broker_of
from benchmarks.harness.clients import AWAY, PlainClient, connect, unacknowledged
from benchmarks.harness.produced_calls import call_id_of
from benchmarks.harness.workers import Fleet
from pipeline.wiring.stage_list import REQUIRED_NAMES
from schemas.calls import CallRef
from tests.support.processes.deployment import Deployment

STORE_GB = 2.0
DISK_BYTES = 2_500_000_000
PRODUCERS = 2
PARTITIONS = 8
SETTLES_WITHIN_S = 120.0
MOST_WAITING, FEW_WAITING = 1500, 500
"""Unfinished records of all stages. Above the first, producers begin no more calls until there are fewer than the
second: a pipeline with an ever larger backlog would be tested at one moment only.
"""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The calls to send: `concurrent` at a time, of `seconds` each, at `speed` times the speed of speech."""

    bus: str
    concurrent: int
    seconds: tuple[float, float]
    speed: float
    seed: int
    real_model: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a run. `calls` maps the number of each sent call to its seconds of audio."""

    evidence: Evidence
    calls: dict[int, float]
    resent: int
    done: Done
    device_failures: int
    wall_s: float
    left_unacknowledged: int
    ended_by_themselves: list[str]
    ended_badly: list[str]
    not_done: list[str]


class NotCompleted(Exception):
    """Calls that were sent completely were not completed in time."""


class Run:
    """A run. Leaving the context ends all processes that it started."""

    def __init__(self, folder: Path, load: Load) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._load = load
        self._stack = ExitStack()
        self._not_done: list[str] = []
        self._broker = broker_of(load.bus, folder / "broker", max_store_bytes=int(STORE_GB * 1e9))
        self._disk = self._make_disk(self._broker.store)
        self._deployment = Deployment(
            folder / "data",
            bus=self._broker.url,
            store_gb=str(STORE_GB),
            metrics_port="off",
            asr_workers="2",
            partitions=str(PARTITIONS),
        )
        self._deployment.data.mkdir()
        self._world: World | None = None
        self._fleet = Fleet(
            folder / "workers",
            self._deployment.environment,
            real_model=load.real_model,
            environment_of=lambda name: {} if self._world is None else self._world.environment_of(name),
        )
        self._calls: dict[int, float] = {}
        self._resent = 0
        self._pacing = False
        """A cancellation may get lost in a request to the broker: the task that paces the producers ends by this."""

    def __enter__(self) -> "Run":
        self._broker.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
        self._fleet.destroy()
        if self._broker.alive:
            self._broker.kill()
        if self._disk is not None:
            self._disk.close()

    async def chaos(self, plan: FaultPlan) -> Outcome:
        """Send calls until all faults have happened, then finish the calls in progress."""
        self._world = World(self._folder / "surroundings", self._broker.url)
        if self._world.clocks_not_stepped:
            self._not_done.append(f"no clock was stepped: {self._world.clocks_not_stepped}")
        self._fleet.start(2)
        try:
            return await self._measure(
                lambda process: ["--every", f"{process}:{PRODUCERS}", "--speed", str(self._load.speed)], plan
            )
        finally:
            await self._world.close()

    async def calm(self, numbers: list[int]) -> Outcome:
        """Send the given calls as fast as they are stored, without faults."""
        self._fleet.start(1)
        parts = [numbers[process::PRODUCERS] for process in range(PRODUCERS)]
        return await self._measure(lambda process: ["--only", ",".join(map(str, parts[process])), "--speed", "0"], None)

    async def _measure(self, which: Callable[[int], list[str]], plan: FaultPlan | None) -> Outcome:
        """`which` gives the arguments of the producer of that number."""
        began = time.monotonic()
        tending = asyncio.create_task(self._tend())
        await self._until_ready()
        client = await connect(self._broker.url)
        done, tending_broker, pacing = Done(), None, None
        try:
            producers = [self._producer(which(process), process) for process in range(PRODUCERS)]
            await self._until_connected()
            self._pacing = plan is not None
            pacing = asyncio.create_task(self._pace(client, producers))
            if plan is not None:
                assert self._world is not None
                faults = Faults(
                    plan,
                    fleet=self._fleet,
                    broker=self._broker,
                    disk=self._disk,
                    client=client,
                    world=self._world,
                    open_calls=self._open_calls,
                    partitions=PARTITIONS,
                    chance=random.Random(self._load.seed),
                )
                done = faults.done
                tending_broker = asyncio.create_task(faults.tend_broker())
                await faults.run()
            self._pacing = False
            await self._until_sent(producers, stop=plan is not None)
            await self._until_completed()
            left = await self._until_acknowledged(client)
            tending.cancel()
            await asyncio.to_thread(self._fleet.end)
            evidence = await read_evidence(client, self._folder / "data")
        finally:
            for task in (tending, tending_broker, pacing):
                if task is not None:
                    task.cancel()
            await client.close()
        return Outcome(
            evidence=evidence,
            calls=self._calls,
            resent=self._resent,
            done=done,
            device_failures=0 if self._world is None else self._world.device_failures(),
            wall_s=time.monotonic() - began,
            left_unacknowledged=left,
            ended_by_themselves=self._fleet.ended_by_themselves,
            ended_badly=self._fleet.ended_badly,
            not_done=self._not_done,
        )

    # -- its parts ---------------------------------------------------------------------------------------------------

    def _make_disk(self, path: Path) -> Disk | None:
        try:
            return Disk(path, DISK_BYTES)
        except OSError as error:
            self._not_done.append(f"the store's disk was not filled: nothing can be mounted here ({error})")
            return None

    def _producer(self, which: list[str], process: int) -> "subprocess.Popen[bytes]":
        load = self._load
        concurrent = load.concurrent // PRODUCERS + (process < load.concurrent % PRODUCERS)
        command = [sys.executable, "-m", "benchmarks.harness.producer", self._broker.url, *which]
        command += ["--concurrent", str(concurrent), "--seed", str(load.seed)]
        command += ["--seconds", *map(str, load.seconds)]
        out = self._stack.enter_context((self._folder / f"producer-{process}.jsonl").open("wb"))
        log = self._stack.enter_context((self._folder / f"producer-{process}.log").open("wb"))
        producer = subprocess.Popen(command, stdout=out, stderr=log, stdin=subprocess.DEVNULL)
        self._stack.callback(producer.wait)
        self._stack.callback(producer.kill)
        return producer

    async def _tend(self) -> None:
        while True:
            self._fleet.tend()
            await asyncio.sleep(0.1)

    async def _until_ready(self) -> None:
        async with asyncio.timeout(300):
            for stage in REQUIRED_NAMES:
                while not any(worker.ready for worker in self._fleet.of(stage)):  # noqa: ASYNC110 - a process's word
                    await asyncio.sleep(0.1)

    def _sent(self, process: int) -> list[str]:
        return (self._folder / f"producer-{process}.jsonl").read_text().splitlines()

    def _open_calls(self) -> list[OpenCall]:
        lines = [json.loads(line) for process in range(PRODUCERS) for line in self._sent(process)]
        ended = {line["number"] for line in lines if "number" in line}
        return [
            OpenCall(CallRef(line["tenant"], call_id_of(line["opened"], self._load.seed)), line["topic"])
            for line in lines
            if "opened" in line and line["opened"] not in ended
        ]

    async def _until_connected(self) -> None:
        async with asyncio.timeout(300):
            while not all(self._sent(process) for process in range(PRODUCERS)):  # noqa: ASYNC110 - a process's word
                await asyncio.sleep(0.1)

    async def _until_sent(self, producers: "list[subprocess.Popen[bytes]]", *, stop: bool) -> None:
        for producer in producers:
            if stop and producer.poll() is None:
                producer.send_signal(signal.SIGTERM)
        for process, producer in enumerate(producers):
            code = await asyncio.to_thread(producer.wait, 1800)
            if code:
                raise NotCompleted(f"producer {process} ended with {code}, see {self._folder}")
            for sent in map(json.loads, self._sent(process)):
                if "number" in sent:
                    self._calls[sent["number"]] = sent["duration_s"]
                    self._resent += sent["resent"]

    async def _until_completed(self) -> None:
        """Wait until the warehouse has all calls and summaries. Raises NotCompleted if nothing moves any more."""
        sql = (
            "SELECT count(*) AS n FROM audio_sessions AS s JOIN summaries AS u ON u.session_id = s.id "
            "AND u.kind = 'final' AND u.revision = s.revision WHERE s.status = 'completed' AND NOT s.provisional"
        )
        completed, moved_at = -1, time.monotonic()
        while completed < len(self._calls):
            asked = await asyncio.to_thread(self._deployment.run, "sql", sql, "--format", "json", check=False)
            now = json.loads(asked.stdout)[0]["n"] if asked.returncode == 0 else completed
            if now != completed:
                completed, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > SETTLES_WITHIN_S:
                shown = await asyncio.to_thread(self._deployment.run, "calls", "--json", check=False)
                (self._folder / "calls.json").write_text(shown.stdout)
                raise NotCompleted(f"{completed} of {len(self._calls)} calls are completed, and nothing moves any more")
            await asyncio.sleep(1.0)

    async def _until_acknowledged(self, client: PlainClient) -> int:
        """Wait until all records are acknowledged. Returns how many are left when time is up."""
        deadline = time.monotonic() + SETTLES_WITHIN_S
        while (left := await _unfinished(client)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(1.0)
        return left

    async def _pace(self, client: PlainClient, producers: "list[subprocess.Popen[bytes]]") -> None:
        going = True
        while self._pacing:
            with contextlib.suppress(*AWAY):
                async with asyncio.timeout(5.0):
                    waiting = await _unfinished(client)
                if self._pacing and (waiting > MOST_WAITING if going else waiting < FEW_WAITING):
                    going = not going
                    for producer in producers:
                        producer.send_signal(signal.SIGUSR1)
            await asyncio.sleep(1.0)


async def _unfinished(client: PlainClient) -> int:
    """Return how many records of all groups are not acknowledged."""
    return sum([await unacknowledged(client, stage, PARTITIONS) for stage in REQUIRED_NAMES])
