"""Faults that leave all processes running: a worker's network, clock and device, and poison on the topics."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from benchmarks.chaos.links import Direction
from benchmarks.chaos.plan import Done, FaultPlan
from benchmarks.chaos.poison import (
    INCOMING,
    READERS,
    OpenCall,
    Poison,
    own_call,
    repeated_number,
    undecodable,
    unusable,
)
from benchmarks.chaos.surroundings import World
from benchmarks.harness.clients import PlainClient, Unsent
from benchmarks.harness.workers import Fleet, WorkerProcess

HOUR_S = 3600
LATENCY_S = (0.02, 0.4)
LATENCY_LASTS_S = (5.0, 20.0)
CUT_LASTS_S = (0.5, 15.0)
PARTITION_LASTS_S = (1.0, 30.0)
LONE_WORKER_LASTS_S = (3.0, 10.0)
DEVICE_FAILS_S = (3.0, 12.0)
CLOCK_OFF_S = (5.0, 20.0)

Work = Callable[[], Coroutine[Any, Any, None]]


class GentleFaults:
    """Executes its part of a plan, and counts it in `done`."""

    def __init__(
        self,
        plan: FaultPlan,
        done: Done,
        *,
        world: World,
        fleet: Fleet,
        client: PlainClient,
        open_calls: Callable[[], list[OpenCall]],
        partitions: int,
        chance: random.Random,
    ) -> None:
        self._plan = plan
        self._done = done
        self._world = world
        self._fleet = fleet
        self._client = client
        self._open_calls = open_calls
        self._partitions = partitions
        self._chance = chance
        self._numbers = itertools.count()

    def planned(self) -> list[Work]:
        """Return the faults of the plan, each to be called once. All topics get poison, if there is enough."""
        plan = self._plan
        return [
            *[self._slow] * plan.latencies,
            *[self._cut] * plan.cuts,
            *[self._partition] * plan.partitions,
            *[self._leave_one] * plan.lone_workers,
            *[self._fail_device] * plan.device_failures,
            *[self._step_clock] * (0 if self._world.clocks_not_stepped else plan.clock_steps),
            *(partial(self._poison, poison) for poison in self._poisons(plan.poisons)),
        ]

    # -- the network -------------------------------------------------------------------------------------------------

    async def _slow(self) -> None:
        worker = await self._undisturbed()
        self._world.of(worker).link.delay_s = self._chance.uniform(*LATENCY_S)
        await self._lasting([worker], LATENCY_LASTS_S)
        self._done.latencies[worker.stage] += 1

    async def _cut(self) -> None:
        worker = await self._undisturbed()
        self._world.of(worker).link.cut()
        await self._lasting([worker], CUT_LASTS_S)
        self._done.cuts[worker.stage] += 1

    async def _partition(self) -> None:
        """Hold what the worker sends, what it is answered, or both."""
        directions: tuple[Direction, ...] = ("both", "both", "requests", "answers")
        worker = await self._undisturbed()
        self._world.of(worker).link.hold(self._chance.choice(directions))
        await self._lasting([worker], PARTITION_LASTS_S)
        self._done.partitions[worker.stage] += 1

    async def _leave_one(self) -> None:
        """Let the broker be reached by one worker only."""
        reaches = await self._undisturbed()
        others = [worker for worker in self._candidates() if worker is not reaches]
        for worker in others:
            self._world.of(worker).link.hold("both")
        await self._lasting(others, LONE_WORKER_LASTS_S)
        self._done.lone_workers[reaches.stage] += 1

    async def _lasting(self, workers: list[WorkerProcess], lasts_s: tuple[float, float]) -> None:
        links = [self._world.of(worker).link for worker in workers]
        for link in links:
            link.disturbed = True
        try:
            await asyncio.sleep(self._chance.uniform(*lasts_s))
        finally:
            for link in links:
                link.mend()
                link.disturbed = False

    def _candidates(self) -> list[WorkerProcess]:
        return [worker for worker in self._fleet.workers if worker.ready and not self._world.of(worker).link.disturbed]

    async def _undisturbed(self) -> WorkerProcess:
        """Wait for a ready worker whose network is as it should be, and return it."""
        while not (candidates := self._candidates()):  # noqa: ASYNC110 - a process's word
            await asyncio.sleep(0.1)
        return self._chance.choice(candidates)

    # -- the machine -------------------------------------------------------------------------------------------------

    async def _fail_device(self) -> None:
        """Let the device of a transcriber fail at every call, then work again."""
        surroundings = self._world.of(await self._transcriber())
        surroundings.break_device()
        await asyncio.sleep(self._chance.uniform(*DEVICE_FAILS_S))
        surroundings.repair_device()
        self._done.device_failures += 1

    async def _transcriber(self) -> WorkerProcess:
        while True:
            ready = [worker for worker in self._fleet.of("transcribe") if worker.ready and not worker.frozen]
            if ready:
                return self._chance.choice(ready)
            await asyncio.sleep(0.1)

    async def _step_clock(self) -> None:
        """Step a worker's clock by an hour in either direction, and back."""
        worker = await self._undisturbed()
        self._world.of(worker).step_clock(self._chance.choice((-HOUR_S, HOUR_S)))
        await asyncio.sleep(self._chance.uniform(*CLOCK_OFF_S))
        self._world.of(worker).step_clock(0)
        self._done.clock_steps[worker.stage] += 1

    # -- poison ------------------------------------------------------------------------------------------------------

    def _poisons(self, n: int) -> list[Callable[[], Poison]]:
        """Return what makes each poison when it is due: both kinds for each topic in turn."""
        kinds: list[Callable[[], Poison]] = []
        for topic in READERS:
            kinds.append(partial(self._undecodable, topic))
            if unusable(0, topic) is not None:
                kinds.append(partial(self._unusable, topic))
            if topic in INCOMING:
                kinds.append(self._repeated_number)
        self._chance.shuffle(kinds)
        return list(itertools.islice(itertools.cycle(kinds), n))

    def _undecodable(self, topic: str) -> Poison:
        number, calls = next(self._numbers), self._open_calls()
        return undecodable(number, topic, self._chance.choice(calls).call if calls else own_call(number))

    def _unusable(self, topic: str) -> Poison:
        made = unusable(next(self._numbers), topic)
        assert made is not None
        return made

    def _repeated_number(self) -> Poison:
        number, calls = next(self._numbers), self._open_calls()
        return (
            repeated_number(number, self._chance.choice(calls))
            if calls
            else undecodable(number, INCOMING[0], own_call(number))
        )

    async def _poison(self, make: Callable[[], Poison]) -> None:
        poison = make()
        self._done.poisons.append(poison)
        while True:
            try:
                await self._publish(poison)
                return
            except Unsent:
                await asyncio.sleep(0.5)

    async def _publish(self, poison: Poison) -> None:
        record = (poison.topic, poison.key, poison.headers, poison.value)
        if poison.topic in INCOMING:
            await self._client.send(*record)
        else:
            await self._client.write(*record, partitions=self._partitions)
