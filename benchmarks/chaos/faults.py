"""The faults of a run: their plan, their moments, and what they hit.

Worker faults follow one another after random pauses. Two of three kills come at random; every third waits until its
worker has unacknowledged input. Broker faults come in between, one at a time; workers are killed while the broker is
away, too. Those that leave all processes running are in `gentle_faults`.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.gentle_faults import GentleFaults
from benchmarks.chaos.plan import Done, FaultPlan
from benchmarks.chaos.poison import OpenCall
from benchmarks.chaos.surroundings import World
from benchmarks.harness.brokers import Broker
from benchmarks.harness.clients import AWAY, PlainClient
from benchmarks.harness.workers import Fleet, WorkerProcess
from pipeline.wiring.stage_list import REQUIRED_NAMES, stage_named

MOST_WORKERS = 3
ANSWER_S = 3.0
AIM_S = 10.0
MET_WITHIN_S = 20.0


class _Action(NamedTuple):
    """A fault. If it `lasts`, the next one does not wait for its end."""

    work: Callable[[], Coroutine[Any, Any, None]]
    lasts: bool = False


class Faults:
    """Executes a plan."""

    def __init__(
        self,
        plan: FaultPlan,
        *,
        fleet: Fleet,
        broker: Broker,
        disk: Disk | None,
        client: PlainClient,
        world: World,
        open_calls: Callable[[], list[OpenCall]],
        partitions: int,
        chance: random.Random,
    ) -> None:
        self.done = Done()
        self._gentle = GentleFaults(
            plan,
            self.done,
            world=world,
            fleet=fleet,
            client=client,
            open_calls=open_calls,
            partitions=partitions,
            chance=chance,
        )
        self._plan = plan
        self._fleet = fleet
        self._broker = broker
        self._disk = disk
        self._client = client
        self._chance = chance
        self._broker_turn = asyncio.Lock()

    async def run(self) -> None:
        """Run all faults, until every paused process has been resumed."""
        plan = self._plan
        stages = [REQUIRED_NAMES[index % len(REQUIRED_NAMES)] for index in range(plan.kills - plan.broker_kills)]
        shared = [stage for stage in REQUIRED_NAMES if stage != "sink"]
        some = partial(self._chance.choice, shared)
        actions = [
            *(_Action(partial(self._kill, stage)) for stage in stages),
            *(_Action(partial(self._add, some())) for _ in range(plan.additions)),
            *(_Action(partial(self._remove, some())) for _ in range(plan.removals)),
            *(_Action(self._pause_worker, lasts=True) for _ in range(plan.worker_pauses)),
            *(_Action(partial(self._pause_for_long, some()), lasts=True) for _ in range(plan.long_pauses)),
            *(_Action(work, lasts=True) for work in self._gentle.planned()),
            *(_Action(self._kill_broker, lasts=True) for _ in range(plan.broker_kills)),
            *(_Action(self._pause_broker, lasts=True) for _ in range(plan.broker_pauses)),
            *(_Action(self._fill_disk, lasts=True) for _ in range(plan.disk_fills if self._disk else 0)),
        ]
        self._chance.shuffle(actions)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index, action in enumerate(actions):
                await asyncio.sleep(min(self._chance.expovariate(1 / plan.gap_s), 3 * plan.gap_s))
                working = group.create_task(action.work())
                if not action.lasts:
                    await working
                if index % 10 == 9:
                    self._say(f"{index + 1} of {len(actions)} faults after {time.monotonic() - began:.0f} s")

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _kill(self, stage: str) -> None:
        worker = await self._ready(stage)
        if self.done.kills[stage] % 3 == 2:
            await self._until_busy(worker)
        if worker not in self._fleet.workers:  # it has ended by itself
            worker = await self._ready(stage)
        worker.freeze()
        unacknowledged = await self._unacknowledged(worker)
        self._fleet.kill(worker)
        self.done.kills[stage] += 1
        if unacknowledged is None:
            self.done.unasked[stage] += 1
        elif unacknowledged:
            self.done.hits[stage] += 1
        at_once = stage == "sink" or self._chance.random() < 0.7
        self._fleet.add_later(stage, self._chance.uniform(0, 1) if at_once else self._chance.uniform(5, 15))

    async def _ready(self, stage: str) -> WorkerProcess:
        """Wait for a ready worker of the stage and return it."""
        while True:
            ready = [worker for worker in self._fleet.of(stage) if worker.ready and not worker.frozen]
            if ready:
                return self._chance.choice(ready)
            await asyncio.sleep(0.1)

    async def _until_busy(self, worker: WorkerProcess) -> None:
        """Wait until the worker has unacknowledged input. A stage that holds it briefly is hardly hit by chance."""
        deadline = time.monotonic() + AIM_S
        while time.monotonic() < deadline and not await self._unacknowledged(worker):
            pass

    async def _unacknowledged(self, worker: WorkerProcess) -> int | None:
        """Return how many delivered records the worker has not acknowledged; None if the broker does not answer."""
        held, total = worker.held(), 0
        try:
            async with asyncio.timeout(ANSWER_S):
                for lane in stage_named(worker.stage).lanes:
                    reads = stage_named(worker.stage).subscription(lane)
                    partitions = held.get(reads.group, frozenset())
                    total += (await self._client.backlog(reads.group, reads.topics, partitions)).given
        except AWAY:
            return None
        return total

    async def _add(self, stage: str) -> None:
        if len(self._fleet.of(stage)) < MOST_WORKERS:
            self._fleet.add(stage)
            self.done.additions[stage] += 1

    async def _remove(self, stage: str) -> None:
        there = [worker for worker in self._fleet.of(stage) if not worker.frozen]
        if len(there) > 1:
            self._fleet.remove(self._chance.choice(there))
            self.done.removals[stage] += 1

    async def _pause_worker(self) -> None:
        """Pause any worker, in most cases past its lease: others take over, and then it comes back."""
        stage = self._chance.choice(REQUIRED_NAMES)
        if await self._frozen(stage, self._chance.uniform(*self._plan.worker_pause_s)):
            self.done.worker_pauses[stage] += 1

    async def _pause_for_long(self, stage: str) -> None:
        """Pause a worker past every lease, window and session."""
        pause_s = self._chance.uniform(*self._plan.long_pause_s)
        self._say(f"a worker of {stage} is stopped for {pause_s:.0f} s")
        if await self._frozen(stage, pause_s):
            self.done.long_pauses[stage] += 1

    async def _frozen(self, stage: str, pause_s: float) -> bool:
        worker = await self._ready(stage)
        worker.freeze()
        await asyncio.sleep(pause_s)
        if worker.alive:
            worker.thaw()
        return worker.alive

    # -- the broker --------------------------------------------------------------------------------------------------

    async def _kill_broker(self) -> None:
        async with self._broker_turn:
            self._broker.kill()
            self.done.broker_kills += 1
            await asyncio.sleep(self._chance.uniform(0, 3))
            await asyncio.to_thread(self._broker.start)
            await asyncio.sleep(self._plan.gap_s)

    async def _pause_broker(self) -> None:
        async with self._broker_turn:
            self._broker.pause()
            self._say(f"the broker is paused for {self._plan.broker_pause_s:.0f} s")
            await asyncio.sleep(self._plan.broker_pause_s)
            self._broker.resume()
            self.done.broker_pauses += 1
            await asyncio.sleep(self._plan.gap_s)

    async def _fill_disk(self) -> None:
        """Fill the disk. A broker that gives up is restarted when there is room again, as an operator would."""
        assert self._disk is not None
        async with self._broker_turn:
            await asyncio.to_thread(self._disk.fill)
            self._say(f"the store's disk is full for {self._plan.disk_full_s:.0f} s")
            await asyncio.sleep(self._plan.disk_full_s)
            deadline = time.monotonic() + MET_WITHIN_S
            while await asyncio.to_thread(self._broker.works) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.2)  # nothing has been written yet
            self._disk.free()
            self.done.disk_fills += 1
            await asyncio.sleep(2.0)
            if not await asyncio.to_thread(self._broker.works):
                await self._start_again()
            await asyncio.sleep(self._plan.gap_s)

    async def tend_broker(self) -> None:
        """Restart a broker that gives up late after a full disk. Runs until cancelled."""
        while True:
            async with self._broker_turn:
                if self.done.disk_fills and not self._broker.alive:
                    await self._start_again()
            await asyncio.sleep(1.0)

    async def _start_again(self) -> None:
        self._say("the broker gave up when its disk was full and is restarted")
        self._broker.kill()
        await asyncio.to_thread(self._broker.start)
        self.done.broker_restarts_after_full_disk += 1

    def _say(self, line: str) -> None:
        print(f"  {line}; kills {self.done.kills.total() + self.done.broker_kills}", file=sys.stderr, flush=True)
