"""How often each kind of fault happens in a run, and how often it has happened."""

from collections import Counter

import msgspec

from benchmarks.chaos.poison import Poison


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How often each fault happens. `kills` counts those of workers and of the broker together."""

    kills: int
    broker_kills: int
    broker_pauses: int
    broker_pause_s: float
    disk_fills: int
    disk_full_s: float
    additions: int
    removals: int
    worker_pauses: int
    worker_pause_s: tuple[float, float]
    long_pauses: int
    long_pause_s: tuple[float, float]
    latencies: int
    cuts: int
    partitions: int
    lone_workers: int
    device_failures: int
    clock_steps: int
    poisons: int
    gap_s: float
    """Between two faults, on average."""


class Done(msgspec.Struct):
    """Faults that happened. `hits`: kills of a worker with unacknowledged records; `unasked`: kills of a worker while
    the broker was away and could not tell.
    """

    kills: Counter[str] = msgspec.field(default_factory=Counter)
    hits: Counter[str] = msgspec.field(default_factory=Counter)
    unasked: Counter[str] = msgspec.field(default_factory=Counter)
    additions: Counter[str] = msgspec.field(default_factory=Counter)
    removals: Counter[str] = msgspec.field(default_factory=Counter)
    worker_pauses: Counter[str] = msgspec.field(default_factory=Counter)
    long_pauses: Counter[str] = msgspec.field(default_factory=Counter)
    latencies: Counter[str] = msgspec.field(default_factory=Counter)
    cuts: Counter[str] = msgspec.field(default_factory=Counter)
    partitions: Counter[str] = msgspec.field(default_factory=Counter)
    lone_workers: Counter[str] = msgspec.field(default_factory=Counter)
    device_failures: int = 0
    clock_steps: Counter[str] = msgspec.field(default_factory=Counter)
    poisons: list[Poison] = []
    broker_kills: int = 0
    broker_pauses: int = 0
    disk_fills: int = 0
    broker_restarts_after_full_disk: int = 0

    def by_kind(self) -> dict[str, int]:
        """Return the table of the report: each kind of fault, and how often it happened."""
        return {
            "worker killed": self.kills.total(),
            "worker added": self.additions.total(),
            "worker removed": self.removals.total(),
            "worker stopped (SIGSTOP), seconds": self.worker_pauses.total(),
            "worker stopped (SIGSTOP), minutes": self.long_pauses.total(),
            "broker killed": self.broker_kills,
            "broker stopped (SIGSTOP)": self.broker_pauses,
            "store's disk full": self.disk_fills,
            "latency of one worker": self.latencies.total(),
            "connections of one worker closed and refused": self.cuts.total(),
            "partition of one worker": self.partitions.total(),
            "partition of all workers but one": self.lone_workers.total(),
            "device failed and came back": self.device_failures,
            "clock stepped by an hour": self.clock_steps.total(),
            **{
                f"poison, {kind}": sum(poison.kind == kind for poison in self.poisons)
                for kind in ("undecodable", "unusable", "number taken")
            },
        }
